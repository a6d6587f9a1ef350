"""Every message that the page on troubles quotes is one that the source can say, so that the page cannot rot."""

import ast
import re

import pytest
from documents import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, flags=re.MULTILINE)
VALUE = "\0"  # what an f-string fills in


def templates(source: str) -> set[str]:
    """Return the strings of a module, joined as Python joins them, without its docstrings."""
    tree, inner = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
        elif isinstance(node, ast.Expr):
            inner.add(id(node.value))
    nodes = [node for node in ast.walk(tree) if id(node) not in inner]
    plain = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return plain | {filled(node) for node in nodes if isinstance(node, ast.JoinedStr)}


def filled(node: ast.JoinedStr) -> str:
    return "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)


SPOKEN = set().union(*(templates(path.read_text()) for path in (ROOT / "elm_dist").rglob("*.py")))


def is_said(quoted: str) -> bool:
    """Return whether one template has all parts of `quoted` in order; `...` is what lies between."""
    pattern = re.compile(".*".join(map(re.escape, quoted.split("..."))), flags=re.DOTALL)
    return any(pattern.search(template) for template in SPOKEN)


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_said(quoted: str) -> None:
    assert len(quoted.replace("...", "")) >= 10, "too short to be found by"
    assert is_said(quoted)


def test_every_row_is_quoted() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| message")]
    assert len(rows) == len(QUOTED) > 50


def test_what_nobody_says_is_not_found() -> None:
    assert not is_said("the moon is full; ")
    assert not is_said("Where it is poor")  # not even of a docstring
    assert templates('"""Doc."""\nx = f"a {b}" "c"\nf("d")') == {"a \0c", "d"}
