"""The two container recipes are one: the same image, packages and files, installed by the same pins as everywhere.

Neither is built here, where there is no Docker and no Apptainer.
"""

import re
import shutil
import subprocess
from pathlib import Path

from elm_dist.launch.slurm import CLUSTER

ROOT = CLUSTER.parent
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
APPTAINER = (CLUSTER / "elm.def").read_text()


def copied_by_docker() -> list[str]:
    copies = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    return [name for copy in copies for name in copy.split()]


def test_both_start_from_the_same_image_and_run_the_same_commands() -> None:
    image = re.search(r"^FROM (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert image
    assert f"From: {image[1]}\n" in APPTAINER
    commands = re.findall(r"^RUN (.+)$", DOCKERFILE, flags=re.MULTILINE)
    folder = re.search(r"^WORKDIR (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert folder
    post = APPTAINER.split("%post\n")[1].split("\n\n")[0]
    assert [line.strip() for line in post.splitlines()] == [commands[0], f"cd {folder[1]}", commands[1]]
    assert commands[1] == "make EXTRAS=cuda-check .venv/.installed"
    assert "export PATH=/opt/elm-dist/.venv/bin:$PATH" in APPTAINER
    assert "ENV PATH=/opt/elm-dist/.venv/bin:$PATH" in DOCKERFILE


def test_both_copy_the_same_files() -> None:
    files = APPTAINER.split("%files\n")[1].split("\n\n")[0].splitlines()
    assert [line.split() for line in files] == [[name, "/opt/elm-dist/"] for name in copied_by_docker()]


def test_what_they_copy_is_all_that_the_set_up_asks_for(tmp_path: Path) -> None:
    for name in copied_by_docker():
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    plan = subprocess.run(
        ["make", "--dry-run", "EXTRAS=cuda-check", ".venv/.installed"], cwd=tmp_path, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    assert "-c constraints.txt -e '.[cuda-check]'" in plan.stdout
