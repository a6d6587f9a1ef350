"""Every preset against table 15 of the paper, and which of them a run gets."""

import logging
from pathlib import Path

import pytest

from elm_dist.config import Config, Grid, ModelConfig, SamplingConfig
from elm_dist.config_file import dump_config, load_config
from elm_dist.errors import CheckpointError, ConfigError
from elm_dist.model.cost import count_parameters
from elm_dist.sampling.presets import PRESETS, load_config_to_sample, load_presets

CONFIGS = PRESETS.parent
PRESET_NAMES = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]

# (cfg_scale, top_k) of table 15, all of them linear at temperature 1; the 2B is not in it. Masked models have tau, too.
TABLE_15 = {
    **dict.fromkeys(["elm_l_1-16", "elm_xl_1-16", "elm_xxl_1-16"], (3, 0)),
    "elm_l_2-8": (4, 0),
    **dict.fromkeys(["elm_xl_2-8", "elm_xxl_2-8"], (4, 210)),
    "elm_l_2-10": (4, 0),
    **dict.fromkeys(["elm_xl_2-10", "elm_xxl_2-10"], (5, 0)),
    **dict.fromkeys(["elm_l_2-12", "elm_xl_2-12", "elm_xxl_2-12", "elm_2b_2-12"], (5, 2800)),
    **dict.fromkeys(["elm_xl_3-8", "elm_xxl_3-8", "elm_xxl_4-8"], (5, 180)),
    **dict.fromkeys(["mlm_l_1-16", "mlm_xl_1-16", "mlm_xxl_1-16"], (3, 0)),
}
TABLE_15_TAU = {"mlm_l_1-16": 9, "mlm_xl_1-16": 5, "mlm_xxl_1-16": 5}


def test_all_of_table_15_is_there() -> None:
    assert set(PRESET_NAMES) == set(TABLE_15)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_what_its_name_and_the_table_say(name: str) -> None:
    preset = load_presets()[name]
    sampling = SamplingConfig(**preset.sampling)
    assert (sampling.cfg_scale, sampling.top_k) == TABLE_15[name]
    assert (sampling.cfg_schedule, sampling.temperature, sampling.top_p) == ("linear", 1, 1)
    assert name.endswith(f"_{preset.model['subtokens']}-{preset.model['subtoken_bits']}")
    model = ModelConfig(**preset.model, num_heads=preset.model["hidden_size"] // 64)
    assert sampling.top_k <= model.vocabulary
    assert (model.modelling == "masked") == name.startswith("mlm_") == (name in TABLE_15_TAU)
    if model.modelling == "masked":
        assert (sampling.iterations, sampling.mask_temperature) == (10, TABLE_15_TAU[name])
    size = {"l": 0.3e9, "xl": 0.7e9, "xxl": 1.3e9, "2b": 1.9e9}[name.split("_")[1]]
    assert size < count_parameters(model, Grid(16, 16)) < 1.5 * size
    assert (PRESETS / f"{name}.yaml").read_text().startswith(f"# elm sample RUN --preset {name}\n")


def run_of(config: Config, directory: Path) -> Path:
    (directory / "config.yaml").write_text(dump_config(config))
    return directory


def test_a_run_of_the_papers_model_gets_its_preset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = ["sampling.cfg_scale=4.0", "sampling.top_k=0"]
    run = run_of(load_config(CONFIGS / "elm_xxl.yaml", overrides), tmp_path)
    with caplog.at_level(logging.INFO):
        config = load_config_to_sample(run, None, ["sampling.cfg_scale=2"])
    assert config.sampling == SamplingConfig(cfg_scale=2, top_k=2800)  # the command line comes last
    assert "sampling as preset elm_xxl_2-12 has it: " in caplog.text


def test_a_masked_run_gets_the_preset_of_masked_models(tmp_path: Path) -> None:
    tokens = ["tokenizer.code_bits=16", "model.subtokens=1", "model.subtoken_bits=16"]
    masked = [*tokens, "model.modelling=masked", "sampling.cfg_scale=4", "sampling.top_k=0"]
    run = run_of(load_config(CONFIGS / "elm_xl.yaml", masked), tmp_path)
    assert load_config_to_sample(run, None, []).sampling == SamplingConfig(cfg_scale=3, mask_temperature=5)
    plain = run_of(load_config(CONFIGS / "elm_xl.yaml", [*tokens, "sampling.cfg_scale=4"]), tmp_path)
    assert load_config_to_sample(plain, None, []).sampling == SamplingConfig(cfg_scale=3)


def test_a_run_with_sampling_of_its_own_keeps_it(tmp_path: Path) -> None:
    run = run_of(load_config(CONFIGS / "elm_xxl.yaml", ["sampling.cfg_scale=1.5", "sampling.top_k=0"]), tmp_path)
    assert load_config_to_sample(run, None, []).sampling == SamplingConfig(cfg_scale=1.5)
    assert load_config_to_sample(run, "elm_xl_3-8", []).sampling == SamplingConfig(cfg_scale=5, top_k=180)


@pytest.mark.parametrize("size", ["l", "xl", "xxl", "2b"])
def test_the_configurations_of_the_paper_sample_as_their_presets(size: str) -> None:
    config = load_config(CONFIGS / f"elm_{size}.yaml")
    preset = next(preset for preset in load_presets().values() if preset.is_for(config.model))
    assert preset.name.startswith(f"elm_{size}_")
    assert config.sampling == SamplingConfig(**preset.sampling)


def test_another_model_has_no_preset(tmp_path: Path) -> None:
    run = run_of(load_config(CONFIGS / "elm_b.yaml"), tmp_path)
    assert load_config_to_sample(run, None, []) == load_config(CONFIGS / "elm_b.yaml")


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    run = run_of(load_config(CONFIGS / "elm_l.yaml"), tmp_path)
    message = r"--preset: there is no elm_l_2_10; did you mean elm_l_2-10\? there are elm_2b_2-12, "
    with pytest.raises(ConfigError, match=message):
        load_config_to_sample(run, "elm_l_2_10", [])


def test_a_preset_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    run = run_of(load_config(CONFIGS / "demo.yaml"), tmp_path)
    with pytest.raises(ConfigError, match=r"sampling\.top_k: 2800 is more than the 256 entries"):
        load_config_to_sample(run, "elm_l_2-12", [])


def test_a_folder_that_is_no_run_has_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a run: it has no config\.yaml"):
        load_config_to_sample(tmp_path, None, [])
