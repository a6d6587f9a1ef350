"""The rules of the house: short files and functions, floors, no pickle, and no torch where none is needed."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "elm_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), filename=name_of(path)))


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_files_stay_under_350_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350, "is there a second thing inside?"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_stay_under_60_lines(path: Path) -> None:
    functions = [node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 60]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_init_files_are_empty_and_all_others_say_what_they_are(path: Path) -> None:
    if path.name == "__init__.py":
        assert not path.read_text()
    else:
        assert ast.get_docstring(ast.parse(path.read_text())), (
            "a module opens with what it is and what it does not know"
        )


def test_nothing_prints() -> None:
    printing = {
        name_of(path)
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert not printing, "use logging; commands use typer.echo"


def test_no_name_at_the_top_hides_the_standard_library() -> None:
    # `deepspeed elm_dist/train.py` puts elm_dist/ first on sys.path.
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & sys.stdlib_module_names


def test_no_module_is_called_utils() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "misc", "common")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_pickles(path: Path) -> None:
    imported: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "torch.save", "torch.save pickles; write safetensors"
            loads = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
            assert all(ast.unparse(keyword.value) == "False" for keyword in loads)
    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_the_floors_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    report = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr


WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "deepspeed", "numpy"):
            raise ModuleNotFoundError(f"this machine has no {name}")

sys.meta_path.insert(0, Refuse())
"""


def run_without_torch(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code where torch, deepspeed and numpy cannot be imported."""
    command = [sys.executable, "-c", WITHOUT + code]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def test_the_refusal_itself_works() -> None:
    assert "this machine has no torch" in run_without_torch("import torch").stderr


def test_the_package_needs_no_torch() -> None:
    report = run_without_torch("import elm_dist, elm_dist.config_file, elm_dist.errors, elm_dist.codes.subtokens")
    assert report.returncode == 0, report.stderr


def test_elm_check_needs_no_torch() -> None:
    code = "sys.argv = ['elm', 'check', 'configs/demo.yaml']\nfrom elm_dist.cli.main import main\nmain()"
    report = run_without_torch(code)
    assert report.returncode == 0, report.stdout + report.stderr
