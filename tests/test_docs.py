"""What the pages point to is there: links and headings, commands with their options and settings, files, targets.

Nothing is run here; tests/test_readme.py runs the README's commands.
"""

import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from command_line import elm
from documents import PAGES, ROOT, anchors, block_lines, elm_commands, links, name_of

from elm_dist.cli.main import app
from elm_dist.config import Config

APP: Any = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
FILE = re.compile(r"(?<![\w/.])(?:configs|cluster|benchmarks)/[a-z0-9_./-]+\.(?:yaml|sh|py)\b")  # NAME stands for one

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@every_page
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or there.suffix != ".md" or anchor in anchors(there.read_text()), target


@every_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for path in FILE.findall(page.read_text()):
        assert (ROOT / path).exists(), path


@every_page
def test_every_make_target_is_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`make ([a-z-]+)", text)
    named += [found[1] for line in block_lines(text) if (found := re.match(r"(?:\$ )?make ([a-z-]+)", line))]
    assert set(named) <= TARGETS


@every_page
def test_every_command_is_one(page: Path) -> None:
    problems = [f"elm {line}: {problem}" for line in elm_commands(page.read_text()) if (problem := mistake(line))]
    assert not problems, "\n".join(problems)


def mistake(line: str) -> str:
    """Return what is wrong with `elm LINE`, nothing where its command, options, choices and settings exist.

    Upper-case words stand for values. What is in brackets may be left out, and is looked at.
    """
    words, command, names = shlex.split(re.sub(r"\[(--[^\]]+)\]", r"\1", line)), APP, []
    while words and hasattr(command, "commands"):
        names.append(words.pop(0))
        if names[-1] not in command.commands:
            return f"there is no {' '.join(names)}"
        command = command.commands[names[-1]]
    if words[:1] == ["..."] or "--" in words:  # anything; a command of its own
        words = words[: words.index("--")] if "--" in words else []
        return unknown_options(command, words)
    return unknown_options(command, words) or unknown_settings(words)


def unknown_options(command: Any, words: list[str]) -> str:
    options = {name: option for option in command.params for name in [*option.opts, *option.secondary_opts]}
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if not name.startswith("-"):
            continue
        if name not in options and name != "--help":
            return f"there is no option {name}; there are {', '.join(sorted(options))}"
        choices = choices_of(options[name]) if name in options else ()
        given = value or (words[place + 1] if place + 1 < len(words) else "")
        if choices and not given.isupper() and given not in choices:
            return f"{name} {given!r} is none of {', '.join(choices)}"
    return ""


def choices_of(option: Any) -> tuple[str, ...]:
    """Return what the option's value may be, where it is one of a few; Typer keeps them as the type that we wrote."""
    annotation = option.type_descriptor.annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def unknown_settings(words: list[str]) -> str:
    for word in words:
        if found := re.match(r"(\w+)\.(\w+)=", word):
            section = Config.model_fields.get(found[1])
            if section is None or found[2] not in getattr(section.annotation, "model_fields", {}):
                return f"there is no setting {found[1]}.{found[2]}"
    return ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dance", "there is no dance"),
        ("tokenizer dance", "there is no tokenizer dance"),
        ("plan CONFIG --gpus a100-80gb", "there is no option --gpus"),
        ("export RUN --to pickle", "--to 'pickle' is none of"),
        ("train CONFIG schedule.step=3", "there is no setting schedule.step"),
    ],
)
def test_a_command_that_is_none_is_found(line: str, problem: str) -> None:
    assert mistake(line).startswith(problem)


def test_the_index_lists_every_page() -> None:
    listed = {target.partition("#")[0] for target in links((ROOT / "docs" / "README.md").read_text())}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


def test_the_first_configuration_is_good(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "getting-started.md").read_text()
    file = tmp_path / "pictures.yaml"
    file.write_text("\n".join(block_lines(page, "yaml")))
    assert elm("check", str(file)).stdout.removeprefix(f"{tmp_path}/") in page
