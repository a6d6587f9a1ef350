"""Reading and writing configurations: the extends chain, overrides, and every message for what is wrong."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elm_dist.config import Config, ModelConfig
from elm_dist.config_file import SECTIONS, dump_config, load_config
from elm_dist.errors import ConfigError

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
SMALL = """
run: {directory: runs/small}
tokenizer: {directory: tokenizers/small}
data: {shards: shards/small}
model: {num_layers: 2, hidden_size: 32, num_heads: 2, subtokens: 2, subtoken_bits: 8}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.yaml", SMALL)


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, list(overrides))
    first, *rest = str(caught.value).split("\n")
    assert first == f"{path}: {len(rest)} problem{'s' if len(rest) > 1 else ''}"
    return [line.removeprefix("  ") for line in rest]


# --- What is read -----------------------------------------------------------------------------------------------------


def test_what_a_file_leaves_out_has_its_default(small: Path) -> None:
    config = load_config(small)
    assert config.model.num_layers == 2
    assert config.schedule.total_steps == 2_001_823
    assert config.tokenizer_training.batch_size == 256


def test_extends_lays_each_file_over_the_one_below(small: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    middle = write(tmp_path / "more" / "middle.yaml", "extends: ../small.yaml\nmodel: {num_layers: 3, num_heads: 4}")
    top = write(tmp_path / "top.yaml", "extends: more/middle.yaml\nmodel: {num_layers: 5}\nrun: {seed: 7}")
    assert load_config(middle).model.num_layers == 3
    config = load_config(top, ["model.dropout=0.5"])
    assert (config.model.num_layers, config.model.num_heads, config.model.hidden_size) == (5, 4, 32)
    assert (config.run.seed, config.run.directory, config.model.dropout) == (7, Path("runs/small"), 0.5)


def test_a_list_above_replaces_the_list_below(small: Path, tmp_path: Path) -> None:
    low = write(tmp_path / "low.yaml", "extends: small.yaml\nmonitoring: {sample_classes: [1, 2, 3]}")
    top = write(tmp_path / "top.yaml", "extends: low.yaml\nmonitoring: {sample_classes: [9]}")
    assert load_config(low).monitoring.sample_classes == (1, 2, 3)
    assert load_config(top).monitoring.sample_classes == (9,)


def test_overrides_are_read_as_yaml_and_the_last_one_wins(small: Path) -> None:
    config = load_config(
        small,
        [
            "schedule.total_steps=5",
            "schedule.total_steps=1_000",
            "--optimizer.learning_rate=1e-4",  # YAML 1.1 reads this as text
            "optimizer.betas=[0.8, 0.9]",
            "monitoring.tensorboard=false",
            "run.directory=runs/a=b",
        ],
    )
    assert config.schedule.total_steps == 1000
    assert (config.optimizer.learning_rate, config.optimizer.betas) == (1e-4, (0.8, 0.9))
    assert config.monitoring.tensorboard is False
    assert config.run.directory == Path("runs/a=b")


# --- What is refused: the file ----------------------------------------------------------------------------------------


def test_a_missing_file_names_the_nearest_one() -> None:
    near = DEMO.parent / "demmo.yaml"
    with pytest.raises(ConfigError, match=rf"{near}: no such configuration; did you mean {DEMO}\?$"):
        load_config(near)


def test_a_missing_file_names_the_nearest_of_all_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = "configs/experiments/table_12_vocabulary/elm_l_2-8.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"no such configuration; did you mean {DEMO.parents[1]}/{found}\?$"):
        load_config(tmp_path / "elm_l_28.yaml")
    monkeypatch.chdir(DEMO.parents[1])
    with pytest.raises(ConfigError, match=rf"^configs/elm_l_2-8: no such configuration; did you mean {found}\?$"):
        load_config("configs/elm_l_2-8")


def test_a_missing_file_without_a_near_one(tmp_path: Path) -> None:
    message = r"no such configuration; give the path of a YAML file; configs/README\.md lists ours$"
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "qqq.yaml")
    for name in ("one.yaml", "two.yaml"):
        write(tmp_path / name, "{}")
    with pytest.raises(ConfigError, match=r"; there are one\.yaml, two\.yaml; configs/README\.md lists all of ours$"):
        load_config(tmp_path / "qqq.yaml")


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "extends: base/paper.yaml")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/base/paper.yaml: no such configuration"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", r"not valid YAML, mend the file: .*line 1, column 9"),
        ("run: {seed: 2024-13-40}", r"not valid YAML, mend the file: month must be in 1..12"),
        ("model: {num_layers: 1}\nmodel: {num_heads: 2}", r"`model` is given twice in .*bad.yaml\", line 2, column 1"),
        ("? [run]\n: 1", "not valid YAML, mend the file: .*unhashable key"),
        ("!!python/object:os.system x", "not valid YAML, mend the file: could not determine a constructor"),
        ("- run", r"the file must hold sections \(run, tokenizer, .*\), see configs/demo.yaml"),
        ("", "the file must hold sections"),
        ("extends: [a.yaml]", r"`extends:` names one file, relative to this one, as in `extends: base/paper.yaml`"),
    ],
)
def test_a_file_that_cannot_be_understood(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError, match=f"^{path}: .*{message}"):
        load_config(path)


