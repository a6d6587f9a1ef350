"""Published weights as a run: bit-equal, sampled and exported like any other, and refused where they do not fit."""

from pathlib import Path

import pytest
import torch
from command_line import elm, refused
from golden_models import GOLDEN, load_golden_elm
from safetensors.torch import load_file, save_file

from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.import_model import import_model
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.run_folder import choose_checkpoint
from elm_dist.checkpoint.tokenizer import save_tokenizer
from elm_dist.config import Config
from elm_dist.config_file import dump_config, load_config
from elm_dist.errors import CheckpointError, TokenizerError
from elm_dist.sampling.painter import load_painter
from elm_dist.tokenizers.bae import BAE

TINY = Path(__file__).parents[1] / "tiny_run.yaml"
WEIGHTS = GOLDEN / "ar_2-5.weights.safetensors"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of the golden model 2-5."""
    _, model, _, _ = load_golden_elm("ar_2-5")
    tiny = load_config(TINY, [f"run.directory={tmp_path / 'run'}"])
    tokenizer = tiny.tokenizer.model_copy(update={"code_bits": 10})
    monitoring = tiny.monitoring.model_copy(update={"sample_classes": (0, 1)})
    return tiny.model_copy(update={"model": model, "tokenizer": tokenizer, "monitoring": monitoring})


@pytest.mark.parametrize("wrapped", ["bare", "ema"])
def test_a_pth_becomes_a_run_and_its_export_the_same_bits_again(config: Config, tmp_path: Path, wrapped: str) -> None:
    weights = load_file(WEIGHTS)
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save(weights if wrapped == "bare" else {"ema": weights, "model": other}, tmp_path / "elm.pth")
    (tmp_path / "elm.yaml").write_text(dump_config(config))
    said = elm("import-model", str(tmp_path / "elm.pth"), str(tmp_path / "elm.yaml"))
    count = sum(tensor.numel() for tensor in weights.values())
    assert said.stdout == (f"{tmp_path / 'run'}: {count:,} parameters as the checkpoint of step 0; see `elm sample`\n")
    export_run(tmp_path / "run", tmp_path / "out", "official")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert "| training data | `imported from elm.pth` |" in (tmp_path / "out" / "README.md").read_text()


def test_both_kinds_of_weights_are_the_published_ones(config: Config, tmp_path: Path) -> None:
    import_model(WEIGHTS, config)
    golden, _, _, _ = load_golden_elm("ar_2-5")
    checkpoint = choose_checkpoint(tmp_path / "run", None)
    for weights in ("ema", "raw"):
        model = load_model(checkpoint, config, weights)  # type: ignore[arg-type]
        assert all(torch.equal(tensor, golden.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_it_draws_what_the_published_implementation_drew(config: Config, tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "tokenizer", BAE(config.tokenizer), config.tokenizer)
    import_model(WEIGHTS, config)
    _, _, golden, _ = load_golden_elm("ar_2-5")
    places = [f"tokenizer.directory={tmp_path / 'tokenizer'}"]
    painter = load_painter(tmp_path / "run", overrides=["sampling.top_k=1", "sampling.cfg_scale=4", *places])
    assert torch.equal(painter.draw(golden["classes"], [0, 1]), golden["greedy_linear"])


def test_weights_of_another_model_are_refused(config: Config) -> None:
    with pytest.raises(CheckpointError, match=r"not those of the configuration's model: .*output\.0\.weight is miss"):
        import_model(GOLDEN / "ar_1-6.weights.safetensors", config)
    assert not config.run.directory.exists()


def test_a_run_that_is_there_is_kept(config: Config) -> None:
    import_model(WEIGHTS, config)
    with pytest.raises(CheckpointError, match=r"run is not empty; set run\.directory to a new folder"):
        import_model(WEIGHTS, config)


def test_files_that_are_no_weights_are_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(CheckpointError, match=r"text\.safetensors: this file cannot be read \(.*\); give a file of w"):
        import_model(tmp_path / "text.safetensors", config)
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: this file cannot be read"):
        import_model(tmp_path / "gone.safetensors", config)
    with pytest.raises(TokenizerError, match=r"gone\.pth: this file cannot be read \(No such file or directory\)"):
        import_model(tmp_path / "gone.pth", config)


def test_the_command_says_so_in_one_sentence(config: Config, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "elm.yaml").write_text(dump_config(config))
    said = refused("import-model", str(tmp_path / "other.safetensors"), str(tmp_path / "elm.yaml"))
    assert "a is (1,) and should be absent" in said
