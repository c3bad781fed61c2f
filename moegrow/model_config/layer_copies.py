"""The new numbers of each old layer or expert in a growth."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from moegrow.maps import NULL

MOST_DIGITS = 9  # of a number that can be one of ours


class NumberedCopy(NamedTuple):
    """One copy of a layer or an expert, which is the one meant where `old` is named inside it."""

    old: int
    new: int


class Named(NamedTuple):
    """The copies that a name means, and whether their numbers begin those of others."""

    new: tuple[int, ...]
    begins_others: bool


class CopyNumbers:
    """What layers or experts are copied from: `sources[new]` is an old number.

    `what` they are is for messages, and `words` stand before their numbers in names.
    """

    def __init__(self, what: str, words: frozenset[str], sources: Sequence[int]) -> None:
        self.what, self.words = what, words
        self.total = len(sources)
        self.old_total = max([*sources, -1]) + 1
        self.is_mapped = any(new != old for new, old in enumerate(sources))
        self._sources = sources
        self._named: dict[tuple[str, bool], Named] = {}

    @cached_property
    def _copies(self) -> dict[int, list[int]]:
        found = defaultdict(list)
        for new, old in enumerate(self._sources):
            if old != NULL:
                found[old].append(new)
        return found

    def present(self, olds: Iterable[int]) -> frozenset[int]:
        """Those of some old numbers that have copies."""
        return frozenset(old for old in olds if old in self._copies)

    def copies(self, meant: Iterable[int], inside: NumberedCopy | None) -> list[int]:
        """The new numbers of the copies of some old ones; those that are none stay behind all.

        Of the one that is named in the entry of its copy, that copy alone.
        """
        return sorted(
            new
            for old in set(meant)
            for new in ([inside.new] if inside and old == inside.old else self._copies.get(old, ()))
        )

    def named(self, digits: str, *, has_star: bool, inside: NumberedCopy | None) -> Named:
        """What a number in a name means: one old number, or with a star all that begin so."""
        if inside and int(digits) == inside.old and not has_star:
            return Named((inside.new,), self._begin_others((inside.new,)))
        known = self._named.get((digits, has_star)) if inside is None else None
        if known is None:
            meant = begun(digits, self.old_total) if has_star else [int(digits)]
            new = tuple(self.copies(meant, inside))
            known = Named(new, self._begin_others(new))
            if inside is None:
                self._named[digits, has_star] = known
        return known

    def _begin_others(self, new: tuple[int, ...]) -> bool:
        known = set(new)
        return any(number not in known for one in new for number in begun(str(one), self.total))


def begun(digits: str, total: int) -> Iterator[int]:
    """The numbers below `total` whose digits begin so.

    >>> list(begun("1", 13))
    [1, 10, 11, 12]
    """
    if digits.startswith("0") or len(digits) > MOST_DIGITS:
        yield from [0] if digits == "0" and total else []
        return
    first, width = int(digits), 1
    while first < total:
        yield from range(first, min(first + width, total))
        first, width = first * 10, width * 10
