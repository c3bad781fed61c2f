"""A growth as a drawing: ribbons from the old layers and experts to the new ones, as SVG."""

from collections.abc import Iterator
from html import escape

from moegrow.analysis.lineage import Axis, Stretch, runs
from moegrow.errors import one_line

WIDTH, MARGIN = 720, 40
_BAR, _GAP = 22, 110  # heights: of a bar, and of what lies between two
_PANEL = 2 * _BAR + _GAP + 108

# Colours of Okabe and Ito on both schemes; patterns say the same as colours.
_FIRST, _COPY = "#56b4e9", "#e69f00"
_INK = "#14171a"
_STYLE = """\
svg{--panel:#f5f6f8;--text:#1b1f24;--muted:#57606a}
@media (prefers-color-scheme:dark){svg{--panel:#22262e;--text:#eceff3;--muted:#b3bbc6}}
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
text{fill:var(--text)}
.title{font-size:18px;font-weight:600}
.label{font-size:16px}
.tick{font-size:15px;fill:var(--muted);text-anchor:middle}
.panel{fill:var(--panel)}"""
_PATTERNS = f"""\
<pattern id="noise" width="6" height="6" patternUnits="userSpaceOnUse">\
<circle cx="1.5" cy="1.5" r="1" fill="{_INK}"/><circle cx="4.5" cy="4.5" r="1" fill="{_INK}"/>\
</pattern>
<pattern id="identity" width="7" height="7" patternUnits="userSpaceOnUse" \
patternTransform="rotate(45)"><rect width="2.4" height="7" fill="{_INK}"/></pattern>"""


def drawing(name: str, grown: list[Axis]) -> str:
    """The axes that have grown, one panel each below the other; `name` is what they are of."""
    kinds = {_kind(part) for axis in grown for part in runs(axis)}
    legend = [
        (kind, words)
        for kind, words in (
            ("first", "as it was"), ("copy", "a copy"), ("noise", "a copy with noise"),
            ("identity", "a copy that begins as the identity"), ("none", "does nothing"),
        )
        if kind in kinds
    ]  # fmt: skip
    height = 44 + _PANEL * len(grown) + 26 * len(legend) + 12
    says = ". ".join(f"{axis.old} {axis.name} become {len(axis.map)}" for axis in grown)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img">',
        f"<title>{escape(one_line(name))}</title>",
        f"<desc>{escape(says)}.</desc>",
        f"<style>\n{_STYLE}\n</style>",
        f"<defs>\n{_PATTERNS}\n</defs>",
        f'<rect class="panel" width="{WIDTH}" height="{height}" rx="10"/>',
        _text(20, 32, name, "title"),
    ]
    top = 44
    for axis in grown:
        lines += _panel(axis, top)
        top += _PANEL
    for kind, words in legend:
        lines += _box(20, top, 30, 18, kind)
        lines.append(_text(60, top + 15, words))
        top += 26
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(axis: Axis, top: float) -> Iterator[str]:
    """One axis: the old numbers above the new ones, and ribbons between them."""
    unit = (WIDTH - 2 * MARGIN) / max(axis.old, len(axis.map))
    old_left = (WIDTH - unit * axis.old) / 2
    new_left = (WIDTH - unit * len(axis.map)) / 2
    upper = top + 52
    lower = upper + _BAR + _GAP
    yield _text(20, top + 24, f"{axis.old} old {axis.name}, and {len(axis.map)} new ones below")
    yield from _ticks(axis.old, old_left, unit, upper - 7)
    bars = []
    for part in runs(axis):
        kind = _kind(part)
        new_x, width = new_left + part.new * unit, part.length * unit
        if kind != "none":
            old_x = old_left + part.old * unit
            yield _ribbon(old_x, upper + _BAR, new_x, lower, width, kind)
        bars += _box(new_x, lower, width, _BAR, kind)
    yield from _box(old_left, upper, unit * axis.old, _BAR, "first")
    yield from bars
    yield from _ticks(len(axis.map), new_left, unit, lower + _BAR + 18)


def _kind(part: Stretch) -> str:
    (mark,) = part.marks
    if "nothing" in mark.note:
        return "none"
    if not mark.is_copy:
        return "first"
    return "identity" if "identity" in mark.note else "noise" if mark.note else "copy"


def _ribbon(x: float, y: float, to_x: float, to_y: float, width: float, kind: str) -> str:
    middle = (y + to_y) / 2
    colour = _FIRST if kind == "first" else _COPY
    path = (
        f"M{x:.2f} {y:g}C{x:.2f} {middle:g} {to_x:.2f} {middle:g} {to_x:.2f} {to_y:g}"
        f"h{width:.2f}C{to_x + width:.2f} {middle:g} {x + width:.2f} {middle:g}"
        f" {x + width:.2f} {y:g}z"
    )
    return f'<path fill="{colour}" fill-opacity=".55" d="{path}"/>'


def _box(x: float, y: float, width: float, height: float, kind: str) -> list[str]:
    """A stretch of a bar; a thin gap at its end shows where the next begins."""
    gap = 1 if width > 4 else 0
    size = f'x="{x:.2f}" y="{y:g}" width="{width - gap:.2f}" height="{height:g}"'
    if kind == "none":
        return [f'<rect {size} fill="none" stroke="{_COPY}" stroke-width="1.5"/>']
    colour = _FIRST if kind == "first" else _COPY
    found = [f'<rect {size} fill="{colour}"/>']
    if kind in ("noise", "identity"):
        found.append(f'<rect {size} fill="url(#{kind})"/>')
    return found


def _ticks(count: int, left: float, unit: float, y: float) -> Iterator[str]:
    """Numbers along a bar, as close as they can be read; the last is always there."""
    wide = 9.5 * len(str(count - 1)) + 12
    steps = (step * 10**power for power in range(7) for step in (1, 2, 5))
    step = next(step for step in steps if step * unit >= wide)
    places = [place for place in range(0, count, step) if (count - 1 - place) * unit >= wide]
    for place in [*places, count - 1]:
        yield _text(left + (place + 0.5) * unit, y, place, "tick")


def _text(x: float, y: float, words: object, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:g}">{escape(one_line(str(words)))}</text>'
