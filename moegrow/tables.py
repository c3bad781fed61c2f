"""Rows of text as a table: for a terminal, and as HTML for a notebook."""

from collections.abc import Sequence
from html import escape

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
