"""Profiles of norms as text: a table with bars, one curve a group, and lines of CSV."""

import csv
import io
from collections.abc import Iterator, Sequence

from moegrow.analysis.profiles import Norms, Profile
from moegrow.analysis.seams import Way, told
from moegrow.errors import one_line
from moegrow.families.places import GROUPS
from moegrow.ground import tables
from moegrow.planning import report

_EIGHTHS = "▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_BAR = 16  # columns of the longest bar


def table(profile: Profile, *, plain: bool = False) -> str:
    """A profile as a table with a row a layer, and above it one curve for each group.

    Bars and curves go from the smallest value of a group to its largest. `plain`: where only
    ASCII can be shown; then there are no curves, and bars are made of #.
    """
    lines = [one_line(sentence) for sentence in sentences(profile)]
    groups = list(profile.norms)
    if not plain:
        lines += ["", *curves(profile)]
    first = profile.norms[groups[0]] if groups else ()
    cells = [["layer", groups[0] if groups else "", "", *groups[1:]]]
    for layer in range(profile.layers):
        others = [cell(profile.norms[group][layer]) for group in groups[1:]]
        drawn = bar(first, layer, plain=plain).ljust(_BAR) if first else ""
        cells.append([str(layer), cell(first[layer]) if first else "", drawn, *others])
    return "\n".join([*lines, "", _columns(cells)])


def ways_table(profile: Profile, ways: Sequence[Way], *, plain: bool = False) -> str:
    """The ways to deepen a model side by side: the largest jump of each group, in usual steps."""
    groups = [group for group in profile.norms if any(group in way.largest for way in ways)]
    cells = [["", "layers", "seams", *groups]]
    for way in ways:
        if not way.refused:
            largest = [way.largest.get(group) for group in groups]
            sizes = ["-" if it is None or it.times is None else f"{it.times:.1f}" for it in largest]
            cells.append([way.options, str(len(way.layers)), str(way.seams), *sizes])
    lines = [
        *map(one_line, sentences(profile)), *([] if plain else ["", *curves(profile)]), "",
        "largest jump at a seam, in usual steps between neighbours:",
        tables.text(cells),
    ]  # fmt: skip
    for way in ways:
        if way.refused:
            lines.append(one_line(f"{way.options} is refused: {way.refused}"))
        elif (jump := way.largest.get(groups[0]) if groups else None) and jump.size:
            lines.append(f"{way.options}: {groups[0]} jump between {told(jump)}")
    return "\n".join(lines)


def curves(profile: Profile) -> list[str]:
    """One curve for each group of a profile, between its smallest and its largest norm."""
    rows = [
        (group, number(min(known)), curve(norms), number(max(known)))
        for group, norms in profile.norms.items()
        if (known := present(norms))
    ]
    return tables.text(rows).split("\n") if rows else []


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells one below the other at the right, as numbers are."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def sentences(profile: Profile) -> Iterator[str]:
    """What a profile is of, and what should be known before it is believed."""
    what = "predicted from its plan, " if profile.is_predicted else ""
    yield f"{profile.name}: {profile.layers} layers, {what}norm = root mean square of the weights"
    if profile.is_sample:
        yield (
            f"a sample: {report.count(profile.values)} of {report.count(profile.of)} weights"
            f" ({profile.share}), {profile.experts} of {profile.of_experts} experts a layer"
        )
    if profile.nonfinite:
        count = sum(profile.nonfinite.values())
        named = ", ".join(f"{name} ({n})" for name, n in tables.groups(sorted(profile.nonfinite)))
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
    for profile in profiles:
        for layer in range(profile.layers):
            norms = [
                profile.norms[group][layer] if group in profile.norms else None for group in GROUPS
            ]
            yield _line(
                [profile.name, layer, *("" if norm is None else repr(norm) for norm in norms)]
            )


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
