"""Every command of the README runs, as it is written there, on a chain that is made small.

The commands run in their order in a scratch folder that looks like the repository, but whose configs/demo.yaml extends
the real one with tiny sizes and whose data/cifar10 holds a few tiles of photographs.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from documents import ROOT, bash_commands
from photographs import write_tiles

README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

SMALL = """
extends: {root}/configs/demo.yaml
tokenizer: {{base_channels: 32, embedding_channels: 32}}
tokenizer_training: {{total_steps: 4, batch_size: 8, checkpoint_every: 2, warmup_steps: 1}}
model: {{num_layers: 4, hidden_size: 32, num_heads: 2}}
schedule: {{total_steps: 4, global_batch_size: 8, micro_batch_size: 2, warmup_steps: 1}}
checkpoint: {{every: 2}}
monitoring: {{log_every: 1, validation_every: 2, validation_samples: 16, sample_every: 2}}
"""

COMMANDS = bash_commands(README)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("readme")
    for name in ("elm_dist", "Makefile", "tests"):
        (scratch / name).symlink_to(ROOT / name)
    (scratch / "configs").mkdir()
    for path in (ROOT / "configs").glob("*"):
        (scratch / "configs" / path.name).symlink_to(path)
    (scratch / "configs" / "demo.yaml").unlink()
    (scratch / "configs" / "demo.yaml").write_text(SMALL.format(root=ROOT))
    tiles = write_tiles(scratch / "tiles", train=12, validation=4)
    for split in ("train", "validation"):
        photographs = sorted((tiles / split).iterdir())
        for label in range(10):  # as many classes as CIFAR-10 has
            folder = scratch / "data" / "cifar10" / split / f"class_{label}"
            shutil.copytree(photographs[label % len(photographs)], folder)
    return scratch


def run(command: str, repository: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    result = subprocess.run(
        command, shell=True, cwd=repository, env=environment, capture_output=True, text=True, timeout=200
    )
    # The small chain learns nothing, so the demo's own verdict is 1; whatever is broken is 2 or a traceback.
    good = (0, 1) if command.startswith("elm demo") else (0,)
    assert result.returncode in good, f"$ {command}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr, result.stderr


# A place of each server's site, and what is there once it works.
SERVERS = {"tensorboard": ("data/plugin/scalars/tags", b"train/loss"), "elm": ("", b"gradio")}


def serve_and_ask(command: str, repository: Path) -> None:
    """Start TensorBoard or our own page as the README says, see that it answers on this machine, and stop it."""
    place, expected = SERVERS[command.split()[0]]
    process = subprocess.Popen(
        [str(BIN / shlex.split(command)[0]), *shlex.split(command)[1:], "--port", "16016"],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://localhost:16016/{place}", timeout=5) as answer:
                    if expected in answer.read():
                        return
            except OSError:
                pass
            time.sleep(0.5)
        pytest.fail(f"`{command}` does not answer within a minute")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command: str, repository: Path) -> None:
    if command.startswith("make "):
        subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, check=True, capture_output=True)
    elif command.startswith(("tensorboard ", "elm serve ")):
        serve_and_ask(command, repository)
    else:
        run(command, repository)


def test_the_readme_has_a_command_for_each_job() -> None:
    for job in ("make demo", "make test", "elm check", "elm tokenizer train", "elm tokenize", "deepspeed", "torchrun"):
        assert any(command.startswith(job) for command in COMMANDS), job
    assert any(command.startswith("elm sample") for command in COMMANDS)


def test_its_python_runs_on_what_the_commands_made(repository: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", block], cwd=repository, check=True, timeout=200)
    assert (repository / "sample.png").exists()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250
