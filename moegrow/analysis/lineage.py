"""Trace each new layer and expert to its old one, as ranges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from moegrow import maps
from moegrow.growth import Noise
from moegrow.maps import NULL, Map
from moegrow.planning.plan import Plan

LONGEST_GROUP, MOST_TIMES = 16, 8  # of what is repeated in place, as far as it is looked for
LONGEST = 600  # numbers of which the fewest stretches are looked for


class Start(Enum):
    """How a new layer or expert starts: as the old one is, or otherwise."""

    AS_OLD = "as old"
    NOISY = "noisy"
    IDENTITY = "identity"
    EMPTY = "empty"


class Mark(NamedTuple):
    """One new layer or expert beside its number: whether it is a copy, and how it starts.

    `note` is the text for people.
    """

    is_copy: bool = False
    start: Start = Start.AS_OLD
    note: str = ""


class Stretch(NamedTuple):
    """New numbers from `new` on, made from old ones from `old` on.

    They are `groups` groups of `size` numbers, each group `times` in a row; `marks` has one mark
    for each time. A run of numbers as they were is many groups of one, each once.
    """

    new: int
    old: int
    size: int
    groups: int
    times: int
    marks: tuple[Mark, ...]

    @property
    def length(self) -> int:
        return self.size * self.groups * self.times

    @property
    def old_length(self) -> int:
        return self.size * self.groups


@dataclass(frozen=True)
class Axis:
    """One axis of a growth: "layers" or "experts", how many there were, and the map with marks."""

    name: str
    old: int
    map: Map
    marks: tuple[Mark, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing is grown here."""
        return self.map == maps.identity(self.old)


def axes(plan: Plan) -> tuple[Axis, Axis]:
    """The layers and the experts of a plan, with what is new about them."""
    growth = plan.growth
    silent = (
        (Start.IDENTITY, "begins as the identity") if it else (Start.AS_OLD, "")
        for it in growth.silent
    )
    noises = zip(growth.weight_noise, growth.router_noise, strict=True)
    return (
        Axis(
            "layers", _before(plan, "layers", len(growth.layers)), growth.layers,
            _marks(growth.layers, silent),
        ),
        Axis(
            "experts", _before(plan, "experts", len(growth.experts)), growth.experts,
            _marks(growth.experts, (_noisy(*both) for both in noises)),
        ),
    )  # fmt: skip


def stretches(axis: Axis) -> list[Stretch]:
    """The new numbers in order, in as few stretches as there can be.

    >>> axis = Axis("layers", 3, (0, 0, 1, 1, 2), (Mark(), Mark(True)) * 2 + (Mark(),))
    >>> [(part.old, part.groups, part.times) for part in stretches(axis)]
    [(0, 2, 2), (2, 1, 1)]
    """
    count = len(axis.map)
    if count > LONGEST:
        return _runs(axis)
    best: list[tuple[int, Stretch | None]] = [(0, None)] * (count + 1)
    for new in range(count - 1, -1, -1):
        options = (
            (best[new + part.length][0] + 1, part.length, part)
            for longest in _from(axis, new)
            for part in _shorter(longest)
        )
        fewest, _, chosen = min(options, key=lambda option: (option[0], -option[1]))
        best[new] = fewest, chosen
    found, new = [], 0
    while new < count:
        part = best[new][1]
        assert part
        found.append(part)
        new += part.length
    return found


def runs(axis: Axis) -> list[Stretch]:
    """The new numbers in order, as runs in which old numbers follow each other."""
    return _runs(axis)


def copies(axis: Axis) -> Mapping[int, int]:
    """How many new layers or experts each old one has become."""
    found = dict.fromkeys(range(axis.old), 0)
    for old in axis.map:
        if old != NULL:
            found[old] += 1
    return found


def counts(axis: Axis) -> list[str]:
    """What should be known beside the map: old ones that are gone, and uneven copies."""
    found = copies(axis)
    lines = []
    if gone := [old for old, count in found.items() if not count]:
        lines.append(f"  left out: {maps.spell(gone)}")
    kinds = sorted({count for count in found.values() if count}, reverse=True)
    if len(kinds) > 1 and axis.name == "experts":
        for count in kinds:
            olds = [old for old, its in found.items() if its == count]
            times = "once" if count == 1 else f"{count} times"
            lines.append(f"  there {times}: {len(olds)} of {axis.old} ({maps.spell(olds)})")
    return lines


