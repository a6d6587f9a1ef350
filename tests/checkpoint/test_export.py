"""Exports of a trained run: what is in the folder, that it is bit-equal, and that a failure leaves nothing."""

import json
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import elm, refused
from safetensors.torch import load_file

from elm_dist.checkpoint.export import export_run
from elm_dist.checkpoint.model import load_model
from elm_dist.checkpoint.model_layouts import official_names
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import tokenizer_fingerprint
from elm_dist.config import Config, SamplingConfig
from elm_dist.config_file import load_config
from elm_dist.errors import CheckpointError, SaveError


@pytest.fixture
def config(trained: Path) -> Config:
    return load_config(trained / "config.yaml")


def ours(trained: Path, config: Config) -> dict[str, torch.Tensor]:
    return load_model(Checkpoint(trained / "checkpoints" / "step_00000006"), config, "ema").state_dict()


def plain(said: str) -> str:
    """Return what typer says without its frame."""
    return " ".join(said.replace("│", " ").split())


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_official_names_lead_back_to_the_same_bits(trained: Path, config: Config, tmp_path: Path) -> None:
    said = elm("export", str(trained), "--to", "official", "--out", str(tmp_path / "new" / "out"))
    assert said.stdout == f"{tmp_path / 'new' / 'out'}: ema weights of step 6 in fp32 for official\n"
    published = load_file(tmp_path / "new" / "out" / "model.safetensors")
    back = {name: published.pop(theirs) for name, theirs in official_names(config.model).items()}
    assert not published
    weights = ours(trained, config)
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


def test_the_size_of_files_is_the_users(trained: Path, tmp_path: Path) -> None:
    command = ["export", str(trained), "--to", "safetensors", "--out", str(tmp_path / "out"), "--file-gb"]
    assert "Input should be greater than or equal to 0.0001" in plain(refused(*command, "0.00001"))
    assert elm(*command, "0.0001").code == 0
    assert [file.stat().st_size < 110_000 for file in (tmp_path / "out").glob("*.safetensors")] == [True] * 3


def test_the_model_card_says_what_the_run_is(trained: Path, config: Config, tmp_path: Path) -> None:
    sampling = SamplingConfig(cfg_scale=2.5, top_k=7)
    exported = export_run(trained, tmp_path / "out", "safetensors", sampling=sampling)
    card = (tmp_path / "out" / "README.md").read_text()
    reports = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    loss, bits = next(
        (report["validation/loss"], report["validation/bits_per_code_bit"])
        for report in reports[::-1]
        if "validation/loss" in report
    )
    rows = dict(line[2:-2].split(" | ") for line in card.splitlines() if line.startswith("| ") and line != "| | |")
    assert rows == {
        "parameters": f"{exported.parameters:,}",
        "transformer": "2 layers of 32, 2 heads",
        "images": "32 x 32 pixels, 4 classes",
        "codes": "4 x 4 codes of 2 sub-tokens of 4 bits",
        "trained": "6 steps, 48 images",
        "weights": "averaged over steps, fp32",
        "validation loss": f"{loss:.4f} nats per sub-token, {bits:.4f} bits per code bit, of the weights of step 6",
        "sampling": "cfg_scale 2.5, cfg_schedule linear, cfg_interval (0.0, 1.0), temperature 1.0, top_k 7, top_p 1.0",
        "training data": f"`{exported.checkpoint.facts['data']}`",
        "tokenizer": f"`{tokenizer_fingerprint(config.tokenizer.directory)}`",
        "exported by": "elm-dist 0.1.0",
    }
    assert "# license: whoever publishes these weights names one here" in card


def run_the_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the lines of Python that a model card has, in its folder, and return what they define."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for lines in re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL):
        exec(lines, names)
    return names


