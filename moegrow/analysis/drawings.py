"""Draw maps, growths and profiles as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from moegrow.analysis.lineage import Axis, Start, Stretch, runs
from moegrow.analysis.norm_profile import Norms
from moegrow.errors import one_line, printable
from moegrow.maps import NULL, Map, repeats

CELL, GAP = 44, 6  # in units of the picture
MOST = 1024  # squares that are drawn
_WIDE, _HIGH, _LEFT, _BELOW = 480, 220, 62, 34
_DASHES = ("", "7 4")


def tag(name: str, text: object = "", **attributes: object) -> str:
    """An element with its text escaped; `class_` and the like lose their underscores.

    What no document may hold, such as the escape of terminals, is spelled out.

    >>> tag("b", "<i>", class_="x")
    '<b class="x">&lt;i&gt;</b>'
    """
    return raw(name, escape(printable(str(text))), **attributes)


def raw(name: str, inner: str, **attributes: object) -> str:
    """An element around what is markup already."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{inner}</{name}>"


def squares(old: Map, *, what: str, columns: int, silent: Sequence[bool] = ()) -> str:
    """A map as squares: one for each new layer or expert, with the number it was made from.

    The first copy of each is plain, the others are filled, and those that begin as the identity
    have a dashed edge.
    """
    copies = repeats(old)
    drawn = []
    for new, source in enumerate(old[:MOST]):
        row, column = divmod(new, columns)
        x, y = column * (CELL + GAP) + 1, row * (CELL + GAP) + 1
        kind = "copy" if copies[new] else "first"
        if new < len(silent) and silent[new]:
            kind += " silent"
        from_what = "made from none" if source == NULL else f"made from {what} {source}"
        shape = tag("rect", x=x, y=y, width=CELL, height=CELL, rx=5, class_=kind)
        number = tag(
            "text", "∅" if source == NULL else source, x=x + CELL / 2, y=y + CELL / 2 + 6,
            class_=f"n {kind}",
        )  # fmt: skip
        drawn.append(raw("g", tag("title", f"new {what} {new}, {from_what}") + shape + number))
    rows = -(-min(len(old), MOST) // columns)
    wide = min(columns, len(old)) * (CELL + GAP) - GAP + 2
    return raw(
        "svg", "".join(drawn), viewBox=f"0 0 {wide} {rows * (CELL + GAP) - GAP + 2}", role="img",
        aria_label=f"{len(old)} {what}s and the {what}s they were made from", class_="map",
        style=f"max-width:{wide}px",
    )  # fmt: skip


def curves(series: Mapping[str, Norms], *, what: str) -> str:
    """Norms over the depth of each model, one line each: the first plain, the next dashed.

    Models of different numbers of layers are laid over each other, first layer to last.
    """
    known = [value for norms in series.values() for value in norms if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    margin = (high - low or abs(high) or 1.0) * 0.08
    low, high = low - margin, high + margin
    parts = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = _HIGH - _BELOW - share * (_HIGH - _BELOW - 10)
        parts.append(tag("line", x1=_LEFT, x2=_WIDE, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", f"{value:.4g}", x=_LEFT - 8, y=f"{y + 5:.1f}", class_="axis end"))
    for number, (name, norms) in enumerate(series.items()):
        parts.append(_line(norms, low, high, name, number))
    parts.append(tag("text", "first layer", x=_LEFT, y=_HIGH - 8, class_="axis"))
    parts.append(tag("text", "last layer", x=_WIDE, y=_HIGH - 8, class_="axis end"))
    return raw(
        "svg", "".join(parts), viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", class_="plot",
        aria_label=f"norms of {what}, layer by layer",
    )  # fmt: skip


def _line(norms: Norms, low: float, high: float, name: str, number: int) -> str:
    """One model's norms; where a layer has none, the line has a gap."""
    points: list[tuple[float, float] | None] = []
    for layer, value in enumerate(norms):
        if value is None:
            points.append(None)
            continue
        x = _LEFT + (_WIDE - _LEFT) * (layer + 0.5) / len(norms)
        y = _HIGH - _BELOW - (value - low) / (high - low) * (_HIGH - _BELOW - 10)
        points.append((x, y))
    path = "".join(
        f"{'L' if before else 'M'}{at[0]:.1f} {at[1]:.1f}"
        for before, at in pairwise([None, *points])
        if at
    )
    dots = "".join(
        raw(
            "circle",
            tag("title", f"{name}, layer {layer}: {norms[layer]:.6g}"),
            cx=f"{at[0]:.1f}",
            cy=f"{at[1]:.1f}",
            r=3,
            class_=f"s{number}",
        )
        for layer, at in enumerate(points)
        if at
    )
    dashes = _DASHES[number % len(_DASHES)]
    return tag("path", d=path, class_=f"line s{number}", stroke_dasharray=dashes or "none") + dots


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


_KINDS = {
    Start.AS_OLD: "copy", Start.NOISY: "noise", Start.IDENTITY: "identity", Start.EMPTY: "none",
}  # fmt: skip


def _kind(part: Stretch) -> str:
    (mark,) = part.marks
    if not mark.is_copy and mark.start is not Start.EMPTY:
        return "first"
    return _KINDS[mark.start]


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
