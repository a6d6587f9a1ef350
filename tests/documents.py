"""The Markdown pages of the repository: their blocks, commands, links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "configs" / "README.md", *DOCS]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def block_lines(text: str, language: str | None = None) -> list[str]:
    """Return the lines of the fenced blocks, of one language or of all, continued lines joined."""
    blocks = [block for name, block in FENCE.findall(text) if language in (None, name)]
    return re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines()


def bash_commands(text: str) -> list[str]:
    """Return what the bash blocks run, without comments."""
    lines = block_lines(text, "bash")
    return [command for line in lines if (command := line.split("  #")[0].strip()) and not command.startswith("#")]


def elm_commands(text: str) -> Iterator[str]:
    """Yield what follows `elm`, or `-m elm_dist`, in the blocks; what stands behind two spaces explains it.

    A launcher's `elm_dist/train.py --config FILE` is `train FILE`.
    """
    for line in block_lines(text):
        command = re.split(r"\s{2,}", line.strip().removeprefix("$ "))[0]
        if found := re.match(r"(?:elm|(?:torchrun|srun|mpirun|python)\b.* -m elm_dist) (.*)", command):
            yield found[1]
        elif found := re.match(
            r"(?:deepspeed|torchrun|srun|mpirun|python)\b.* ?elm_dist/train\.py --config (.*)", command
        ):
            yield f"train {found[1]}"


def links(text: str) -> list[str]:
    """Return the targets of the links outside blocks that lead into the repository."""
    found = [first or second for first, second in LINK.findall(FENCE.sub("", text))]
    return [target for target in found if not re.match(r"(https?|mailto):", target)]


def anchors(text: str) -> set[str]:
    """Return what `#...` of a link may be: the headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