def test_the_card_of_our_own_names_builds_the_model(
    trained: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(trained, tmp_path / "out", "safetensors")
    model = run_the_card(tmp_path / "out", monkeypatch)["model"]
    weights = ours(trained, config)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_card_of_the_published_names_makes_the_published_file(
    trained: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(trained, tmp_path / "out", "official", shard_bytes=100_000)
    run_the_card(tmp_path / "out", monkeypatch)
    published = torch.load(tmp_path / "out" / "elm.pth", weights_only=True)
    weights = ours(trained, config)
    assert published.keys() == set(official_names(config.model).values())
    assert all(torch.equal(published[theirs], weights[name]) for name, theirs in official_names(config.model).items())


def test_the_loss_is_that_of_the_checkpoint_and_not_of_later_steps(trained: Path, tmp_path: Path) -> None:
    export_run(trained, tmp_path / "out", "safetensors", step=3, weights="raw")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "bits per code bit, of the weights of step 3 |" in card
    assert "| weights | of the last step, fp32 |" in card


def test_a_run_without_tokenizer_and_metrics_can_be_exported(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    text = (trained / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(trained.parent / "tokenizer"), str(tmp_path / "gone")))
    export_run(run, tmp_path / "out", "official")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| tokenizer | was not at hand |" in card
    assert "validation loss" not in card


@pytest.mark.parametrize("target", ["safetensors", "huggingface", "llama", "official"])
def test_a_folder_that_holds_something_is_refused(trained: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        said = refused("export", str(trained), "--to", target, "--out", str(out))
        assert f"error: {out} is not empty; give a new folder" in said
    assert left_in(tmp_path) == ["notes.txt"]


def test_an_empty_folder_is_taken(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_run(trained, tmp_path / "out", "official")
    assert left_in(tmp_path) == ["out"]
    assert left_in(tmp_path / "out") == ["README.md", "config.json", "model.safetensors"]


def test_other_targets_are_refused(trained: Path, tmp_path: Path) -> None:
    said = refused("export", str(trained), "--to", "onnx", "--out", str(tmp_path / "out"))
    assert "'onnx' is not one of 'safetensors', 'huggingface', 'llama', 'official'" in plain(said)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    said = refused("export", str(tmp_path), "--to", "official", "--out", str(tmp_path / "out"))
    assert f"error: {tmp_path} is not a run: it has no config.yaml; give the run.directory of a training" in said


def test_a_run_without_a_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"has no checkpoint; it has none yet: train it further"):
        export_run(tmp_path / "run", tmp_path / "out", "huggingface")
    assert left_in(tmp_path) == ["run"]


def test_a_configuration_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    text = (trained / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("num_layers: 2", "num_layers: 3"))
    with pytest.raises(
        CheckpointError, match=r"holds no ema of block_2\.attention_norm\.weight; use the configuration"
    ):
        export_run(run, tmp_path / "out", "official")
    assert left_in(tmp_path) == ["run"]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let the system refuse to write more than `size` bytes to a file, as it does where a disk or a quota ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_whole_is_not_there_at_all(trained: Path, tmp_path: Path) -> None:
    cannot = r"out cannot be written \(File too large\); make room, or give a folder on another disk"
    with files_limited_to(100_000), pytest.raises(SaveError, match=cannot):
        export_run(trained, tmp_path / "out", "official")
    assert left_in(tmp_path) == []
    export_run(trained, tmp_path / "out", "official")
    assert left_in(tmp_path) == ["out"]


def test_what_a_killed_export_left_is_cleared(trained: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_text("half")
    export_run(trained, tmp_path / "out", "official")
    assert left_in(tmp_path) == ["out"]


def test_without_transformers_all_but_its_folder_can_be_exported(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    for module in [name for name in sys.modules if name.startswith("elm_dist") and "huggingface" in name]:
        monkeypatch.delitem(sys.modules, module)
    assert elm("export", str(trained), "--to", "official", "--out", str(tmp_path / "official")).code == 0
    said = refused("export", str(trained), "--to", "huggingface", "--out", str(tmp_path / "huggingface"))
    assert "--to huggingface needs transformers, to write what it reads and to check it" in said
    assert "`pip install -e '.[huggingface]'`" in said
    assert left_in(tmp_path) == ["official"]
