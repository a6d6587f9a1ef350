"""Every file in configs/ is a run that loads and fits its hardware, under a header that tells the truth."""

import re
from pathlib import Path

import pytest

from elm_dist.config_file import dump_config, load_config
from elm_dist.model.cost import count_parameters
from elm_dist.parallel.layout import plan_layout
from elm_dist.planning.hardware import Cluster, find_fabric, find_gpu
from elm_dist.planning.plan import Plan, plan_run

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SIZES = [path for path in CONFIGS if path.stem.startswith("elm_")]

# Exact parameters of the published sizes (paper, tables 7 and 12).
PUBLISHED = {
    "elm_l": 315_648_000,
    "elm_xl": 741_276_160,
    "elm_xxl": 1_390_525_440,
    "elm_2b": 1_909_458_432,
    "elm_3.9b": 3_864_192_000,
    "elm_l_512": 312_502_272,
    "elm_xl_512": 757_004_800,
}


def name_of(path: Path) -> str:
    return path.stem


def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:end])


def number(pattern: str, path: Path) -> float:
    """Return the number that `pattern` finds in the header."""
    found = re.search(pattern, header(path))
    assert found, f"the header of {path.name} lacks {pattern}"
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_it_loads_and_survives_being_written_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_its_first_line_is_its_command(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert re.match(r"# (elm \w+|deepspeed --(num_gpus \d+|hostfile \w+) elm_dist/train\.py --config) configs/", first)
    assert first.endswith(f" configs/{path.name}")


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_its_header_says_what_it_is_and_what_it_takes(path: Path) -> None:
    for label in ("# What: ", "# Hardware: ", "Hours as planned: "):
        assert label in header(path)


@pytest.mark.parametrize("path", SIZES, ids=name_of)
def test_its_parameters_are_counted_right(path: Path) -> None:
    config = load_config(path)
    parameters = count_parameters(config.model, config.tokenizer.grid)
    assert number(r"([\d,]+) parameters", path) == parameters
    assert parameters == PUBLISHED.get(path.stem, parameters)


@pytest.mark.parametrize("path", SIZES, ids=name_of)
def test_its_hours_are_those_of_its_command(path: Path) -> None:
    command = re.search(
        rf"elm plan configs/{path.name} --nodes (\d+) --gpu a100-80gb(?: --fabric (\S+))?\n", header(path)
    )
    assert command
    nodes, fabric = int(command[1]), command[2] or "ib-hdr200"
    assert 8 * nodes == number(r"# Hardware: (\d+) x A100", path)
    plan = planned(path, nodes, fabric)
    assert number(r"Hours as planned: (\d+) at ", path) == round(plan.hours)
    assert number(r" at (\d+) % MFU", path) == round(100 * plan.mfu)
    if nodes > 1:
        assert number(r"one card of 200 Gb/s a node: (\d+)", path) == round(planned(path, nodes, "ib-hdr200").hours)
    assert "not a measurement" in header(path)


def planned(path: Path, nodes: int, fabric: str) -> Plan:
    return plan_run(load_config(path), Cluster(nodes, 8, find_gpu("a100-80gb"), find_fabric(fabric)))


@pytest.mark.parametrize("path", SIZES, ids=name_of)
def test_it_divides_over_its_hardware(path: Path) -> None:
    gpus = int(number(r"# Hardware: (\d+) x A100", path))
    layout = plan_layout(load_config(path), world_size=gpus)
    assert layout.world_size == gpus
    if layout.stages > 1:
        assert layout.replicas % 8 == 0, "a stage fills whole nodes, so that its gradients stay inside"
    else:
        said = re.search(r"# (\d+) GPUs x (\d+)(?: x (\d+))? = 256: ", path.read_text())
        assert said
        assert [int(count or 1) for count in said.groups()] == [gpus, layout.micro_batch_size, layout.accumulation]


def test_the_bubbles_are_the_ones_promised() -> None:
    for path in SIZES:
        promised = re.search(r"\((\d+) - 1\) / \((\d+) \+ \1 - 1\) = (\d+) %", path.read_text())
        layout = plan_layout(load_config(path), world_size=int(number(r"# Hardware: (\d+) x A100", path)))
        assert bool(promised) == (layout.stages > 1)
        if promised:
            stages, micro_batches, percent = map(int, promised.groups())
            assert (stages, micro_batches) == (layout.stages, layout.accumulation)
            assert percent == round(100 * (stages - 1) / (micro_batches + stages - 1))


@pytest.mark.parametrize("path", SIZES, ids=name_of)
def test_its_names_agree(path: Path) -> None:
    config = load_config(path)
    assert config.run.directory == Path("runs") / path.stem
    bits, side = config.tokenizer.code_bits, config.tokenizer.image_size.height
    assert config.tokenizer.directory.name == f"bae_{bits}" + ("" if side == 256 else f"_{side}")
    assert config.data.shards.name == f"imagenet{side}_bae{bits}"
    assert f"{side} x {side}" in header(path)
    codes = f"{config.model.subtokens}-{config.model.subtoken_bits} codes"
    assert codes in header(path)


@pytest.mark.parametrize("name", ["elm_l_512", "elm_xl_512"])
def test_a_larger_image_is_fine_tuned_from_the_run_of_the_same_model(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.tokenizer.grid == (32, 32)
    assert config.schedule.total_steps * config.schedule.global_batch_size // 1_281_167 == 49  # the paper: 50 epochs
    recipes = (load_config(path) for path in (ROOT / "configs" / "experiments").rglob("*.yaml"))
    (start,) = [recipe for recipe in recipes if recipe.run.directory == config.run.init_from]
    assert start.model == config.model
    tokenizers = [
        recipe.tokenizer.model_copy(update={"directory": Path(), "image_size": None, "attention_resolutions": ()})
        for recipe in (start, config)
    ]
    assert tokenizers[0] == tokenizers[1]
    attended = [
        [min(size) in recipe.tokenizer.attention_resolutions for size in recipe.tokenizer.feature_maps]
        for recipe in (start, config)
    ]
    assert attended[0] == attended[1]  # so that the tokenizer of the one has the weights of the other


def test_all_sizes_are_there() -> None:
    names = {"elm_b", "elm_l", "elm_xl", "elm_xxl", "elm_2b", "elm_3.9b", "elm_7b", "elm_l_512", "elm_xl_512"}
    assert {path.stem for path in CONFIGS} >= names | {"demo"}
