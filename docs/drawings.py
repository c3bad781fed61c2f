"""Make the drawings of the pages: `python docs/drawings.py` writes docs/drawings/*.svg.

The maps are those that moegrow computes. Each drawing is 360 units wide, so that its text can be
read on a phone, and follows the light or dark scheme of what it is shown in. Colours are those of
Okabe and Ito, which colour-blind readers can tell apart; numbers say the same as colours.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from moegrow import maps

FOLDER = Path(__file__).parent / "drawings"
WIDTH = 360
COLOURS = ("#56b4e9", "#e69f00", "#2bb58c", "#d992ba")
LIGHT = {"panel": "#f5f6f8", "text": "#1b1f24", "muted": "#57606a", "edge": "#1b1f24"}
DARK = {"panel": "#22262e", "text": "#eceff3", "muted": "#b3bbc6", "edge": "#f5f6f8"}
INK = "#14171a"  # on tiles, in both schemes

TILE, GAP, PITCH = 37, 5, 42


def variables(scheme: dict[str, str]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in scheme.items())


STYLE = f"""\
svg{{{variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}
text{{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}
text{{fill:var(--text)}}
.panel{{fill:var(--panel)}}
.label{{font-size:12.5px}}
.on{{fill:{INK};font-size:13px;font-weight:600}}
.small{{font-size:11.5px;font-weight:400}}
.index{{font-size:11.5px;fill:var(--muted);text-anchor:middle}}
.number{{font-size:15px;font-weight:600;fill:{INK};text-anchor:middle}}
.middle{{text-anchor:middle}}
.thread{{fill:none;stroke-width:2.2;stroke-linecap:round}}
.chosen{{fill:none;stroke:var(--edge);stroke-width:2.4}}
.arrow{{fill:none;stroke:var(--muted);stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}}
.seam{{stroke:var(--muted);stroke-width:1.6;stroke-dasharray:3 4;stroke-linecap:round}}"""

PATTERNS = f"""\
<pattern id="noise" width="6" height="6" patternUnits="userSpaceOnUse">\
<circle cx="1.5" cy="1.5" r=".95" fill="{INK}"/><circle cx="4.5" cy="4.5" r=".95" fill="{INK}"/>\
</pattern>
<pattern id="identity" width="7" height="7" patternUnits="userSpaceOnUse" \
patternTransform="rotate(45)"><rect width="2.4" height="7" fill="{INK}"/></pattern>"""


def drawing(title: str, says: str, height: float, parts: Iterable[str]) -> str:
    """A whole SVG file; `says` describes it to those who do not see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
            f' width="{WIDTH}" height="{height:g}" role="img">',
            f"<title>{title}</title>",
            f"<desc>{says}</desc>",
            f"<style>\n{STYLE}\n</style>",
            f"<defs>\n{PATTERNS}\n</defs>",
            f'<rect class="panel" width="{WIDTH}" height="{height:g}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: object, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, round_: float = 5) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}"'
        f' fill="{fill}"/>'
    )


def tile(x: float, y: float, old: int, *, height: float = 32, pattern: str = "") -> list[str]:
    """A layer or an expert with the number of the one it is made from."""
    parts = [box(x, y, TILE, height, COLOURS[old])]
    if pattern:
        # The number stands on a plain patch, so that no stroke of the pattern runs through it.
        parts.append(box(x, y, TILE, height, f"url(#{pattern})"))
        parts.append(box(x + 10, y + height / 2 - 10, TILE - 20, 20, COLOURS[old], 4))
    return [*parts, text(x + TILE / 2, y + height / 2 + 5.2, old, "number")]


def starts(count: int) -> list[float]:
    """Where the tiles of a row begin, the row in the middle."""
    margin = (WIDTH - count * PITCH + GAP) / 2
    return [margin + place * PITCH for place in range(count)]


def thread(start: tuple[float, float], stop: tuple[float, float], old: int) -> str:
    """A line from a tile of the source to one that is made from it."""
    (x, y), (to_x, to_y) = start, stop
    bend = (to_y - y) / 2
    curve = f"M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"
    return f'<path class="thread" stroke="{COLOURS[old]}" d="{curve}"/>'


def legend(y: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    """What the patterns mean: a small tile with each, and a word."""
    parts: list[str] = []
    for row, (kind, words) in enumerate(entries):
        top = y + row * 22
        parts.append(box(14, top, 22, 15, COLOURS[0], 4))
        if kind == "chosen":
            parts.append(f'<rect class="chosen" x="14" y="{top:g}" width="22" height="15" rx="4"/>')
        else:
            parts.append(box(14, top, 22, 15, f"url(#{kind})", 4))
        parts.append(text(44, top + 12, words))
    return parts


def layers(title: str, a_map: maps.Map, *, identity: bool = False, seam: int = 0) -> str:
    """A source of four layers above the layers that a map makes of it."""
    count = max(a_map) + 1
    top, bottom = 32, 110
    above, below = starts(count), starts(len(a_map))
    silent = [identity and repeated for repeated in maps.repeats(a_map)]
    parts = [text(14, 22, "layers of the source")]
    for old, x in enumerate(above):
        parts += tile(x, top, old)
    threads, tiles = [], []
    for new, (old, x) in enumerate(zip(a_map, below, strict=True)):
        threads.append(thread((above[old] + TILE / 2, top + 35), (x + TILE / 2, bottom - 3), old))
        tiles += tile(x, bottom, old, pattern="identity" if silent[new] else "")
        tiles.append(text(x + TILE / 2, bottom + 47, new, "index"))
    if seam:
        x = below[seam] - GAP / 2
        tiles.append(f'<path class="seam" d="M{x:g} {bottom - 14}V{bottom + 48}"/>')
    parts += [*threads, *tiles, text(14, bottom + 70, "new layers, numbered from 0")]
    height = bottom + 84.0
    if identity:
        parts += legend(bottom + 84, [("identity", "begins as the identity")])
        height += 26
    numbers = ", ".join(map(str, a_map))
    says = f"Layers 0 to {count - 1} of the source become {len(a_map)}, made from {numbers}."
    return drawing(title, says, height, parts)


def experts(title: str, a_map: maps.Map, chosen: Sequence[int]) -> str:
    """Four experts with their rows of the router above the eight that a map makes of them."""
    count = max(a_map) + 1
    top, bottom, high, row = 32, 134, 32, 9
    above, below = starts(count), starts(len(a_map))
    copied = maps.repeats(a_map)

    def expert(x: float, y: float, old: int, pattern: str) -> list[str]:
        parts = [*tile(x, y, old, height=high, pattern=pattern)]
        parts.append(box(x, y + high + 4, TILE, row, COLOURS[old], 3))
        if pattern:
            parts.append(box(x, y + high + 4, TILE, row, f"url(#{pattern})", 3))
        if old in chosen:
            parts.append(
                f'<rect class="chosen" x="{x:g}" y="{y:g}" width="{TILE}" height="{high}" rx="5"/>'
            )
        return parts

    parts = [text(14, 22, f"experts of the source, top-{len(chosen)}")]
    for old, x in enumerate(above):
        parts += expert(x, top, old, "")
    threads, tiles = [], []
    for new, (old, x) in enumerate(zip(a_map, below, strict=True)):
        start = (above[old] + TILE / 2, top + high + row + 7)
        threads.append(thread(start, (x + TILE / 2, bottom - 4), old))
        tiles += expert(x, bottom, old, "noise" if copied[new] else "")
        tiles.append(text(x + TILE / 2, bottom + high + row + 19, new, "index"))
    below_all = bottom + high + row + 42
    top_k = sum(old in chosen for old in a_map)
    parts += [*threads, *tiles, text(14, below_all, f"new experts, top-{top_k}")]
    parts += legend(
        below_all + 14,
        [("noise", "a copy, with noise"), ("chosen", "chosen by the router for some token")],
    )
    says = (
        f"Experts 0 to {count - 1} with their rows of the router become {len(a_map)}, made from"
        f" {', '.join(map(str, a_map))}. The copies have noise. Where the router chose"
        f" {len(chosen)} experts, it chooses the same and their copies, {top_k}."
    )
    return drawing(title, says, below_all + 62, parts)


CELL, STEP = 15, 18


def grid(x: float, y: float, rows: maps.Map, columns: maps.Map) -> list[str]:
    """A model as a grid of experts: a row for each layer, in the colour of its source layer."""
    copied = maps.repeats(columns)
    parts = []
    for layer, old in enumerate(rows):
        for expert in range(len(columns)):
            left, top = x + expert * STEP, y + layer * STEP
            parts.append(box(left, top, CELL, CELL, COLOURS[old], 3))
            if copied[expert]:
                parts.append(box(left, top, CELL, CELL, "url(#noise)", 3))
    return parts


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    head = (
        f"M{to_x - 6:g} {to_y - 5:g}L{to_x:g} {to_y:g}L{to_x - 6:g} {to_y + 5:g}"
        if y == to_y
        else f"M{to_x - 5:g} {to_y - 6:g}L{to_x:g} {to_y:g}L{to_x + 5:g} {to_y - 6:g}"
    )
    return f'<path class="arrow" d="M{x:g} {y:g}L{to_x:g} {to_y:g}{head}"/>'


def both() -> str:
    """Depth and width in either order: the way round a square."""
    layers_, experts_ = maps.identity(3), maps.identity(3)
    deep, wide = maps.interpose(3, to=6), maps.copies(3, to=6)
    left, right, top, low = 22, 222, 40, 190
    size, large = 3 * STEP - 3, 6 * STEP - 3
    parts = [
        text(left, 27, "3 layers of 3 experts"),
        text(right, 27, "3 layers of 6"),
        text(left, low + large + 21, "6 layers of 3"),
        text(right, low + large + 21, "6 layers of 6"),
        *grid(left, top, layers_, experts_),
        *grid(right, top, layers_, wide),
        *grid(left, low, deep, experts_),
        *grid(right, low, deep, wide),
        arrow(left + size + 16, top + size / 2, right - 16, top + size / 2),
        arrow(left + size + 16, low + large / 2, right - 16, low + large / 2),
        arrow(left + size / 2, top + size + 14, left + size / 2, low - 14),
        arrow(right + large / 2, top + size + 14, right + large / 2, low - 14),
    ]
    centre = (left + size + right) / 2
    middle = (top + size + low) / 2 + 4
    parts += [
        text(centre, top + size / 2 - 9, "width", "label middle"),
        text(centre, low + large / 2 - 9, "width", "label middle"),
        text(left + size / 2 + 10, middle, "depth"),
        text(right + large / 2 + 10, middle, "depth"),
        *legend(low + large + 34, [("noise", "a copy of an expert, with noise")]),
    ]
    says = (
        "A grid with a row for each layer and a cell for each expert. Depth doubles the rows,"
        " width doubles the columns, and both orders lead to the same grid."
    )
    return drawing("Both axes", says, low + large + 62, parts)


# From the command line down: each package, what it does, and the value that it hands on.
FLOORS = (
    ("cli", "commands, options, output", "Step"),
    ("analysis", "norms, seams, logits, reports", "Profile"),
    ("write", "shards, journal, publishing", "WriteJob"),
    ("kernels", "noise, casts, bytes of a tensor", "bytes"),
    ("planning", "maps to outputs, checks", "Plan"),
    ("model_config, recipes", "new config.json", "text"),
    ("families", "roles of tensors, config facts", "Layout"),
    ("quant", "codecs of quantised weights", "Codec"),
    ("checkpoint", "stores, headers, indexes", "Checkpoint"),
    ("files", "untrusted and atomic files", "bytes"),
)


def architecture() -> str:
    """The packages as floors, the command line on top; a floor imports from those below it."""
    top, high = 34, 42
    parts = [text(14, 22, "package"), text(WIDTH - 92, 22, "hands on")]
    for floor, (package, job, value) in enumerate(FLOORS):
        y = top + floor * (high + 4)
        parts.append(box(14, y, 236, high, COLOURS[0]))
        parts.append(f'<text class="on" x="24" y="{y + 17:g}">{package}</text>')
        parts.append(f'<text class="on small" x="24" y="{y + 33:g}">{job}</text>')
        parts.append(arrow(256, y + high / 2, 272, y + high / 2))
        parts.append(text(280, y + high / 2 + 4.5, value))
    low = top + len(FLOORS) * (high + 4)
    parts.append(text(14, low + 18, "A floor imports from the floors below it alone."))
    says = "Packages from top to bottom: " + ", ".join(package for package, _, _ in FLOORS) + "."
    return drawing("The packages of moegrow", says, low + 32, parts)


def favicon() -> str:
    """Two tiles that become four."""
    places = (4.5, 20.5)
    small = [box(x, 3, 7, 10, COLOURS[old], 2) for old, x in enumerate(places)]
    large = [box(1 + new * 8, 19, 6, 10, COLOURS[new // 2], 2) for new in range(4)]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        + "".join([*small, *large])
        + "</svg>\n"
    )


def drawings() -> dict[str, str]:
    """Every drawing, by the name of its file."""
    chosen = (1, 3)
    return {
        "interpose.svg": layers("Interpose", maps.interpose(4, to=8)),
        "stack.svg": layers("Stack", maps.stack(4, to=8), seam=4),
        "expand.svg": layers("Expand", maps.expand(4, every=2), identity=True),
        "overlap.svg": layers("Overlap", maps.overlap(4, drop=1), seam=3),
        "append.svg": experts("Append", maps.copies(4, to=8), chosen),
        "interleave.svg": experts("Interleave", maps.copies(4, to=8, order="interleave"), chosen),
        "both.svg": both(),
        "architecture.svg": architecture(),
        "favicon.svg": favicon(),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in drawings().items():
        (FOLDER / name).write_text(content)
