"""Parse untrusted TOML in time and memory that are linear in its length."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from moegrow.errors import MoegrowError

# In one line, outside texts: tomllib keeps every beginning of a key with dots.
MOST_DOTS = 16
DEEPEST = 64  # tables and lists within each other
LARGEST_BITS = 64  # of a number, which is what TOML asks for

# What ends the text that a mark begins, or is not ended by it on this line.
_ENDS = {
    '"""': re.compile(r'(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}|\Z)?', re.DOTALL),
    "'''": re.compile(r"(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)?"),
    '"': re.compile(r'(?:[^"\\\n]++|\\.)*+"?'),
    "'": re.compile(r"[^'\n]*+'?"),
    "#": re.compile(r"[^\n]*+"),
}
_BEGINS = re.compile(r"\"\"\"|'''|\"|'|#")


def loads(text: str, what: str) -> dict[str, Any]:
    """The TOML in `text`; `what` names it in errors.

    Raises MoegrowError where it is none, and where a key, a number or a nesting is larger than any
    that moegrow's own files have.
    """
    dots = max((line.count(".") for line in _bare(text).split("\n")), default=0)
    if dots > MOST_DOTS:
        raise MoegrowError(
            f"{what} has {dots} dots in one line outside texts, and the most is {MOST_DOTS}",
            "write tables within each other under headers, [like.this]",
        )
    try:
        table = tomllib.loads(text)
    # Numbers of more digits than Python turns into one are a ValueError, and some of tomllib's own
    # bugs end in others.
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MoegrowError(f"{what} is not valid TOML: {str(error)[:300]}") from None
    except RecursionError:
        raise MoegrowError(f"{what} nests too deeply to be read") from None
    _check(table, what)
    return table


def _bare(text: str) -> str:
    """The text without comments, and with a mark in place of every text within it."""
    return "".join(_parts(text.replace("\r\n", "\n")))


def _parts(text: str) -> Iterator[str]:
    position = 0
    while begin := _BEGINS.search(text, position):
        yield text[position : begin.start()]
        end = _ENDS[begin[0]].match(text, begin.end())
        assert end
        yield "" if begin[0] == "#" else "s"
        position = end.end()
    yield text[position:]


def _check(table: dict[str, Any], what: str) -> None:
    """Raise MoegrowError where tables and lists nest too deeply, or a number is too large."""
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        inner = [
            value for item in level for value in (item.values() if isinstance(item, dict) else item)
        ]
        if any(isinstance(one, int) and one.bit_length() > LARGEST_BITS for one in inner):
            raise MoegrowError(f"{what} holds a number of more than {LARGEST_BITS} bits")
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return
    raise MoegrowError(f"{what} nests too deeply to be read: more than {DEEPEST} levels")
