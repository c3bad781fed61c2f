"""Plot norm profiles with matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moegrow.analysis.norm_labels import labels, shortened
from moegrow.analysis.norm_profile import Profile
from moegrow.errors import MoegrowError, Parameter
from moegrow.files.atomic import durable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
LONGEST = 44  # characters of a label: two stand beside each other below the panels

# Okabe and Ito's colours, which colour-blind readers can tell apart; marks and dashes say the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.6, 1.2)), (0, (7, 1.5, 1.5, 1.5)))

_TITLES = {
    "experts": "routed experts (mean of all gate, up and down matrices)",
    "shared": "shared experts",
    "dense": "dense MLP",
    "attention": "attention and what stands for it",
    "router": "router",
    "norms": "weights of norms",
}

_SETTINGS: dict[Any, Any] = {
    "font.size": 13, "axes.titlesize": 13, "axes.labelsize": 13, "legend.fontsize": 12,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#d8dce1", "grid.linewidth": 0.8, "axes.formatter.useoffset": False,
    "svg.hashsalt": "moegrow", "figure.facecolor": "white",
}  # fmt: skip


def check() -> None:
    """Raise MoegrowError where no picture could be drawn, before anything is read."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MoegrowError(
            Parameter("plot") + " draws with matplotlib, which is not installed",
            "pip install 'moegrow[plot]'",
        ) from None


def draw(profiles: Sequence[Profile], target: Path) -> None:
    """Write a picture of the profiles, with one panel for each group of weights that they have."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = _named(profiles)
    groups = [group for group in _TITLES if any(group in profile.norms for profile in profiles)]
    below = -(-(len(groups) - 1) // 2)
    with mpl.rc_context({**mpl.rcParamsDefault, **_SETTINGS}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        figure = Figure(figsize=(11, 4.4 + 2.9 * below), dpi=110, layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(1 + below, 2, height_ratios=[1.45, *[1.0] * below])
        for number, group in enumerate(groups):
            is_wide = not number
            is_alone = number == len(groups) - 1 and number % 2
            row, column = divmod(number + 1, 2)
            place = grid[row, :] if is_wide or is_alone else grid[row, column]
            axes = figure.add_subplot(place)
            _panel(axes, profiles, names, group)
        legend = figure.axes[0].get_legend_handles_labels() if figure.axes else ([], [])
        figure.suptitle(_title(names), x=0.01, ha="left", fontsize=14, fontweight="bold")
        if len(profiles) > 1:
            figure.legend(
                *legend, loc="outside lower left", ncols=2, frameon=False, handlelength=3.5
            )
        # The solver's last digits are others each time, and names in an SVG come from all digits.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            left, bottom, width, height = (round(edge, 6) for edge in axes.get_position().bounds)
            axes.set_position((left, bottom, width, height))
        image = io.BytesIO()
        kind = target.suffix.lower()[1:]
        # Without the date, the same profile is the same file.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(image, format=kind, metadata=metadata)
    with durable(target) as file:
        file.write(image.getvalue())


def _title(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]}: norms layer by layer"
    return "norms layer by layer"


def _named(profiles: Sequence[Profile]) -> list[str]:
    """What each profile is called, in characters that the font has."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    found = []
    for label, profile in zip(labels(profiles), profiles, strict=True):
        drawable = "".join(
            mark if ord(mark) in known else mark.encode("unicode_escape").decode() for mark in label
        )
        shown = shortened(drawable, LONGEST)
        notes = ["predicted"] * profile.is_predicted + ["sample"] * profile.is_sample
        text = f"{shown} ({', '.join(notes)})" if notes else shown
        # A dollar would begin a formula, and what begins with _ is left out of legends.
        found.append("source " * text.startswith("_") + text.replace("$", r"\$"))
    return found


def _panel(axes: "Axes", profiles: Sequence[Profile], names: Sequence[str], group: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, profile in enumerate(profiles):
        is_below = len(profiles) > 1 and _is_below(profiles, number)
        norms = profile.norms.get(group, ())
        points = [(layer, norm) for layer, norm in enumerate(norms) if norm is not None]
        axes.plot(
            [layer for layer, _ in points],
            [norm for _, norm in points],
            label=names[number],
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKS[number % len(_MARKS)],
            linestyle=_DASHES[number % len(_DASHES)],
            markersize=5,
            markevery=max(1, len(points) // 40),
            # What the others begin as shows under them.
            linewidth=5 if is_below else 1.8,
            alpha=0.45 if is_below else 1,
        )
    axes.set_title(_TITLES[group], loc="left")
    axes.set_xlabel("layer")
    axes.set_ylabel("norm (RMS of weights)" if group == "experts" else "norm")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    layers = max(profile.layers for profile in profiles)
    axes.set_xlim(-0.02 * layers - 0.2, (layers - 1) * 1.02 + 0.2)
    axes.margins(y=0.12)


def _is_below(profiles: Sequence[Profile], number: int) -> bool:
    """Whether others are drawn over a profile: the first, and each that predictions follow."""
    following = profiles[number + 1 : number + 2]
    return not number or (
        not profiles[number].is_predicted and any(its.is_predicted for its in following)
    )
