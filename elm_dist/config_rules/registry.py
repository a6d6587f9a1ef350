"""How a rule is written: it reads the sections that it names, and yields (path, message with the remedy) for what it
refuses.
"""

from collections.abc import Callable, Iterator

Problem = tuple[str, str]
Rule = Callable[..., Iterator[Problem]]
RULES: list[tuple[tuple[str, ...], Rule]] = []


def rule(*sections: str) -> Callable[[Rule], Rule]:
    """Register a rule of these sections of a configuration."""

    def register(check: Rule) -> Rule:
        RULES.append((sections, check))
        return check

    return register
