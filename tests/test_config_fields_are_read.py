"""No setting that nothing reads: every field of every section appears somewhere as `<its section>.<field>`."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from elm_dist.config_file import SECTIONS

PACKAGE = Path(__file__).parent.parent / "elm_dist"
KINDS = {kind.__name__: section for section, kind in SECTIONS.items()}
FIELDS = [(section, field) for section, kind in SECTIONS.items() for field in kind.model_fields]


def fields_read() -> set[tuple[str, str]]:
    """Return every (section, attribute) that the package reads outside config.py, such as ("model", "num_layers")."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        tree = ast.parse(path.read_text())
        names = names_of_sections(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found |= {(section, node.attr) for section in names[last_name(node.value)]}
    return found


def names_of_sections(tree: ast.AST) -> dict[str, set[str]]:
    """Return what a file calls the sections: by their own names, by typed names, and by assignment from either.

    `config.model`, `model`, `settings: ModelConfig` and `self._model = settings` all name the section `model`.
    """
    names = defaultdict(set, {section: {section} for section in SECTIONS})
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) in KINDS:
            names[node.arg].add(KINDS[ast.unparse(node.annotation)])
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (target := last_name(node.targets[0])):
            names[target] |= names[last_name(node.value)]
    return names


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


READ = fields_read()


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{section}.{field}" for section, field in FIELDS])
def test_the_field_is_read(section: str, field: str) -> None:
    read = sorted(name for owner, name in READ if owner == section)
    assert field in read, "nothing reads this setting: use it or remove it"


def test_a_field_that_nothing_reads_would_be_found() -> None:
    assert ("model", "num_layers") in READ
    assert ("model", "no_such_field") not in READ
    assert not [owner for owner, _ in READ if owner not in SECTIONS]
