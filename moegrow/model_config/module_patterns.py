"""Rewrite regular expressions over module names for the copies of layers and experts."""

import re
from functools import partial
from typing import NamedTuple

from moegrow.files.linear_regex import compiled
from moegrow.model_config.layer_copies import CopyNumbers, NumberedCopy, begun

MOST_TRIES = 1_000_000  # of numbers, for all expressions of one config

NOTHING = r"[^\s\S]"  # what no text matches
# A part of a pattern that every number matches.
_EVERY = re.compile(r"\(?(?:\?:)?(?:(?:\.|\\d|\[0-9\]|\[\^\\?\.\])[*+]|\*)\??\)?")
# A part that some numbers match.
_SOME = re.compile(r"(?:[0-9|()?:-]|\\d[+*]?|\[[0-9-]+\][+*]?)+")
_REPEATED = re.compile(r"\)[*+{]")
# Numbers, one by one.
_PLAIN = re.compile(r"([0-9]+)|\((?:\?:)?([0-9]+(?:\|[0-9]+)*)\)")
# Behind a number that is to end there; it was a lookahead before.
_ENDS = ("\\b", "(?![0-9])")
# Digits that are part of a name, such as w1 or w[13], and what every number matches.
_IN_NAMES = re.compile(r"(?<!\\)[A-Za-z_](?:[0-9]+|\[[0-9]+\])|(?:\\d|\[0-9\])[+*]")
# A number behind a whole word, which may be another than those for layers and experts.
_BEHIND = re.compile(
    r"(?:(?<=[A-Za-z_]\\\.)|(?<=[A-Za-z_]\.)|^)([A-Za-z_]+)\\?\."
    r"(?:[0-9]+|\([0-9|]+\)|\[[0-9-]+\])(?=\\?\.|$)"
)
# What may be a number of ours where it is none of these.
_STRAY = re.compile(r"[0-9]|\\d")


class Inside(NamedTuple):
    """The copies in whose entries something stands, such as that of a layer and of an expert."""

    layer: NumberedCopy | None = None
    expert: NumberedCopy | None = None


class _Place(NamedTuple):
    """What stands around a number: is it `ended` by what follows, and may more digits follow."""

    is_ended: bool
    is_open: bool


class Expressions:
    """Rewrites expressions; `has_others` says that other stacks have layers of the same name.

    All that is refused is a ValueError with the reason.
    """

    def __init__(self, layers: CopyNumbers, experts: CopyNumbers, *, has_others: bool) -> None:
        self._layers, self._experts, self._has_others = layers, experts, has_others
        words = "|".join(map(re.escape, layers.words | experts.words))
        self._words = re.compile(rf"(?<![A-Za-z0-9_])({words})(\\?\.)")
        self._known = {word.lower() for word in layers.words | experts.words}
        self._matching: dict[tuple[str, bool, int], frozenset[int]] = {}
        self._tries = 0

    def rewritten(self, pattern: str, inside: Inside) -> str:
        """A regular expression with the numbers of the copies in place of those it names."""
        made: list[str] = []
        rest: list[str] = []
        position = 0
        for found in self._words.finditer(pattern):
            start = found.end()
            is_any = found[2] == "." and pattern[start : start + 1] in ("*", "+", "?")
            if start < position or is_any:
                continue
            stop = _end(pattern, start)
            part = pattern[start:stop]
            for texts in (made, rest):
                texts.append(pattern[position:start])
            position = stop
            is_layer = found[1] in self._layers.words
            if not part or re.match(r"[A-Za-z_]", part):
                made.append(part)
                rest.append(part)
                continue
            behind = pattern[stop : stop + 2]
            is_open = behind in (".*", ".+")
            place = _Place(behind[:1] in ("\\", ".", "$") and not is_open, is_open)
            made.append(self._part(part, place, inside, is_layer=is_layer))
        made.append(pattern[position:])
        rest.append(pattern[position:])
        others = _BEHIND.sub(
            lambda at: at[0] if at[1].lower() in self._known else "", "".join(rest)
        )
        if _STRAY.search(_IN_NAMES.sub("", others)):
            raise ValueError("has numbers that are not behind the word for layers or experts")
        return "".join(made)

    def _part(self, part: str, place: _Place, inside: Inside, *, is_layer: bool) -> str:
        end = next((end for end in _ENDS if part.endswith(end)), "")
        number = part.removesuffix(end)
        if part in (NOTHING, "(?!)") or (_EVERY.fullmatch(number) and not end):
            return part
        if not _SOME.fullmatch(number) or _REPEATED.search(number):
            raise ValueError(f"has {part[:100]!r} in the place of a number")
        if is_layer and self._layers.is_mapped and self._has_others:
            raise ValueError("may mean several stacks of layers")
        numbers = self._layers if is_layer else self._experts
        if end:
            place = _Place(is_ended=True, is_open=False)
        made = self._mapped(number, numbers, place, inside.layer if is_layer else inside.expert)
        return made + _ENDS[0] if end and made != NOTHING else made

    def _mapped(
        self, part: str, numbers: CopyNumbers, place: _Place, inside: NumberedCopy | None
    ) -> str:
        """The part of an expression that the copies match of all that `part` matches.

        Expressions match beginnings: unless a number `is_ended`, 1 begins 10 too. Where it
        `is_open` that is meant, and else nothing tells.
        """
        matching = partial(self._matched, part, is_whole=place.is_ended)
        meant = numbers.present(matching(numbers.old_total))
        whole = partial(self._matched, part, is_whole=True)
        if not (place.is_ended or place.is_open) and meant - whole(numbers.old_total):
            raise ValueError(f"ends in a number that begins those of other {numbers.what}s")
        new = numbers.copies(meant, inside)
        if set(new) == matching(numbers.total):
            return part
        if not new:
            return NOTHING
        return f"(?:{'|'.join(map(str, new))}){'' if place.is_ended else _ENDS[0]}"

    def _matched(self, part: str, total: int, *, is_whole: bool) -> frozenset[int]:
        """The numbers below `total` that a part of an expression matches."""
        key = part, is_whole, total
        if key not in self._matching:
            plain = _PLAIN.fullmatch(part)
            if plain:
                each = set((plain[1] or plain[2]).split("|"))
                found = frozenset(
                    number
                    for digits in each
                    for number in begun(digits, total)
                    if not is_whole or str(number) == digits
                )
                self._tries += len(found) + len(each)
            else:
                self._tries += total
                self._check_tries()
                pattern = compiled(part)
                is_meant = pattern.is_whole if is_whole else pattern.begins
                found = frozenset(number for number in range(total) if is_meant(str(number)))
            self._check_tries()
            self._matching[key] = found
        return self._matching[key]

    def _check_tries(self) -> None:
        if self._tries > MOST_TRIES:
            raise ValueError("is one of so many that they take too long to try")


def _end(pattern: str, start: int) -> int:
    """Where the part of a pattern ends that begins at `start`: before a dot that separates."""
    depth, position = 0, start
    while position < len(pattern):
        two = pattern[position : position + 2]
        is_open = two in (".*", ".+") and position == start
        if depth == 0 and (two == "\\." or (two[0] == "." and not is_open)):
            break
        if depth == 0 and two[0] in ")$|":
            break
        depth += (two[0] in "([") - (two[0] in ")]")
        position += 2 if two[0] == "\\" or two in (".*", ".+") else 1
    return position
