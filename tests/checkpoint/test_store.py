import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_process import Divided, OneProcess, Tensors
from safetensors.torch import load_file

from elm_dist.checkpoint.store import Checkpoint, CheckpointStore, newest_good
from elm_dist.config import CheckpointConfig
from elm_dist.errors import CheckpointError

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "checkpoints.md"


def save(directory: Path, *steps: int, keep_last: int = 3, keep_every: int = 0) -> OneProcess:
    process = OneProcess()
    store = CheckpointStore(directory, CheckpointConfig(keep_last=keep_last, keep_every=keep_every))
    for step in steps:
        process.state.values["weights", "a.weight"] += 1
        store.save(process, step, {"samples_seen": 8 * step})
        store.wait()
    return process


def load(directory: Path, process: OneProcess | None = None) -> Checkpoint | None:
    return CheckpointStore(directory, CheckpointConfig()).load(process or OneProcess())


def test_what_is_loaded_equals_what_was_saved(tmp_path: Path) -> None:
    saved, fresh = save(tmp_path, 5), OneProcess()
    checkpoint = load(tmp_path, fresh)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.facts) == (5, {"samples_seen": 40})
    assert all(torch.equal(fresh.state.values[key], value) for key, value in saved.state.values.items())


def test_any_safetensors_reader_reads_the_weights(tmp_path: Path) -> None:
    saved = save(tmp_path, 5)
    tensors = load_file(tmp_path / "step_00000005" / "weights-00000.safetensors")
    assert set(tensors) == {"a.weight", "b.weight"}
    assert torch.equal(tensors["b.weight"], saved.state.values["weights", "b.weight"])


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A checkpoint of tensors of 12 elements, each cut into five pieces."""
    ranks = [OneProcess(Divided(part=rank, parts=5), rank, 5) for rank in range(5)]
    stores = [CheckpointStore(tmp_path, CheckpointConfig()) for _ in ranks]
    for rank, store in zip(ranks, stores, strict=True):
        store.save(rank, 7, {})
    for store in stores:
        store.wait()
    return tmp_path / "step_00000007"


def test_pieces_are_read_as_a_whole_and_across_their_bounds(divided: Path) -> None:
    checkpoint = Checkpoint(divided)
    assert len(checkpoint.files) == 10
    for (kind, name), value in Tensors().values.items():
        assert torch.equal(checkpoint.read(kind, name, value.shape), value)
        assert torch.equal(checkpoint.read_span(kind, name, value.shape, 3, 11), value.view(-1)[3:11])


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_pieces_are_laid_over_any_other_division(divided: Path, parts: int) -> None:
    """Of a rank's tensors its own piece is filled, and no more."""
    for part in range(parts):
        process = OneProcess(Divided(part=part, parts=parts))
        for value in process.state.values.values():
            value.zero_()
        load(divided.parent, process)
        for (kind, name), value in Tensors().values.items():
            bounds = slice(12 * part // parts, 12 * (part + 1) // parts)
            expected = torch.zeros(12)
            expected[bounds] = value.view(-1)[bounds]
            assert torch.equal(process.state.values[kind, name].view(-1), expected)


def test_the_reader_in_the_documentation_reads_it(divided: Path) -> None:
    code = DOCUMENTATION.read_text().partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    for (kind, name), value in Tensors().values.items():
        assert np.array_equal(scope["read"](divided, kind, name), value.numpy())


def test_a_tensor_with_a_piece_missing_is_not_read(divided: Path) -> None:
    path = divided / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["weights-00003.safetensors"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"holds no weights of a\.weight"):
        Checkpoint(divided).read("weights", "a.weight", torch.Size([3, 4]))


def test_no_checkpoint_yet_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path / "never") is None


def test_latest_names_the_newest_and_nothing_half_written_stays(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    assert (tmp_path / "latest").read_text() == "step_00000002"
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step_00000001", "step_00000002"}
    files = {path.name for path in (tmp_path / "step_00000002").iterdir()}
    assert files == {"manifest.json", "weights-00000.safetensors", "ema-00000.safetensors"}


def test_old_checkpoints_go_but_for_those_kept_forever(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, 6, keep_last=2, keep_every=3)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000003", "step_00000005", "step_00000006"]


def test_the_first_checkpoint_past_each_period_is_kept_forever(tmp_path: Path) -> None:
    """As with `every: auto`, which hits no round step."""
    save(tmp_path, 4, 9, 11, 14, 18, 23, 24, 25, keep_last=1, keep_every=10)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000011", "step_00000023", "step_00000025"]


def test_an_interrupted_save_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1)
    partial = tmp_path / ".step_00000002.partial"
    partial.mkdir()
    (partial / "weights-00000.safetensors").write_bytes(b"half")
    checkpoint = load(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    save(tmp_path, 2)
    assert not partial.exists()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    again = save(tmp_path, 1, 1)
    fresh = OneProcess()
    assert load(tmp_path, fresh) is not None
    assert torch.equal(fresh.state.values["weights", "a.weight"], again.state.values["weights", "a.weight"])


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "torn", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2)
    victim = tmp_path / "step_00000002" / "ema-00000.safetensors"
    if how == "flipped":
        flip_byte(victim)
    elif how == "torn":
        victim.write_bytes(victim.read_bytes()[:50])
    else:
        victim.unlink()
    checkpoint = load(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert f"{victim} is missing or damaged" in caplog.text


def test_when_all_are_damaged_the_run_does_not_start_over(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("step_*/weights-*"):
        flip_byte(path)
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints is intact: .*step_00000002.* or delete"):
        load(tmp_path)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step_00000001" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing or damaged \(.*\); delete the folder"):
        Checkpoint(tmp_path / "step_00000001")


def test_another_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step_00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99; this version reads format 2: use the version"):
        Checkpoint(tmp_path / "step_00000001")


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    process = OneProcess(Tensors(names=["a.weight", "c.weight"]))
    with pytest.raises(CheckpointError, match=r"holds no weights of c\.weight; use the configuration"):
        load(tmp_path, process)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match=r"a\.weight has shape \[3, 4\], .* makes it \[4, 4\]; use"):
        checkpoint.read("weights", "a.weight", torch.Size([4, 4]))
