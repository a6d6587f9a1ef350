"""No setting that nothing reads: every field of every section appears somewhere as `<its section>.<field>`."""

import ast
from pathlib import Path

import pytest

from elm_dist.config_file import SECTIONS

PACKAGE = Path(__file__).parent.parent / "elm_dist"
FIELDS = [(section, field) for section, kind in SECTIONS.items() for field in kind.model_fields]


def read_attributes() -> set[tuple[str, str]]:
    """Return every (owner, attribute) that the package reads outside config.py, such as ("model", "num_layers").

    The owner of `self.config.model.num_layers` is `model`. Where a function holds one section under another name, as in
    `tokenizer: TokenizerConfig` or `settings = config.tokenizer_training`, that name counts as the section.
    """
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        tree = ast.parse(path.read_text())
        aliases = dict(pair for node in ast.walk(tree) for pair in named_sections(node))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = last_name(node.value)
                found.add((aliases.get(owner, owner), node.attr))
    return found


def named_sections(node: ast.AST) -> list[tuple[str, str]]:
    """Return what a node calls a section: a typed name, or an assignment from `<something>.<section>`."""
    kinds = {kind.__name__: section for section, kind in SECTIONS.items()}
    if isinstance(node, ast.arg) and node.annotation:
        names = [(node.arg, kinds.get(ast.unparse(node.annotation).removesuffix(" | None"), ""))]
    elif isinstance(node, ast.AnnAssign):
        names = [(last_name(node.target), kinds.get(ast.unparse(node.annotation), ""))]
    elif isinstance(node, ast.Assign):
        targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        names = [(last_name(target), last_name(value)) for target, value in zip(targets, values, strict=False)]
    else:
        names = []
    return [(name, section) for name, section in names if section in SECTIONS]


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


READ = read_attributes()


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{section}.{field}" for section, field in FIELDS])
def test_the_field_is_read(section: str, field: str) -> None:
    assert (section, field) in READ, "nothing reads this setting: use it or remove it"


def test_a_field_that_nothing_reads_would_be_found() -> None:
    assert ("model", "num_layers") in READ
    assert ("model", "no_such_field") not in READ