def test_a_folder_or_a_binary_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(.*Is a directory.*\); give the path of a YAML file"):
        load_config(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match=r"cannot be read \('utf-8' codec .*\); give the path of a YAML file"):
        load_config(tmp_path / "image.yaml")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_extends_is_refused(tmp_path: Path, length: int) -> None:
    for index in range(length):
        write(tmp_path / f"{index}.yaml", f"extends: ./{(index + 1) % length}.yaml")
    with pytest.raises(ConfigError, match=r"0.yaml: `extends:` goes round in a circle; remove one of its links"):
        load_config(tmp_path / "0.yaml")


# --- What is refused: keys and values ---------------------------------------------------------------------------------


def test_problems_of_different_kinds_are_reported_in_one_go(tmp_path: Path) -> None:
    text = SMALL.replace("num_heads: 2", "num_head: 2") + "parallel: {precision: fp8}\nsampling: {top_k: -1}"
    path = write(tmp_path / "bad.yaml", text)
    assert problems(path, "schedule.micro_batch_size=24", "run.sede=1", "total_steps=5") == [
        "total_steps=5: an override has the form section.key=value, as in schedule.total_steps=100",
        "run.sede: unknown key; did you mean seed? allowed: directory, seed, init_from, init_weights",
        "model.num_heads: is missing; give it a value",
        "model.num_head: unknown key; did you mean num_heads? allowed: " + ", ".join(ModelConfig.model_fields),
        "parallel.precision: 'fp8' is not allowed; give 'fp32', 'bf16' or 'fp16'",
        "sampling.top_k: -1 is not allowed; give at least 0",
        "schedule.global_batch_size: 256 images are no multiple of micro_batch_size 24; choose a multiple of it",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("run.seed=-1", "-1 is not allowed; give at least 0"),
        ("run.seed=4294967296", "4294967296 is not allowed; give less than 4294967296"),
        ("run.directory=3", "3 is not allowed; give a path"),
        ("tokenizer.code_bits=65", "65 is not allowed; give at most 64"),
        ("tokenizer.base_channels=33", "33 is not allowed; give a multiple of 32"),
        ("tokenizer.channel_multipliers=2", "2 is not allowed; give a list, as in [1, 2]"),
        ("tokenizer.channel_multipliers=[]", "[] is not allowed; give a list of at least 1"),
        ("optimizer.betas=[0.9, 0.9, 0.9]", "[0.9, 0.9, 0.9] is not allowed; give a list of at most 2"),
        ("optimizer.learning_rate=fast", "'fast' is not allowed; give a number"),
        ("optimizer.learning_rate=0", "0 is not allowed; give more than 0.0"),
        ("optimizer.learning_rate=.inf", "inf is not allowed; give a finite number"),
        ("schedule.total_steps=many", "'many' is not allowed; give a whole number"),
        ("schedule.total_steps=2.5", "2.5 is not allowed; give a whole number"),
        ("schedule.total_steps=", "None is not allowed; give a whole number"),
        ("monitoring.tensorboard=maybe", "'maybe' is not allowed; give true or false"),
        ("data.class_dropout=1", "1 is not allowed; give less than 1.0"),
        ("checkpoint.every=-1", "-1 is not allowed; give a whole number of at least 0, or auto"),
        ("checkpoint.every=automatic", "'automatic' is not allowed; give a whole number of at least 0, or auto"),
        ("checkpoint.every=true", "True is not allowed; give a whole number of at least 0, or auto"),
    ],
)
def test_a_refused_value_says_what_is_allowed(small: Path, override: str, problem: str) -> None:
    assert problems(small, override) == [f"{override.partition('=')[0]}: {problem}"]


