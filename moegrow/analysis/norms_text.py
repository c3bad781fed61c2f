"""Print norm profiles as a table with bars, or as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

from moegrow import display
from moegrow.analysis.norm_labels import labels
from moegrow.analysis.norm_profile import Norms, Profile
from moegrow.analysis.seams import DepthWay, told
from moegrow.errors import one_line
from moegrow.families.tensor_names import GROUPS

_EIGHTHS = "▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_BAR = 16  # columns of the longest bar


def table(
    profile: Profile, *, label: str = "", plain: bool = False, width: int | None = None
) -> str:
    """A profile as a table with a row a layer, and above it one curve for each group.

    Bars and curves go from the smallest value of a group to its largest. `label` is what it is
    called. `plain`: where only ASCII can be shown; then there are no curves, and bars are made of
    #. `width`: the columns of a terminal; what is wider is made to fit, as far as it can be.
    """
    groups = list(profile.norms)
    first = profile.norms[groups[0]] if groups else ()
    cells = [["layer", groups[0] if groups else "", "", *groups[1:]]]
    for layer in range(profile.layers):
        others = [cell(profile.norms[group][layer]) for group in groups[1:]]
        drawn = bar(first, layer, plain=plain).ljust(_BAR) if first else ""
        cells.append([str(layer), cell(first[layer]) if first else "", drawn, *others])
    fitting = _narrowed(cells, (2,), width)
    return "\n".join([*_head(profile, label, plain=plain, width=width), "", _columns(fitting)])


def ways_table(
    profile: Profile,
    ways: Sequence[DepthWay],
    *,
    label: str = "",
    plain: bool = False,
    width: int | None = None,
) -> str:
    """The ways to deepen a model side by side: the largest jump of each group, in usual steps."""
    groups = [group for group in profile.norms if any(group in way.largest for way in ways)]
    cells = [["", "layers", "seams", *groups]]
    for way in ways:
        if not way.refused:
            largest = [way.largest.get(group) for group in groups]
            sizes = ["-" if it is None or it.times is None else f"{it.times:.1f}" for it in largest]
            cells.append([way.options, str(len(way.layers)), str(way.seams), *sizes])
    told_of = []
    for way in ways:
        if way.refused:
            told_of.append(f"{way.options} is refused: {' '.join(way.refused.split())}")
        elif (jump := way.largest.get(groups[0]) if groups else None) and jump.size:
            told_of.append(f"{way.options}: {groups[0]} jump between {told(jump)}")
    return "\n".join([
        *_head(profile, label, plain=plain, width=width), "",
        *display.wrapped("largest jump at a seam, in usual steps between neighbours:", width),
        display.text(_narrowed(cells, (2, 1), width)),
        *(line for sentence in told_of for line in display.wrapped(one_line(sentence), width)),
    ])  # fmt: skip


def _head(profile: Profile, label: str, *, plain: bool, width: int | None) -> list[str]:
    """What stands above a table: sentences, and curves where they can be shown."""
    lines = [
        line
        for sentence in sentences(profile, label)
        for line in display.wrapped(one_line(sentence), width)
    ]
    return lines if plain else [*lines, "", *curves(profile, width)]


def curves(profile: Profile, width: int | None = None) -> list[str]:
    """One curve for each group of a profile, between its smallest and its largest norm.

    Where the layers are more than fit into `width` columns, a mark stands for several of them.
    """
    ends = [
        (group, number(min(known)), number(max(known)), norms)
        for group, norms in profile.norms.items()
        if (known := present(norms))
    ]
    if not ends:
        return []
    beside = sum(max(map(len, column)) for column in zip(*(end[:3] for end in ends), strict=True))
    most = profile.layers if width is None else max(8, width - beside - 6)
    rows = [(group, low, curve(squeezed(norms, most)), high) for group, low, high, norms in ends]
    lines = display.text(rows).split("\n")
    if profile.layers > most:
        lines += display.wrapped(
            f"(a mark is the mean of {profile.layers / most:.1f} layers)", width
        )
    return lines


def squeezed(norms: Norms, most: int) -> Norms:
    """At most so many norms in the place of all, each the mean of a stretch of layers.

    >>> squeezed((1.0, 2.0, None, 4.0, None, None), 3)
    (1.5, 4.0, None)
    """
    if len(norms) <= most:
        return norms
    edges = [len(norms) * place // most for place in range(most + 1)]
    stretches = [present(norms[begin:end]) for begin, end in pairwise(edges)]
    return tuple(sum(known) / len(known) if known else None for known in stretches)


def _narrowed(cells: list[list[str]], spare: Sequence[int], width: int | None) -> list[list[str]]:
    """A table without those columns that can be spared, one after the other, until it fits."""
    for column in spare:
        widths = [max(map(len, its)) for its in zip(*cells, strict=True)]
        if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
            break
        cells = [[*row[:column], *row[column + 1 :]] for row in cells]
    return cells


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells one below the other at the right, as numbers are."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def sentences(profile: Profile, label: str = "") -> Iterator[str]:
    """What a profile is of, and what should be known before it is believed."""
    what = "predicted from its plan, " if profile.is_predicted else ""
    layers = f"{profile.layers} layer{'s' * (profile.layers != 1)}"
    yield f"{label or profile.name}: {layers}, {what}norm = root mean square of the weights"
    if profile.is_sample:
        yield (
            f"a sample: {display.count(profile.values)} of {display.count(profile.of)} weights"
            f" ({profile.share}), {profile.experts} of {profile.of_experts} experts a layer"
        )
    if profile.nonfinite:
        count = sum(profile.nonfinite.values())
        named = ", ".join(
            f"{name} ({n} tensors)" if n > 1 else name
            for name, n in display.groups(sorted(profile.nonfinite))
        )
        yield f"left out: {count} value{'s' * (count != 1)} that are NaN or infinite, in {named}"


def curve(norms: Norms) -> str:
    """Norms as a row of small bars, with a gap where a layer has none.

    >>> curve((1.0, None, 2.0, 1.5))
    '▁ █▅'
    """
    return "".join(
        " " if share is None else _HEIGHTS[min(7, int(share * 8))] for share in _shares(norms)
    )


def bar(norms: Norms, layer: int, *, plain: bool = False) -> str:
    """A bar for one layer, between the smallest and the largest of all.

    >>> bar((1.0, 2.0), 1, plain=True)
    '################'
    """
    share = _shares(norms)[layer]
    if share is None:
        return ""
    eighths = max(1, round(share * 8 * _BAR))
    if plain:
        return "#" * max(1, eighths // 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest - 1] if rest else "")


def comma_separated(profiles: Sequence[Profile]) -> Iterator[str]:
    """Lines of CSV: a heading, and a row for each layer of each profile."""
    yield _line(["source", "layer", *GROUPS])
    for label, profile in zip(labels(profiles), profiles, strict=True):
        for layer in range(profile.layers):
            norms = [
                profile.norms[group][layer] if group in profile.norms else None for group in GROUPS
            ]
            yield _line([label, layer, *("" if norm is None else repr(norm) for norm in norms)])


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def present(norms: Norms) -> list[float]:
    """The norms of the layers that have one."""
    return [norm for norm in norms if norm is not None]


def cell(norm: float | None) -> str:
    """A norm in a table, or a mark where there is none."""
    return "-" if norm is None else number(norm)


def number(norm: float) -> str:
    """A norm for people: four digits that count.

    >>> number(0.03231234), number(1.0), number(0.0)
    ('0.03231', '1.0000', '0')
    """
    if not norm:
        return "0"
    return f"{norm:.4e}" if not 1e-3 <= norm < 1e4 else f"{norm:.{4 if norm >= 0.1 else 5}f}"


def _shares(norms: Norms) -> list[float | None]:
    """Where each norm lies between the smallest, 0, and the largest, 1."""
    known = present(norms)
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high - low
    return [None if norm is None else (norm - low) / span if span else 0.5 for norm in norms]
