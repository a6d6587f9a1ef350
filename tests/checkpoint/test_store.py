import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elm_dist.checkpoint.store import Checkpoint, CheckpointStore, newest_good
from elm_dist.config import CheckpointConfig
from elm_dist.errors import CheckpointError


@dataclass
class Tensors:
    """Two weights and their averages, held by one process."""

    kinds: list[str] = field(default_factory=lambda: ["weights", "ema"])
    names: list[str] = field(default_factory=lambda: ["a.weight", "b.weight"])
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for kind in self.kinds:
            for name in self.names:
                self.values[kind, name] = torch.randn(3, 4, generator=generator)

    def gather(self, kind: str, name: str) -> Tensor:
        return self.values[kind, name]

    def scatter(self, kind: str, name: str, value: Tensor) -> None:
        self.values[kind, name] = value.clone()

    def shape(self, name: str) -> torch.Size:
        return self.values["weights", name].shape


@dataclass
class OneProcess:
    """A world of one process, as far as the store needs to know it."""

    state: Tensors = field(default_factory=Tensors)
    rank: int = 0
    world_size: int = 1
    replica: int = 0
    replicas: int = 1

    @property
    def layout(self) -> "OneProcess":
        return self

    def barrier(self) -> None:
        pass

    def agree(self, here: bool) -> bool:
        return here


def save(directory: Path, *steps: int, keep_last: int = 3, keep_every: int = 0) -> OneProcess:
    process = OneProcess()
    store = CheckpointStore(directory, CheckpointConfig(keep_last=keep_last, keep_every=keep_every))
    for step in steps:
        process.state.values["weights", "a.weight"] += 1
        store.save(process, step, {"samples_seen": 8 * step})
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
    with pytest.raises(CheckpointError, match="has format 99; this version reads format 1: use the version"):
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
