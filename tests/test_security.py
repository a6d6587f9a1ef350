"""Files from strangers: each tries to touch a canary, is refused with its sentence, and the canary stays as it was."""

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import refused

from elm_dist.files import sha256


class Touch:
    """Pickled, it touches the canary where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.canary), "w")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of everything that a tiny run has, to be spoilt: run/, tokenizer/, shards/."""
    return Path(shutil.copytree(trained.parent, tmp_path / "copy"))


def add_members(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> None:
    """Append files, or entries of other kinds, to a tar."""
    with tarfile.open(path, "a") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def link(name: str, target: Path) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, str(target)
    return info


# --- Configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_yaml_that_builds_python_objects(tag: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"run: {tag} ['touch {canary}']\n")
    assert "evil.yaml" in refused("check", str(path))
    assert not canary.exists()


@pytest.mark.parametrize("value", ["pipe:touch {}", "$(touch {})", "`touch {}`", "; touch {}", "| touch {}"])
@pytest.mark.parametrize(
    ("section", "key", "command"), [("data", "shards", "evaluate"), ("tokenizer", "directory", "sample")]
)
def test_folders_that_are_commands_are_looked_for_and_not_run(
    value: str, section: str, key: str, command: str, folder: Path, canary: Path
) -> None:
    path = folder / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section][key] = value.format(canary)
    path.write_text(yaml.safe_dump(config))
    out = ["--out", str(folder / "out")] if command == "sample" else []
    assert f"touch {canary}" in refused(command, str(folder / "run"), *out)
    assert not canary.exists()


# --- Shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["../train-000000.tar", "/etc/passwd", "pipe:touch x", "$(touch x).tar"])
def test_a_manifest_names_files_of_its_folder_alone(file: str, folder: Path) -> None:
    manifest = json.loads((folder / "shards" / "manifest.json").read_text())
    manifest["splits"]["train"][0]["file"] = file
    (folder / "shards" / "manifest.json").write_text(json.dumps(manifest))
    assert "not the manifest of shards (splits.train.0.file" in refused("inspect", str(folder / "shards"))


def _swap_shard(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace the first shard by what `write` makes of it, with a manifest that agrees in size and checksum."""
    shard, manifest_path = folder / "shards" / "train-000000.tar", folder / "shards" / "manifest.json"
    write(shard)
    manifest = json.loads(manifest_path.read_text())
    manifest["splits"]["train"][0] |= {"bytes": shard.stat().st_size, "sha256": sha256(shard)}
    manifest_path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["000000000.codes.pyd", "evil.pickle", "../../evil.npy", "/tmp/evil.npy"])
def test_a_shard_holds_nothing_but_its_arrays(name: str, folder: Path, canary: Path) -> None:
    _swap_shard(folder, lambda shard: add_members(shard, (name, pickle.dumps(Touch(canary)))))
    assert f"it has {name} where nothing belongs" in refused("inspect", str(folder / "shards"))
    assert not canary.exists()


def test_a_shard_with_an_array_of_objects(folder: Path, canary: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Touch(canary)], dtype=object), allow_pickle=True)

    def write(shard: Path) -> None:
        shard.unlink()
        add_members(shard, ("000000000.cls.npy", file.getvalue()), ("000000000.codes.npy", file.getvalue()))

    _swap_shard(folder, write)
    assert "000000000.cls.npy is object (1,), not uint16" in refused("inspect", str(folder / "shards"))
    assert not canary.exists()


def test_a_shard_with_a_link(folder: Path, canary: Path) -> None:
    canary.write_text("as it was")

    def write(shard: Path) -> None:
        shard.unlink()
        add_members(shard, link("000000000.cls.npy", canary))

    _swap_shard(folder, write)
    assert "000000000.cls.npy is not a regular file" in refused("inspect", str(folder / "shards"))
    assert canary.read_text() == "as it was"


# --- Images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png"])
def test_images_that_lead_out_of_their_tar(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split in ("train", "validation"):
        add_members(tmp_path / "images" / f"{split}-000000.tar", (name, b"x"))
    arguments = ("--tokenizer", str(folder / "tokenizer"), "--out", str(tmp_path / "out"))
    assert "leads out of the shard" in refused("tokenize", "--images", str(tmp_path / "images"), *arguments)
    assert not (tmp_path / "evil.png").exists()


# --- Weights ---------------------------------------------------------------------------------------------------------


def test_published_weights_with_code_in_them(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"weights": Touch(canary)}, path)
    assert "evil.pth" in refused("import", str(path), "--out", str(tmp_path / "out"))
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../../evil", "/tmp/evil"])
def test_a_checkpoint_names_files_of_its_folder_alone(name: str, folder: Path, tmp_path: Path) -> None:
    newest = sorted((folder / "run" / "checkpoints").glob("step_*"))[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    first = next(iter(manifest["files"]))
    manifest["files"][f"{name}.safetensors"] = manifest["files"].pop(first)
    (newest / "manifest.json").write_text(json.dumps(manifest))
    step = str(int(newest.name.removeprefix("step_")))
    said = refused("convert", str(folder / "run"), "--to", str(tmp_path / "out"), "--step", step)
    assert f"{name}.safetensors is no name of a file of its folder" in said
    assert not (tmp_path / "out").exists()


# --- Samples ---------------------------------------------------------------------------------------------------------


def test_samples_that_are_pickled_objects(folder: Path, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "evil.npz"
    file = io.BytesIO()
    np.save(file, np.array([Touch(canary)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", file.getvalue())
    arguments = ("--reference", str(path), "--features", "mobilenet_v2")
    assert "evil.npz" in refused("evaluate", str(path), *arguments)
    assert not canary.exists()
