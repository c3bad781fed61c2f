"""Layer maps and expert maps: the old number that each new number is made from.

A map is a tuple `m` in which new layer (or expert) `i` is made from old `m[i]`.
"""

import math
import re
from collections.abc import Iterable
from fractions import Fraction

from moegrow.errors import Parameter, UsageError

Map = tuple[int, ...]

# In an expert map: an expert that is made from none of the old ones.
NULL = -1


# More layers or experts than this is a slip of the keyboard.
LARGEST = 100_000


def check_size(count: int, what: str) -> None:
    """Raise UsageError for a number of layers or experts that makes no sense."""
    if count > LARGEST:
        raise UsageError(f"{count} {what} make no sense", f"the most is {LARGEST}")


def identity(count: int) -> Map:
    """The map that changes nothing."""
    return tuple(range(count))


def compose(new: Map, old: Map) -> Map:
    """The one map that does `old` first and `new` after it.

    >>> compose((0, 0, 1, 1), (5, 7))
    (5, 5, 7, 7)
    """
    return tuple(old[middle] for middle in new)


def repeats(a_map: Map) -> tuple[bool, ...]:
    """True for each entry that repeats an earlier one.

    >>> repeats((0, 0, 1, 1))
    (False, True, False, True)
    """
    seen: set[int] = set()
    flags = []
    for old in a_map:
        flags.append(old in seen)
        seen.add(old)
    return tuple(flags)


