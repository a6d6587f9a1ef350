"""Reads a `Config` from one YAML file, its `extends:` chain and `section.key=value` overrides; writes it back.

All problems are reported together, each with its path, what is allowed and the nearest name.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from elm_dist.config import Config, Section
from elm_dist.config_rules.every_rule import broken_rules
from elm_dist.config_rules.registry import Problem
from elm_dist.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

SECTIONS: dict[str, type[Section]] = {name: field.annotation for name, field in Config.model_fields.items()}  # type: ignore[misc]

# What to give in place of a value that pydantic refuses, by its name for the fault or by the first word of that name.
REMEDIES = {
    "bool": "true or false",
    "cadence_or_auto": "a whole number of at least 0, or auto",
    "finite_number": "a finite number",
    "float": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "multiple_of": "a multiple of {multiple_of}",
    "path": "a path",
    "sides": "a whole number of at least 1, or two as in [256, 384], height first",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple": "a list, as in [1, 2]",
}


def load_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Return the configuration in `path` with `overrides` such as `schedule.total_steps=100` applied.

    Raises ConfigError with every problem of the file and the overrides at once.
    """
    path = Path(path)
    tree = _read_tree(path, ())
    problems = _apply_overrides(tree, overrides or [])
    sections: dict[str, Section] = {}
    problems += [(str(name), _unknown(str(name), ["extends", *SECTIONS])) for name in tree if name not in SECTIONS]
    for name, section_type in SECTIONS.items():
        try:
            sections[name] = section_type.model_validate(tree.get(name, {}))
        except ValidationError as error:
            problems += [_explain(name, section_type, detail) for detail in error.errors()]
    problems += broken_rules(sections)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  {where}: {what}" for where, what in problems)
        raise ConfigError(f"{path}: {count}\n{lines}")
    return Config(**sections)  # type: ignore[arg-type]


def dump_config(config: Config) -> str:
    """Return `config` as YAML that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice, which otherwise silently replaces the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` is given twice", problem_mark=key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the file as nested dicts, laid over the file that its `extends:` names (relative to itself)."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends:` goes round in a circle; remove one of its links")
    try:
        with path.open(encoding="utf-8") as file:
            tree = yaml.load(file, _StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration; {_what_there_is(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file, see configs/") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that Python cannot hold
        raise ConfigError(f"{path}: not valid YAML, mend the file: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must hold sections ({', '.join(SECTIONS)}), see configs/demo.yaml")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: `extends:` names one file, relative to this one, as in `extends: base/paper.yaml`")
    return _overlay(_read_tree(path.parent / parent, (*seen, path.resolve())), tree)


def _what_there_is(path: Path) -> str:
    """Return what to give in place of a path that leads nowhere: the file of the nearest name, or those beside it."""
    beside, here = sorted(path.parent.glob("*.yaml")), Path.cwd()
    ours = [*CONFIGS.glob("*.yaml"), *(CONFIGS / "experiments").rglob("*.yaml")]
    files = {file.stem: file.relative_to(here) if file.is_relative_to(here) else file for file in ours}
    files |= {file.stem: file for file in beside}
    if near := difflib.get_close_matches(path.stem, files, n=1):
        return f"did you mean {files[near[0]]}?"
    if beside:
        return f"there are {', '.join(file.name for file in beside)}; configs/README.md lists all of ours"
    return "give the path of a YAML file; configs/README.md lists ours"


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _overlay(below[key], value) if both else value
    return merged


def _apply_overrides(tree: dict[str, Any], overrides: list[str]) -> list[Problem]:
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        section, dot, key = path.strip().lstrip("-").partition(".")
        if not (equals and dot and key):
            problems.append((override, "an override has the form section.key=value, as in schedule.total_steps=100"))
            continue
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            problems.append((path, f"'{text}' is not a YAML value; quote it, or write lists as [1, 2]"))
            continue
        branch = tree.setdefault(section, {})
        if isinstance(branch, dict):
            branch[key] = value
    return problems


def _explain(section: str, section_type: type[Section], detail: ErrorDetails) -> Problem:
    """Turn one of pydantic's reports into a path and a sentence with what is allowed."""
    where = ".".join([section, *map(str, detail["loc"])])
    if detail["type"] in ("extra_forbidden", "invalid_key"):  # invalid: a key that is no text, such as 1
        return where, _unknown(str(detail["loc"][-1]), list(section_type.model_fields))
    if detail["type"] == "missing":
        return where, "is missing; give it a value"
    if detail["type"] == "model_type":
        return where, f"must be a section with keys, such as {', '.join(list(section_type.model_fields)[:3])}"
    remedy = REMEDIES.get(detail["type"]) or REMEDIES[detail["type"].partition("_")[0]]
    return where, f"{detail['input']!r} is not allowed; give {remedy.format(**detail.get('ctx', {}))}"


def _unknown(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(allowed)}"
