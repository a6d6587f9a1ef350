"""All rules of what goes with what in a configuration; those of a subject are in the module of its name."""

from typing import Any

from elm_dist.config_rules import layout_rules, model_rules, sampling_rules, tokenizer_rules  # noqa: F401  they register
from elm_dist.config_rules.registry import RULES, Problem


def broken_rules(sections: dict[str, Any]) -> list[Problem]:
    """Return what the sections at hand, all valid by themselves, make impossible together."""
    return [
        problem
        for names, check in RULES
        if all(name in sections for name in names)
        for problem in check(*(sections[name] for name in names))
    ]