def test_an_entry_of_a_list_is_named_by_its_place(small: Path) -> None:
    assert problems(small, "optimizer.betas=[0.9, 1]", "monitoring.sample_classes=[0, x]") == [
        "optimizer.betas.1: 1 is not allowed; give less than 1.0",
        "monitoring.sample_classes.1: 'x' is not allowed; give a whole number",
    ]
    assert problems(small, "optimizer.betas=[0.9]") == ["optimizer.betas.1: is missing; give it a value"]


def test_missing_sections_are_listed_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.yaml", "run: {directory: runs/bare}")
    missing = ["tokenizer.directory", "data.shards"]
    missing += [f"model.{key}" for key in ("num_layers", "hidden_size", "num_heads", "subtokens", "subtoken_bits")]
    assert problems(path) == [f"{key}: is missing; give it a value" for key in missing]


def test_unknown_sections_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", SMALL + "modell: {}\nextend: small.yaml\nq: 1\n7: 1")
    allowed = f"allowed: extends, {', '.join(SECTIONS)}"
    assert problems(path) == [
        f"modell: unknown key; did you mean model? {allowed}",
        f"extend: unknown key; did you mean extends? {allowed}",
        f"q: unknown key; {allowed}",
        f"7: unknown key; {allowed}",
    ]


def test_a_key_must_be_text(small: Path) -> None:
    path = write(small.parent / "top.yaml", "extends: small.yaml\nrun: {1: 2}")
    assert problems(path) == ["run.1: unknown key; allowed: directory, seed, init_from, init_weights"]


@pytest.mark.parametrize("value", ["3", "[1]", "", "2024-01-01"])
def test_a_section_must_hold_keys(small: Path, value: str) -> None:
    path = write(small.parent / "top.yaml", f"extends: small.yaml\nschedule: {value}")
    message = "schedule: must be a section with keys, such as total_steps, global_batch_size, micro_batch_size"
    assert problems(path, "schedule.total_steps=5") == [message]


@pytest.mark.parametrize("override", ["schedule", "schedule.total_steps", "total_steps=5", "schedule.=5", ""])
def test_an_override_must_have_its_form(small: Path, override: str) -> None:
    form = "an override has the form section.key=value, as in schedule.total_steps=100"
    assert problems(small, override) == [f"{override}: {form}"]


def test_an_override_must_be_yaml(small: Path) -> None:
    assert problems(small, "optimizer.betas=[0.9", "run.seed=2024-13-40") == [
        "optimizer.betas: '[0.9' is not a YAML value; quote it, or write lists as [1, 2]",
        "run.seed: '2024-13-40' is not a YAML value; quote it, or write lists as [1, 2]",
    ]


# --- Properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    directory=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    classes=st.lists(st.integers(0, 999)),
    seed=st.integers(0, 2**32 - 1),
    tensorboard=st.booleans(),
)
def test_what_is_written_reads_back_equal(
    small: Path, learning_rate: float, directory: str, classes: list[int], seed: int, tensorboard: bool
) -> None:
    tree = load_config(small).model_dump()
    tree["run"] |= {"directory": directory, "seed": seed}
    tree["optimizer"] |= {"learning_rate": learning_rate}
    tree["monitoring"] |= {"sample_classes": classes, "tensorboard": tensorboard}
    config = Config.model_validate(tree)
    assert load_config(write(small.parent / "back.yaml", dump_config(config))) == config


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = [(section, key) for section, kind in SECTIONS.items() for key in kind.model_fields]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_no_value_ends_in_a_traceback(small: Path, key: tuple[str, str], value: Any) -> None:
    section, field = key
    path = write(small.parent / "fuzz.yaml", "extends: small.yaml\n" + yaml.safe_dump({section: {field: value}}))
    with contextlib.suppress(ConfigError):
        load_config(path)
