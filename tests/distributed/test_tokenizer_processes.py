"""The tokenizer on several processes: the gradients of one process, a stop that all agree on, and an exact resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from photographs import write_tiles
from processes import WORKERS, processes_of, run_processes
from safetensors.torch import load_file
from skimage import data
from tokenizer_worker import CASES
from torch import Tensor

from elm_dist.parallel.environment import free_port

WORKER = str(WORKERS / "tokenizer_worker.py")


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Return the state of each case after one update of the same four tiles, by (case, number of processes)."""
    root = tmp_path_factory.mktemp("states")
    pixels = data.astronaut()[:64, :64].reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3)
    torch.save(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, root / "tiles.pt")
    found = {}
    for world_size in (1, 2):
        out = root / str(world_size)
        run_processes(world_size, [WORKER, str(out), "1", str(root / "tiles.pt")])
        for case in CASES:
            by_rank = [load_file(out / case / str(rank) / "step_00000001.safetensors") for rank in range(world_size)]
            assert all(torch.equal(by_rank[0][name], by_rank[-1][name]) for name in by_rank[0])
            found[case, world_size] = by_rank[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_one(states: dict[tuple[str, int], dict[str, Tensor]], case: str) -> None:
    one, two = states[case, 1], states[case, 2]
    for net in ("tokenizer", "discriminator"):
        moments = [name for name in one if name.startswith(f"adam.{net}.") and name.endswith(".exp_avg")]
        # After one update: a tenth of the gradient. As one vector, for biases before a norm have rounding errors alone.
        first, second = (torch.cat([state[name].flatten() for name in moments]) for state in (one, two))
        assert (first - second).norm() < 5e-6 * first.norm()
    assert torch.equal(one["unused"], two["unused"])


def test_revived_entries_are_the_same_on_any_number_of_processes(
    states: dict[tuple[str, int], dict[str, Tensor]],
) -> None:
    one, two = (states["vqgan", count]["average.codebook.weight"] for count in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert (states["vqgan", 1]["unused"] == 0).all()


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the command of a training of 12 steps, but for the folder of the tokenizer."""
    settings = [
        f"tokenizer_training.images={write_tiles(tmp_path / 'images', train=2, validation=1)}",
        "tokenizer.base_channels=32",
        "tokenizer.embedding_channels=32",
        "tokenizer_training.batch_size=4",
        "tokenizer_training.total_steps=12",
        "tokenizer_training.checkpoint_every=2",
        "tokenizer_training.loader_workers=0",
        "monitoring.tensorboard=false",
        "parallel.device=cpu",
        "parallel.timeout_minutes=1",
    ]
    return ["-m", "elm_dist", "tokenizer", "train", "configs/demo.yaml", *settings]


def test_a_signal_to_any_process_stops_all_and_the_next_start_goes_on(tmp_path: Path, command: list[str]) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    run_processes(2, [*command, f"tokenizer.directory={undisturbed}"])

    state = stopped / "training" / "state.json"
    with processes_of(2, [*command, f"tokenizer.directory={stopped}"]) as processes:
        deadline = time.monotonic() + 60
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "; the same command goes on" in outputs[0]
    assert outputs[1].strip() == ""  # one process speaks
    assert 2 <= json.loads(state.read_text())["step"] < 12
    assert not (stopped / "model.safetensors").exists()

    run_processes(2, [*command, f"tokenizer.directory={stopped}"])
    files = [directory / "model.safetensors" for directory in (undisturbed, stopped)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not state.exists()


@pytest.mark.parametrize(
    "launcher",
    [
        ["torchrun", "--nproc_per_node", "2", "--master_port", "PORT", "-m"],
        ["deepspeed", "--quiet", "--num_gpus", "2", "--master_port", "PORT", "--no_local_rank", "--module"],
    ],
    ids=["torchrun", "deepspeed"],
)
def test_launchers_start_it(tmp_path: Path, command: list[str], launcher: list[str]) -> None:
    name, *options = [str(free_port()) if option == "PORT" else option for option in launcher]
    tokenizer = tmp_path / "tokenizer"
    result = subprocess.run(
        [
            *(str(Path(sys.executable).parent / name), *options, *command[1:]),
            *(f"tokenizer.directory={tokenizer}", "tokenizer_training.total_steps=2"),
        ],
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert (tokenizer / "model.safetensors").exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path, command: list[str]) -> None:
    with processes_of(2, [*command, f"tokenizer.directory={tmp_path}", "tokenizer_training.batch_size=3"]) as started:
        outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [2, 2]
    expected = "tokenizer_training.batch_size=3 does not divide over 2 processes; make it a multiple of 2, or start"
    assert expected in outputs[0]