def document(plan: Plan) -> dict[str, Any]:
    """The maps of a plan as plain values."""
    growth = plan.growth
    layers, experts = axes(plan)
    return {
        "source": plan.source.location,
        "family": plan.family,
        "layers": {
            "old": layers.old,
            "new": len(layers.map),
            "map": list(layers.map),
            "copies": [mark.is_copy for mark in layers.marks],
            "identity": list(growth.silent),
        },
        "experts": {
            "old": experts.old,
            "new": len(experts.map),
            "map": [None if old == NULL else old for old in experts.map],
            "copies": [mark.is_copy for mark in experts.marks],
            "noise": [_noise(noise) for noise in growth.weight_noise],
            "router_noise": [_noise(noise) for noise in growth.router_noise],
        },
        "top_k": growth.top_k,
    }


def _noise(noise: Noise | None) -> dict[str, Any] | None:
    return None if noise is None else noise._asdict()


def _before(plan: Plan, key: str, now: int) -> int:
    """How many the source has: by the first step that changed it."""
    return next((step.numbers[key][0] for step in plan.steps if key in step.numbers), now)


def _marks(a_map: Map, starts: Iterator[tuple[Start, str]]) -> tuple[Mark, ...]:
    repeated = maps.repeats(a_map)
    return tuple(
        Mark(is_copy, *((Start.EMPTY, "does nothing") if old == NULL else start))
        for old, is_copy, start in zip(a_map, repeated, starts, strict=True)
    )


def _noisy(weights: Noise | None, router: Noise | None) -> tuple[Start, str]:
    """How an expert with this noise starts, and that in words."""
    if weights and weights == router:
        return Start.NOISY, f"noise of {weights.amount:g} σ, seed {weights.seed}"
    parts = []
    for what, noise in (("", weights), ("on the router ", router)):
        if noise:
            amount = f"±{noise.amount:g}" if noise.kind == "uniform" else f"{noise.amount:g} σ"
            parts.append(f"noise {what}of {amount}, seed {noise.seed}")
    return (Start.NOISY if parts else Start.AS_OLD), ", ".join(parts)


def _from(axis: Axis, new: int) -> Iterator[Stretch]:
    """For each way to go on from a place, the longest stretch."""
    yield _longest(axis, new, 1, 1)
    for times in range(2, MOST_TIMES + 1):
        for size in range(1, LONGEST_GROUP + 1):
            part = _longest(axis, new, size, times)
            # One group alone is two runs, which read more easily.
            if part.groups > (size > 1):
                yield part


def _longest(axis: Axis, new: int, size: int, times: int) -> Stretch:
    old, block = axis.map[new], size * times
    marks = tuple(axis.marks[new + turn * size : new + turn * size + 1] for turn in range(times))
    if not all(marks):
        return Stretch(new, old, size, 0, times, ())
    first = tuple(mark for (mark,) in marks)
    groups = 0
    while new + (groups + 1) * block <= len(axis.map) and all(
        axis.map[at := new + groups * block + turn * size + place]
        == (NULL if old == NULL else old + groups * size + place)
        and axis.marks[at] == first[turn]
        for turn in range(times)
        for place in range(size)
    ):
        groups += 1
    return Stretch(new, old, size, groups, times, first)


def _shorter(part: Stretch) -> Iterator[Stretch]:
    for groups in range(1 + (part.size > 1), part.groups + 1):
        yield part._replace(groups=groups)


def _runs(axis: Axis) -> list[Stretch]:
    found, new = [], 0
    while new < len(axis.map):
        part = _longest(axis, new, 1, 1)
        found.append(part)
        new += part.length
    return found


def rows(parts: Sequence[Stretch]) -> list[tuple[str, str, str]]:
    """New numbers, old numbers and what is said of them, with single ones put together."""
    found: list[tuple[int, int, list[int], str]] = []
    single: Mark | None = None  # the mark of the last row, where its numbers stand once each
    for part in parts:
        said = _said(part)
        olds = [
            part.old if part.old == NULL else part.old + number for number in range(part.old_length)
        ]
        last = part.new + part.length - 1
        mark = part.marks[-1] if part.times == 1 else None
        if mark is not None and mark == single:
            first, _, before, _ = found[-1]
            before += olds
            found[-1] = (first, last, before, said)
        else:
            found.append((part.new, last, olds, said))
        single = mark
    return [
        (f"{a}-{b}" if b > a else str(a), "-" if NULL in olds else maps.spell(olds), said)
        for a, b, olds, said in found
    ]


def _said(part: Stretch) -> str:
    *_, last = part.marks
    if part.times == 1:
        words = ["copies"] if last.is_copy else []
        return ", ".join([*words, *([last.note] if last.note else [])])
    groups = "each" if part.size == 1 else f"each {part.size} together"
    note = f"; copies: {last.note}" if last.note else ""
    first = f"; first: {part.marks[0].note}" if part.marks[0].note else ""
    again = "; all are copies" if part.marks[0].is_copy else ""
    return f"{groups} {part.times} times in place{again}{first}{note}"
