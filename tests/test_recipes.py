"""Every recipe of configs/experiments loads, fits its hardware, counts right and trains, and the index leads to it."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import elm
from documents import ROOT, links

from elm_dist.config import SamplingConfig
from elm_dist.config_file import dump_config, load_config
from elm_dist.model.cost import count_parameters
from elm_dist.model.elm import ELM, layer_specs
from elm_dist.sampling.presets import load_presets

EXPERIMENTS = ROOT / "configs" / "experiments"
RECIPES = sorted(EXPERIMENTS.rglob("*.yaml"))
FULL = [path for path in RECIPES if not path.stem.endswith("_demo")]
INDEX = ROOT / "configs" / "README.md"

# Parameters and FID of table 12; masked models have those of the published files without their unused positions.
PUBLISHED = {
    "elm_l_1-16": (443_574_272, "2.38"),
    "elm_l_2-8": (312_502_272, "2.34"),
    "elm_l_2-12": (328_230_912, "2.34"),
    "elm_xl_1-16": (900_528_640, "2.14"),
    "elm_xl_2-8": (737_344_000, "2.01"),
    "elm_xl_2-12": (757_004_800, "1.79"),
    "elm_xl_3-8": (739_637_760, "1.99"),
    "elm_xxl_1-16": (1_561_967_616, "2.10"),
    "elm_xxl_2-10": (1_371_651_072, "1.65"),
    "elm_xxl_3-8": (1_370_078_208, "1.67"),
    "elm_xxl_4-8": (1_373_223_936, "2.02"),
    "mlm_l_1-16": (377_845_761 - 256 * 1024, "3.67"),
    "mlm_xl_1-16": (818_679_297 - 256 * 1280, "3.13"),
    "mlm_xxl_1-16": (1_464_128_513 - 256 * 1536, "3.12"),
}


def name_of(path: Path) -> str:
    return path.stem


every_recipe = pytest.mark.parametrize("path", RECIPES, ids=name_of)
every_full_recipe = pytest.mark.parametrize("path", FULL, ids=name_of)


def header(path: Path) -> list[str]:
    """Return the comment that opens the file, without its marks."""
    lines = path.read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:end]]


def number(pattern: str, path: Path) -> float:
    """Return the number that `pattern` finds in the header."""
    found = re.search(pattern, "\n".join(header(path)))
    assert found, f"the header of {path.name} lacks {pattern}"
    return float(found[1].replace(",", ""))


@every_recipe
def test_it_loads_and_survives_being_written_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@every_recipe
def test_its_header_says_its_command_and_what_it_is_and_takes(path: Path) -> None:
    command, what, *rest = header(path)
    start = (
        r"elm (train|demo)" if path not in FULL else r"deepspeed --(num_gpus 8|hostfile hostfile) .*train\.py --config"
    )
    assert re.fullmatch(rf"{start} {path.relative_to(ROOT)}", command)
    assert what.startswith("What: ")
    assert any(line.startswith("Hours as planned: ") for line in rest)


@every_recipe
def test_its_parameters_are_counted_right(path: Path) -> None:
    config = load_config(path)
    with torch.device("meta"):
        built = sum(
            parameter.numel() for parameter in ELM(layer_specs(config.model, config.tokenizer.grid)).parameters()
        )
    assert number(r"([\d,]+) parameters", path) == built == count_parameters(config.model, config.tokenizer.grid)
    published, fid = PUBLISHED.get(path.stem, (built, ""))
    assert built == published
    assert fid in header(path)[1]


@every_full_recipe
def test_it_fits_its_hardware_as_its_command_plans(path: Path) -> None:
    command = next(line for line in header(path) if line.startswith("elm plan "))
    assert str(path.relative_to(ROOT)) in command
    result = elm(*shlex.split(command)[1:], "--json")
    assert result.code == 0, result
    plan = json.loads(result.stdout)
    assert plan["fits"]
    assert number(r"Hours as planned: ([\d.]+) on", path) == pytest.approx(plan["hours"], rel=0.03, abs=0.05)
    assert number(r"on (\d+) x A100 80 GB", path) == 8 * number(r"--nodes (\d+)", path)


@every_recipe
def test_its_names_agree(path: Path) -> None:
    config = load_config(path)
    assert config.run.directory == Path("runs") / path.stem
    codes = f"{config.model.subtokens}-{config.model.subtoken_bits}"
    assert f"{codes} codes" in header(path)[1] or path.stem.endswith("_demo")
    if path in FULL:
        tokenizer = config.tokenizer
        size = tokenizer.codebook_size or tokenizer.code_bits
        assert tokenizer.directory == Path("tokenizers") / f"{tokenizer.kind}_{size}"
        assert f"256_{tokenizer.kind}{size}" in config.data.shards.name


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_samples_as_the_preset_of_its_name(name: str) -> None:
    (path,) = EXPERIMENTS.rglob(f"{name}.yaml")
    assert load_config(path).sampling == SamplingConfig(**load_presets()[name].sampling)


def test_names_are_given_once() -> None:
    stems = [path.stem for path in [*RECIPES, *(ROOT / "configs").glob("*.yaml")]]
    assert len(stems) == len(set(stems))


def test_the_demos_take_the_tokenizer_of_the_demo_or_make_their_own() -> None:
    demo = load_config(ROOT / "configs" / "demo.yaml")
    for path in set(RECIPES) - set(FULL):
        config = load_config(path)
        if header(path)[0].startswith("elm demo "):
            assert config.tokenizer.directory.is_relative_to(config.run.directory)
        else:
            assert config.tokenizer == demo.tokenizer
            assert config.schedule.total_steps == demo.schedule.total_steps


def test_the_index_leads_to_every_recipe_and_names_its_result() -> None:
    text = INDEX.read_text()
    there = {(INDEX.parent / target.partition("#")[0]).resolve() for target in links(text)}
    assert not [path for path in there if not path.exists()]
    sizes = {path for path in INDEX.parent.glob("elm_*.yaml")}
    assert not [name_of(path) for path in {*RECIPES, *sizes} - there]
    for path in [*FULL, *sizes]:
        if found := re.search(r"paper: FID\S* ([\d.]+)\)", "\n".join(header(path))):
            assert f"[{found[1]}]({path.relative_to(INDEX.parent)})" in text, path


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, float, float]]:
    """What `recipe_worker.py` found of each recipe: bits of a sub-token, loss of the first step, and after it."""
    out = tmp_path_factory.mktemp("steps")
    command = [sys.executable, str(Path(__file__).parent / "recipe_worker.py"), str(out), *map(str, RECIPES)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return {Path(recipe).stem: values for recipe, values in json.loads((out / "steps.json").read_text()).items()}


@every_recipe
def test_a_step_teaches_it_something(path: Path, steps: dict[str, tuple[int, float, float]]) -> None:
    bits, first, after = steps[path.stem]
    is_masked = load_config(path).model.modelling == "masked"  # whose output is not quite zero at first
    assert first == pytest.approx(bits * math.log(2), rel=0.01 if is_masked else 1e-5)
    assert after < first - 0.005
