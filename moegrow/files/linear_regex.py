"""Match untrusted regular expressions in linear time, or refuse them.

Python's own engine takes exponential time for some of them, so google-re2 matches them. What that
cannot express is looked at here as far as published configs have it: lookaheads at the start.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

LONGEST = 1 << 16  # characters of one expression
MOST_MEMORY = 1 << 20  # bytes that the engine may take for one
# Steps of the slowest way to match, for a text of some hundred characters and a large expression;
# an expression of fewer states than FREE is never counted.
MOST_STEPS, FREE = 1_000_000_000, 400

_FLAGS = re.compile(r"(?:\(\?[a-zA-Z]+\))?")
_AHEAD = ("(?!", "(?=")


class Pattern(NamedTuple):
    """A regular expression: texts match it by any of its alternatives."""

    alternatives: tuple["_Alternative", ...]

    @property
    def size(self) -> int:
        """The states of the automaton, which each character of a text may be tried in."""
        return sum(one.size for one in self.alternatives)

    def begins(self, text: str) -> bool:
        """Whether the beginning of a text matches."""
        return any(one.matches(text, is_whole=False) for one in self.alternatives)

    def is_whole(self, text: str) -> bool:
        """Whether all of a text matches."""
        return any(one.matches(text, is_whole=True) for one in self.alternatives)


class _Alternative(NamedTuple):
    """What must match at the start, or must not, before the rest does."""

    ahead: tuple[tuple[bool, Any], ...]
    rest: Any

    @property
    def size(self) -> int:
        return sum(int(one.programsize) for one in (self.rest, *(one for _, one in self.ahead)))

    def matches(self, text: str, *, is_whole: bool) -> bool:
        raw = text.encode("utf-8", "replace")
        matched = self.rest.fullmatch(raw) if is_whole else self.rest.match(raw)
        return matched is not None and all(
            (one.match(raw) is not None) == is_wanted for is_wanted, one in self.ahead
        )


class Budget:
    """What may be spent on matching the expressions of one config."""

    def __init__(self) -> None:
        self._steps = 0

    def begins(self, pattern: Pattern, text: str) -> bool:
        """Whether the beginning of a text matches; ValueError where all took too many steps."""
        if pattern.size > FREE:
            self._steps += pattern.size * (len(text) + 1)
        if self._steps > MOST_STEPS:
            raise ValueError("its regular expressions take too long to try")
        return pattern.begins(text)


@lru_cache(maxsize=64)
def compiled(text: str) -> Pattern:
    """The regular expression that `text` is.

    Raises ValueError with the reason where it is none, or where it cannot be matched in linear
    time, such as one with a backreference.
    """
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters, and the most is {LONGEST}")
    if not any(mark in text for mark in _AHEAD):
        return Pattern((_Alternative((), _engine(text)),))
    found = _FLAGS.match(text)
    flags = found[0] if found else ""
    parts = _alternatives(text[len(flags) :])
    return Pattern(tuple(_alternative(part, flags) for part in parts))


def joined(texts: Iterable[str]) -> Pattern:
    """One expression that matches wherever one of several does; ValueError as `compiled`."""
    patterns = [compiled(text) for text in texts]
    plain = [one.rest.pattern for each in patterns for one in each.alternatives if not one.ahead]
    others = [one for each in patterns for one in each.alternatives if one.ahead]
    if len(plain) < 2:
        return Pattern(tuple(one for each in patterns for one in each.alternatives))
    return Pattern((_Alternative((), _engine("|".join(f"(?:{one})" for one in plain))), *others))


def _engine(text: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MOST_MEMORY
    try:
        return re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if isinstance(error, re2.error) else b"it is no text"
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"is no regular expression, or none that can be matched in linear time: {told[:100]}"
        ) from None


def _alternative(text: str, flags: str) -> _Alternative:
    ahead = []
    while True:
        if text.startswith("^"):
            text = text[1:]
        elif text.startswith(_AHEAD):
            end = next(at for at, depth in _depths(text) if not depth)
            ahead.append((text.startswith("(?="), _engine(flags + text[3:end])))
            text = text[end + 1 :]
        else:
            return _Alternative(tuple(ahead), _engine(flags + text))


def _alternatives(text: str) -> Iterator[str]:
    """The parts of an expression between the bars that are in no group."""
    start = 0
    for at, depth in _depths(text):
        if not depth and text[at] == "|":
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Where an expression has a bracket or a bar, and in how many groups one is behind it.

    Raises ValueError where the brackets do not match each other.
    """
    depth, at = 0, 0
    while at < len(text):
        mark = text[at]
        if mark == "[":
            at = _class_end(text, at)
        elif mark in "()|":
            depth += (mark == "(") - (mark == ")")
            if depth < 0:
                break
            yield at, depth
        at += 2 if mark == "\\" else 1
    if depth:
        raise ValueError("is no regular expression: its brackets do not match each other")


def _class_end(text: str, start: int) -> int:
    """Where the set of characters ends that begins at `start`."""
    at = start + 1
    at += text[at : at + 1] == "^"
    at += text[at : at + 1] == "]"
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at
