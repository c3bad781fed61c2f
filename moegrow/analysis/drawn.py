"""Maps and profiles as SVG, for pages that load nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from moegrow.analysis.profiles import Norms
from moegrow.errors import printable
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
