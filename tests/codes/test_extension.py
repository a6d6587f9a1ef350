"""Where the compiled extension is imported, and what happens where it does not load."""

import ast
import importlib
from pathlib import Path

import pytest

from elm_dist.codes import extension

PACKAGE = Path(extension.__file__).parents[1]


def words_in(path: Path) -> set[str]:
    """Return the parts of every name, attribute, imported module and string of a module."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.alias):
            words |= set(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set(node.value.split("."))
    return words


def test_the_extension_is_imported_in_one_place() -> None:
    importing = [path for path in PACKAGE.rglob("*.py") if words_in(path) & {"_C", "_C_cuda"}]
    assert importing == [PACKAGE / "codes" / "extension.py"]


class Machine:
    """One on which some extensions are built, and some of them do not load."""

    def __init__(self, built: set[str], broken: set[str]) -> None:
        self.built, self.broken = built, broken

    def find_spec(self, name: str) -> str | None:
        return name if name.rpartition(".")[2] in self.built else None

    def import_module(self, name: str) -> None:
        if name.rpartition(".")[2] in self.broken:
            raise ImportError("undefined symbol: torch_of_tomorrow")


@pytest.mark.parametrize(
    ("built", "broken", "devices"),
    [
        (set(), set(), set()),
        ({"_C"}, set(), {"cpu"}),
        ({"_C", "_C_cuda"}, set(), {"cpu", "cuda"}),
        ({"_C", "_C_cuda"}, {"_C_cuda"}, {"cpu"}),
        ({"_C", "_C_cuda"}, {"_C"}, set()),  # nothing declares what _C_cuda does
    ],
)
def test_what_does_not_load_is_left_to_torch(
    built: set[str],
    broken: set[str],
    devices: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine(built, broken)
    monkeypatch.setattr(extension, "find_spec", machine.find_spec)
    monkeypatch.setattr(importlib, "import_module", machine.import_module)
    assert extension._load() == devices
    assert [record.getMessage() for record in caplog.records] == [
        f"elm_dist.codes.{name} does not load, so plain torch does its work: undefined symbol: torch_of_tomorrow"
        for name in sorted(broken)
    ]
