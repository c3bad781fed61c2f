"""Format counts, sizes, tables and tensor names as short text for a terminal or a notebook."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from textwrap import wrap

from moegrow import maps

Rows = Sequence[Sequence[str]]


def text(rows: Rows) -> str:
    """The rows with their cells one below the other, numbers at the right.

    >>> print(text([("layers", "4", "8"), ("size", "1.1 MB", "2.2 MB")]))
    layers       4       8
    size    1.1 MB  2.2 MB
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def html(rows: Rows, sentences: Sequence[str] = (), *, heading: bool = False) -> str:
    """The rows as a table, with sentences below it; every text is escaped.

    >>> html([("<b>", "4")])
    '<table><tr><th>&lt;b&gt;</th><td>4</td></tr></table>'
    """
    lines = []
    for number, (first, *others) in enumerate(rows):
        tag = "th" if heading and not number else "td"
        cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in others)
        lines.append(f"<tr><th>{escape(first)}</th>{cells}</tr>")
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f"<table>{''.join(lines)}</table>{below}"


def wrapped(sentence: str, width: int | None, indent: str = "  ") -> list[str]:
    """A sentence in lines of so many columns, broken between words; whole where there is no width.

    `indent` is what all lines but the first begin with. No line has to have fewer than 40 columns.
    """
    if width is None:
        return [sentence]
    lines = wrap(
        sentence, max(width, 40), subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines or [""]


def groups(names: Iterable[str]) -> list[tuple[str, int]]:
    """Names that differ in numbers alone, as one pattern each with how many there are.

    >>> groups(["layers.0.up", "layers.1.up", "norm"])
    [('layers.{0-1}.up', 2), ('norm', 1)]
    """
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        parts = re.split(r"(?<=\.)([0-9]{1,9})(?=\.|$)", name)
        found["\0".join(parts[::2])].append(tuple(map(int, parts[1::2])))
    patterns = []
    for template, numbers in found.items():
        ranges = [_ranges(sorted(set(slot))) for slot in zip(*numbers, strict=True)]
        words = zip_longest(template.split("\0"), ranges, fillvalue="")
        patterns.append(("".join(word for pair in words for word in pair), len(numbers)))
    return patterns


def _ranges(numbers: list[int]) -> str:
    spelled = maps.spell(numbers)
    return spelled if len(numbers) == 1 else "{" + spelled + "}"


def count(number: int) -> str:
    """A count of parameters for people.

    >>> count(30_532_122_624)
    '30.5 B'
    """
    return _short(number, ("", " K", " M", " B", " T"))


def size(number: int) -> str:
    """A number of bytes for people, in powers of ten as disks are sold.

    >>> size(61_064_245_248)
    '61.1 GB'
    """
    return _short(number, (" bytes", " KB", " MB", " GB", " TB"))


def _short(number: int, units: tuple[str, ...]) -> str:
    value, unit = float(number), 0
    while value >= 999.95 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f}{units[unit]}" if unit else f"{number}{units[0]}"
