"""Options that are lists, as in `--classes 207,360`."""

from collections.abc import Callable
from typing import TypeVar

from elm_dist.errors import ElmError

T = TypeVar("T")


def parse_list(option: str, text: str, read: Callable[[str], T], form: str, count: int | None = None) -> list[T]:
    """Return the values, `count` of them, in an option; `form` is told to whom mistakes it, with an example."""
    try:
        values = [read(value.strip()) for value in text.split(",")]
    except ValueError:
        values = []
    if not values or count not in (None, len(values)):
        raise ElmError(f"{option}: '{text}' is not {form}")
    return values
