"""Installing never fails for want of a compiler, a CUDA toolkit or torch; one line says what was left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toolchain import CSRC, ROOT, load_setup

SAYS = "plain torch does the same work."
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('setup.py', run_name='__main__')"


def build(folder: Path, how: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    """Build the extension into `folder`; nothing is written beside the sources."""
    command = [
        sys.executable,
        *how,
        "-q",
        "build_ext",
        "--build-lib",
        str(folder),
        "--build-temp",
        str(folder / "temp"),
    ]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def sayings(report: "subprocess.CompletedProcess[str]") -> list[str]:
    assert report.returncode == 0, report.stdout + report.stderr
    return [line for line in report.stderr.splitlines() if line.startswith("elm-dist: ")]


def test_without_a_compiler(tmp_path: Path) -> None:
    (said,) = sayings(build(tmp_path, ["setup.py"], CC="no-compiler", CXX="no-compiler", ELM_CUDA="0"))
    assert said.startswith("elm-dist: elm_dist.codes._C was not built (")
    assert "no-compiler" in said
    assert said.endswith(SAYS)
    assert not list(tmp_path.rglob("*.so"))


def test_without_torch(tmp_path: Path) -> None:
    (said,) = sayings(build(tmp_path, ["-c", WITHOUT_TORCH]))
    assert "torch is not there to build against (pip install --no-build-isolation)" in said
    assert said.endswith(SAYS)


def test_without_a_cuda_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ELM_CUDA", "1")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    setup = load_setup()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [extension.name for extension in setup.extensions()] == ["elm_dist.codes._C"]
    assert "there is no CUDA toolkit (nvcc); " + SAYS in capsys.readouterr().err


def test_with_a_cuda_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvcc on PATH that is a wrapper elsewhere, as some clusters have it, is asked where its toolkit is."""
    toolkit, wrapper = tmp_path / "cuda", tmp_path / "bin" / "nvcc"
    for path in (toolkit / "include" / "cuda.h", toolkit / "bin" / "nvcc", wrapper):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wrapper.write_text(f"#!/bin/sh\necho '#$ _SPACE_= ' >&2\necho '#$ TOP={toolkit}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    monkeypatch.setenv("ELM_CUDA", "1")
    setup = load_setup()
    assert setup.cuda_home() == toolkit
    _, cuda = setup.extensions()
    assert cuda.name == "elm_dist.codes._C_cuda"
    assert str(toolkit / "include") in cuda.include_dirs
    monkeypatch.setenv("ELM_CUDA", "0")
    assert len(setup.extensions()) == 1


def test_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = load_setup()
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    codes = [flag.partition(",code=")[2] for flag in setup.gencode_flags()]
    assert codes == ["sm_80", "sm_90", "sm_100", "compute_100"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0+PTX")
    assert setup.gencode_flags() == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize("source", sorted(CSRC.iterdir()), ids=lambda path: path.name)
def test_sources_are_short_and_say_what_they_are(source: Path) -> None:
    lines = source.read_text().splitlines()
    assert lines[0].startswith("// "), "a source opens with what it is"
    assert len(lines) <= 350
    assert max(map(len, lines)) <= 120


def test_instructions_are_chosen_when_the_program_runs() -> None:
    build_files = [ROOT / "setup.py", *CSRC.iterdir()]
    assert not [path.name for path in build_files if "-march" in path.read_text()]