def spread(units: int, total: int) -> tuple[int, ...]:
    """How often each of `units` occurs when `total` places are filled as evenly as can be.

    >>> spread(4, 6)
    (1, 2, 1, 2)
    """
    return tuple((u + 1) * total // units - u * total // units for u in range(units))


def interpose(
    layers: int, *, to: int, keep_first: int = 0, keep_last: int = 0, group: int = 1
) -> Map:
    """Every group of layers repeated in place (arXiv 2510.08008, Eq. 2), `to` layers in all.

    >>> interpose(3, to=6)
    (0, 0, 1, 1, 2, 2)
    >>> interpose(4, to=8, group=2)
    (0, 1, 0, 1, 2, 3, 2, 3)
    >>> interpose(4, to=6, keep_first=1, keep_last=1)
    (0, 1, 1, 2, 2, 3)
    """
    counts = _counts(layers, to, keep_first, keep_last, group)
    middle: list[int] = []
    for unit, count in enumerate(counts):
        first = keep_first + unit * group
        middle += list(range(first, first + group)) * count
    return (*range(keep_first), *middle, *range(layers - keep_last, layers))


def stack(layers: int, *, to: int, keep_first: int = 0, keep_last: int = 0) -> Map:
    """The whole block repeated after itself (arXiv 2510.08008, Eq. 1), `to` layers in all.

    The first pass ends before the last `keep_last` layers and later passes begin after the
    first `keep_first`.

    >>> stack(3, to=6)
    (0, 1, 2, 0, 1, 2)
    >>> stack(4, to=6, keep_first=1, keep_last=1)
    (0, 1, 2, 1, 2, 3)
    """
    counts = _counts(layers, to, keep_first, keep_last, 1)
    middle: list[int] = []
    for number in range(max(counts)):
        middle += [keep_first + layer for layer, count in enumerate(counts) if count > number]
    return (*range(keep_first), *middle, *range(layers - keep_last, layers))


def expand(layers: int, *, every: int, keep_first: int = 0, keep_last: int = 0) -> Map:
    """One extra copy of the last layer of each group of `every` (LLaMA-Pro, arXiv 2401.02415).

    >>> expand(4, every=2)
    (0, 1, 1, 2, 3, 3)
    """
    _check_edges(layers, keep_first, keep_last)
    middle = layers - keep_first - keep_last
    if not 1 <= every <= middle:
        raise UsageError(
            Parameter("every", every) + f" does not fit: {middle} layers can be expanded",
            f"take a number from 1 to {middle}",
        )
    new: list[int] = []
    for old in range(layers):
        new.append(old)
        position = old - keep_first
        if 0 <= position < middle and (position + 1) % every == 0:
            new.append(old)
    return tuple(new)


def overlap(layers: int, *, drop: int) -> Map:
    """The model without its last `drop` layers, then without its first (SOLAR, arXiv 2312.15166).

    >>> overlap(4, drop=1)
    (0, 1, 2, 1, 2, 3)
    """
    if not 0 <= drop < layers:
        raise UsageError(
            Parameter("drop", drop) + f" does not fit a model of {layers} layers",
            f"take a number from 0 to {layers - 1}; SOLAR dropped 8 of 32",
        )
    return (*range(layers - drop), *range(drop, layers))


def free(text: str, layers: int) -> Map:
    """The layer map that a list such as `0,0,1-3` spells out; ranges include both ends.

    >>> free("0,0,1-3", 4)
    (0, 0, 1, 2, 3)
    """
    new: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if not found:
            raise UsageError(
                Parameter("layers") + f": {part.strip()!r} is not a layer number or a range",
                "write it like 0,0,1,1-3",
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last or last >= layers:
            why = f"{part.strip()} is outside the model's layers 0 to {layers - 1}"
            if last < layers:
                why = f"the range {part.strip()} runs backwards"
            raise UsageError(Parameter("layers") + f": {why}")
        new += range(first, last + 1)
    return tuple(new)


def spell(numbers: Iterable[int]) -> str:
    """Numbers as a list that `free` reads: what follows one by one is a range.

    >>> spell((0, 0, 1, 2, 3, 3))
    '0,0-3,3'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def copies(experts: int, *, to: int, order: str = "append", group: int = 1) -> Map:
    """Experts duplicated to `to` in all (arXiv 2510.08008, Eq. 4), evenly where it does not divide.

    `append` puts the copies after all the originals, `interleave` beside each original. Experts
    of a `group` are appended together where `to` is a whole number of groups.

    >>> copies(3, to=6)
    (0, 1, 2, 0, 1, 2)
    >>> copies(3, to=6, order="interleave")
    (0, 0, 1, 1, 2, 2)
    >>> copies(4, to=6)
    (0, 1, 2, 3, 1, 3)
    >>> copies(4, to=6, group=2)
    (0, 1, 2, 3, 2, 3)
    """
    if order == "interleave":
        return interpose(experts, to=to)
    if to % group:
        group = 1
    groups = stack(experts // group, to=to // group)
    return tuple(number * group + member for number in groups for member in range(group))


def grid(experts: int, *, to: int, order: str = "append") -> Map:
    """Experts on a square grid of keys, each key copied equally often: `to` must be a square more.

    >>> grid(4, to=16)
    (0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 2, 3, 2, 3)
    """
    side, times = math.isqrt(experts), math.isqrt(to // experts)
    if to != experts * times * times:
        raise UsageError(
            f"the {experts} experts stand on a grid of {side} by {side} keys, which can only grow"
            f" by a square, not to {to}",
            "use " + Parameter("experts", "4x") + f" for {4 * experts} or 9x for {9 * experts}",
        )
    keys = copies(side, to=side * times, order=order)
    return tuple(row * side + column for row in keys for column in keys)


def with_skip(experts: int, *, to: int) -> Map:
    """Experts beside a class that skips, which has to be copied too: m·(experts + 1) - 1 in all.

    The copies of the skip class are experts that do nothing.

    >>> with_skip(2, to=5)
    (0, 1, 0, 1, -1)
    """
    times, rest = divmod(to + 1, experts + 1)
    if rest:
        raise UsageError(
            f"the router has a class that skips beside its {experts} experts, and both must be"
            f" copied equally often, which {to} experts cannot serve",
            "use "
            + Parameter("experts", "2x")
            + f" for {2 * experts + 1} or 3x for {3 * experts + 2}",
        )
    return identity(experts) * times + (NULL,) * (times - 1)


def factor(text: str, name: str) -> Fraction:
    """The number in `2x`, `2` or `1.5x`, at least 1; raises UsageError for anything else.

    `name` is that of the parameter.

    >>> factor("1.5x", "times")
    Fraction(3, 2)
    """
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*[xX×]?\s*", text)
    if not found:
        raise UsageError(
            Parameter(name) + f" {text!r} is not a factor", "write it like " + Parameter(name, "2x")
        )
    value = Fraction(found[1])
    if value < 1:
        raise UsageError(
            Parameter(name, text) + " makes the model smaller", "the factor must be at least 1x"
        )
    return value


def _counts(layers: int, to: int, keep_first: int, keep_last: int, group: int) -> tuple[int, ...]:
    """How often each group of the layers between the kept edges occurs in `to` layers."""
    _check_edges(layers, keep_first, keep_last)
    middle = layers - keep_first - keep_last
    if group < 1 or middle % group:
        fitting = [size for size in range(1, middle + 1) if middle % size == 0]
        raise UsageError(
            Parameter("group", group) + f" does not divide the {middle} layers that are repeated",
            f"sizes that do: {', '.join(map(str, fitting))}",
        )
    wanted = to - keep_first - keep_last
    if wanted < middle:
        raise UsageError(
            f"the result would have {to} layers, fewer than the {layers} there are",
            "use " + Parameter("layers") + " to leave layers out on purpose",
        )
    if wanted % group:
        raise UsageError(f"{wanted} repeated layers are not a whole number of groups of {group}")
    return spread(middle // group, wanted // group)


def _check_edges(layers: int, keep_first: int, keep_last: int) -> None:
    if keep_first < 0 or keep_last < 0:
        raise UsageError(
            Parameter("keep_first") + " and " + Parameter("keep_last") + " cannot be negative"
        )
    if keep_first + keep_last >= layers:
        raise UsageError(
            Parameter("keep_first", keep_first)
            + " and "
            + Parameter("keep_last", keep_last)
            + f" leave nothing to repeat of {layers} layers"
        )
