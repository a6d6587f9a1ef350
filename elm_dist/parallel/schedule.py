"""Pipeline schedules as tables: who computes what in which order, how long that takes and what it holds in memory.

A pipeline of p stages cuts the model into p parts, or into 2 p where a stage holds two of them. A schedule orders each
stage's work on m micro-batches. Knows neither torch nor DeepSpeed, which run these tables: the tests prove them equal.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

ScheduleName = Literal["gpipe", "1f1b", "interleaved", "zbv", "dualpipev"]


class Kind(StrEnum):
    FORWARD = "F"
    BACKWARD = "B"  # INPUT and WEIGHT in one
    INPUT = "I"  # the gradient of the part's input, which the part before waits for
    WEIGHT = "W"  # the gradient of its weights, which nobody waits for: it can fill a bubble


class Action(NamedTuple):
    kind: Kind
    part: int  # of the model, numbered in the order of its layers
    micro_batch: int


@dataclass(frozen=True)
class Schedule:
    """What each stage does, in order."""

    stages: tuple[tuple[Action, ...], ...]

    @cached_property
    def stage_of_part(self) -> dict[int, int]:
        return {action.part: stage for stage, actions in enumerate(self.stages) for action in actions}

    @property
    def parts(self) -> int:
        return len(self.stage_of_part)


@dataclass(frozen=True)
class PartCost:
    """What one micro-batch costs one part of the model; times in seconds, `activations` in any unit."""

    forward: float
    input_gradient: float
    weight_gradient: float
    activations: float = 1.0  # kept from the forward pass until the gradient of the weights is there

    def seconds(self, kind: Kind) -> float:
        backward = self.input_gradient + self.weight_gradient
        return {"F": self.forward, "B": backward, "I": self.input_gradient, "W": self.weight_gradient}[kind]


class Span(NamedTuple):
    action: Action
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """When each stage does what, from 0 seconds on, and the most activations that it holds at a time."""

    stages: tuple[tuple[Span, ...], ...]
    peak_activations: tuple[float, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the first action's begin to the last one's end."""
        return max(spans[-1].end for spans in self.stages)

    @property
    def bubble(self) -> float:
        """The share of all stages' time in which they wait."""
        busy = sum(span.end - span.begin for span in chain(*self.stages))
        return 1 - busy / (len(self.stages) * self.makespan)


def has_table(name: ScheduleName, stages: int, micro_batches: int) -> bool:
    """Return whether the schedule exists for so many micro-batches."""
    if name == "dualpipev":
        return micro_batches >= 2 * stages
    return name != "interleaved" or micro_batches % _rounds(stages, micro_batches) == 0


def _rounds(stages: int, micro_batches: int) -> int:
    """Return how often interleaved parts take turns: with one micro-batch for each stage, or a few more."""
    return max(1, micro_batches // stages)


def build_schedule(name: ScheduleName, stages: int, micro_batches: int) -> Schedule:
    """Return the table of `name`, which must have one (`has_table`).

    Stage s holds the parts s (gpipe, 1f1b), s and p + s (interleaved), or s and 2 p - 1 - s (zbv and dualpipev: the
    parts go down the stages and up again in a V).
    """
    assert has_table(name, stages, micro_batches), (name, stages, micro_batches)
    p, m, rounds = stages, micro_batches, _rounds(stages, micro_batches)
    folded = name in ("zbv", "dualpipev")
    tables = []
    for s in range(p):
        match name:
            case "gpipe":
                moves = _one_forward_one_backward(1, 1, m, warm_up=m)
            case "1f1b":
                moves = _one_forward_one_backward(1, 1, m, warm_up=p - 1 - s)
            case "interleaved":
                moves = _one_forward_one_backward(2, rounds, m // rounds, warm_up=m // rounds + 2 * (p - 1 - s))
            case "zbv":
                moves = _zero_bubble_v(p, m, s)
            case "dualpipev":
                moves = _dual_pipe_v(p, m, s)
        tables.append(_number(moves, (s, 2 * p - 1 - s if folded else p + s), m))
    return Schedule(tuple(tables))


# A move is a kind and which of the stage's parts it is on: "F0" is a forward pass of its first part. The n-th "F0" is
# that of micro-batch n, so a stage's table is its moves, written like a rhythm.


def _number(moves: Iterable[str], parts: tuple[int, int], micro_batches: int) -> tuple[Action, ...]:
    counts: Counter[str] = Counter()
    actions = []
    for move in moves:
        if counts[move] < micro_batches:  # the rhythm of zbv is at least 2 p - 1 micro-batches long
            actions.append(Action(Kind(move[0]), parts[int(move[1])], counts[move]))
        counts[move] += 1
    return tuple(actions)


def _one_forward_one_backward(parts: int, rounds: int, round_size: int, warm_up: int) -> list[str]:
    """Some forwards to warm up, then forward and backward in turn, then the backwards that are left.

    With one part a stage this is 1F1B (PipeDream-flush, arXiv:2006.09503), or GPipe (arXiv:1811.06965) where all
    forwards are warm-up. With several (interleaved, arXiv:2104.04473) the parts take turns at `round_size`
    micro-batches each.
    """
    forwards = [f"F{part}" for part in range(parts) for _ in range(round_size)] * rounds
    backwards = [f"B{part}" for part in reversed(range(parts)) for _ in range(round_size)] * rounds
    warm_up = min(warm_up, len(forwards))
    steady = len(forwards) - warm_up
    pairs = zip(forwards[warm_up:], backwards[:steady], strict=True)
    return [*forwards[:warm_up], *chain(*pairs), *backwards[steady:]]


def _zero_bubble_v(p: int, m: int, s: int) -> list[str]:
    """ZB-V (arXiv:2401.10241, section 6): gradients of weights wait for the bubbles at the end."""
    m = max(m, 2 * p - 1)
    ahead = p - s
    return [
        *["F0"] * (2 * ahead - 1),
        *["F1", "F0"] * s,
        *["F1", "I1", "W1"] * ahead,
        *["F0", "I0", "W0", "F1", "I1", "W1"] * (m - 2 * p + s + 1),
        *["I0", "W0", "F1", "I1", "W1"] * (ahead - 1),
        *["I0", "I1"] * s,
        *["I0", "W0"] * ahead,
        *["W1"] * s,
        *["W0"] * s,
    ]


def _dual_pipe_v(p: int, m: int, s: int) -> list[str]:
    """DualPipeV (DeepSeek-V3, arXiv:2412.19437) as DeepSpeed runs it, with undivided backward passes."""
    behind = p - s - 1
    return [
        *["F0"] * (2 * behind),
        *["F0", "F1"] * (s + 1),
        *["B1", "F1"] * behind,
        *["F0", "B1", "F1", "B0"] * (m - 2 * p + s + 1),
        *["B1", "F1", "B0"] * behind,
        *["B1", "B0"] * (s + 1),
        *["B0"] * behind,
    ]


def simulate(schedule: Schedule, costs: Sequence[PartCost], communication: float = 0.0) -> Timeline:
    """Return when everything happens if a stage begins its next action as soon as what it needs is there.

    `costs` has one entry per part. What goes to another stage arrives `communication` seconds later and keeps neither
    of the two busy.
    """
    spans: list[list[Span]] = [[] for _ in schedule.stages]
    ends: dict[Action, float] = {}
    while len(ends) < sum(map(len, schedule.stages)):
        done = len(ends)
        for stage, actions in enumerate(schedule.stages):
            clock = spans[stage][-1].end if spans[stage] else 0.0
            for action in actions[len(spans[stage]) :]:
                needs = _needs(action, len(costs))
                if any(need not in ends for need in needs):
                    break
                delays = [communication * (schedule.stage_of_part[need.part] != stage) for need in needs]
                begin = max([clock, *(ends[need] + delay for need, delay in zip(needs, delays, strict=True))])
                clock = begin + costs[action.part].seconds(action.kind)
                spans[stage].append(Span(action, begin, clock))
                ends[_result(action)] = clock
        assert len(ends) > done, "the stages wait for each other"
    return Timeline(tuple(map(tuple, spans)), tuple(_peak_activations(actions, costs) for actions in schedule.stages))


def _result(action: Action) -> Action:
    """Return what others wait for: a whole backward gives the gradient of the input, too."""
    return action._replace(kind=Kind.INPUT) if action.kind is Kind.BACKWARD else action


def _needs(action: Action, parts: int) -> list[Action]:
    """Return the results without which `action` cannot begin."""
    kind, part, micro_batch = action
    if kind is Kind.FORWARD:
        return [Action(Kind.FORWARD, part - 1, micro_batch)] if part > 0 else []
    if kind is Kind.WEIGHT:
        return [Action(Kind.INPUT, part, micro_batch)]
    gradient = [Action(Kind.INPUT, part + 1, micro_batch)] if part + 1 < parts else []
    return [Action(Kind.FORWARD, part, micro_batch), *gradient]


def _peak_activations(actions: Iterable[Action], costs: Sequence[PartCost]) -> float:
    held = peak = 0.0
    for action in actions:
        if action.kind is Kind.FORWARD:
            held += costs[action.part].activations
            peak = max(peak, held)
        elif action.kind is not Kind.INPUT:
            held -= costs[action.part].activations
    return peak


def draw(timeline: Timeline) -> str:
    """Return the timeline as text, a line per stage; small letters are its second part, dots are waiting."""
    spans = [span for span in chain(*timeline.stages) if span.end > span.begin]
    widest = max(len(f"{span.action.kind}{span.action.micro_batch}") for span in spans)
    scale = (widest + 1) / min(span.end - span.begin for span in spans)
    lines = []
    for stage, row in enumerate(timeline.stages):
        cells = ["."] * round(timeline.makespan * scale)
        for action, begin, end in row:
            first, last = round(begin * scale), round(end * scale)
            label = f"{action.kind}{action.micro_batch}"
            label = label if action.part == row[0].action.part else label.lower()
            cells[first:last] = label.ljust(last - first)[: last - first]
        lines.append(f"stage {stage:>2} |{''.join(cells)}|")
    return "\n".join(lines)
