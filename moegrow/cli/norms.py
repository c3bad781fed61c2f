"""The commands `norms` and `map`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import Reading
from moegrow.cli.options import JsonOption, QuietOption, ThreadsOption
from moegrow.cli.terminal import (
    check_outside,
    check_target,
    columns,
    phase,
    print_json,
    print_lines,
    read_source,
    writing,
)
from moegrow.errors import MoegrowError, UsageError

if TYPE_CHECKING:
    from moegrow.planning.open_source import Opened
    from moegrow.planning.plan import Plan


def norms(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...", show_default=False,
            help="Checkpoints or plans, as for the other commands; several are shown together.",
        ),
    ] = None,
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Read only a little of each layer, the same each time."),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE.png|.svg", show_default=False, help="Draw a picture."),
    ] = None,
    seams: Annotated[
        bool,
        typer.Option("--seams", help="Show how far norms jump where layers are joined, by mode."),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows of CSV.")] = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:  # fmt: skip
    """Show the norms of a model's weights, layer by layer."""
    if as_csv and as_json:
        raise UsageError("--csv and --json both say what is printed", "give one of them")
    if as_csv and seams:
        raise UsageError("--csv prints norms alone, so --seams does not go with it", "use --json")
    from moegrow.analysis import norm_profile, norm_sums, norms_plot, norms_text
    from moegrow.analysis.norm_labels import labels
    from moegrow.analysis.seams import drawn, ways

    target = None if plot is None else user_path(plot)
    if target is not None:
        check_target(target, "--plot", norms_plot.FORMATS)
        norms_plot.check()
    opened = _opened(sources, reading)
    if target is not None:
        for its in opened:
            check_outside(target, its.plan.source.folder, "--plot")
    shown, old = [], []
    for its in opened:
        size = norm_sums.reading_bytes(its.layout, sample=sample)
        with phase(f"reading {its.layout.checkpoint.name}", size, quiet=quiet) as progress:
            both = norm_profile.both(its, sample=sample, threads=threads, progress=progress)
        shown.append(both[0])
        old.append(both[1])
    found = None
    if seams:
        found = [ways(its, profile) for its, profile in zip(opened, old, strict=True)]
        shown = old
    if target is not None:
        lines = drawn(old, found) if found else shown
        with writing(target, "--plot"):
            norms_plot.draw(lines, target)
        if not quiet:
            print(f"drawn: {target}", file=sys.stderr)
    if as_json:
        from moegrow.cli import json_output

        print_json(json_output.norms(shown, found))
        return
    if as_csv:
        print_lines(norms_text.comma_separated(shown))
        return
    plain, width = not _shows(norms_text.curve((0.0, 1.0))), columns()
    names = labels(shown)
    if found is None:
        told = [
            norms_text.table(it, label=name, plain=plain, width=width)
            for it, name in zip(shown, names, strict=True)
        ]
    else:
        told = [
            norms_text.ways_table(it, its, label=name, plain=plain, width=width)
            for it, its, name in zip(old, found, names, strict=True)
        ]
    print_lines("\n\n".join(told).split("\n"))


def map_(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="GROWN|PLAN", show_default=False,
            help="A folder that moegrow has written, or a plan; left out or -, what comes in on"
            " standard input.",
        ),
    ] = None,
    svg: Annotated[
        str | None, typer.Option(metavar="FILE.svg", show_default=False, help="Draw it.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Show which old layer and expert each new one came from."""
    from moegrow.analysis import drawings, lineage
    from moegrow.display import text
    from moegrow.files.atomic import durable

    target = None if svg is None else user_path(svg)
    if target is not None:
        check_target(target, "--svg", (".svg",))
    read = read_source(source)
    plan = _plan(read)
    if target is not None:
        check_outside(target, plan.source.folder, "--svg")
        if isinstance(read, str) and (place := user_path(read)).is_dir():
            check_outside(target, place, "--svg")
    axes = lineage.axes(plan)
    if target is not None:
        grown = [axis for axis in axes if not axis.is_same] or list(axes)
        with writing(target, "--svg"), durable(target) as file:
            file.write(drawings.drawing(f"grown from {plan.source.name}", grown).encode())
        if not quiet:
            print(f"drawn: {target}", file=sys.stderr)
    if as_json:
        print_json(lineage.document(plan))
        return
    for axis in axes:
        if axis.is_same:
            print_lines([f"{axis.name}: {axis.old} as they were"])
            continue
        rows = [("new", "old", ""), *lineage.rows(lineage.stretches(axis))]
        print_lines([f"{axis.name}: {axis.old} -> {len(axis.map)}", *_indented(text(rows))])
        print_lines(lineage.counts(axis))


def _indented(table: str) -> list[str]:
    return [f"  {line}" for line in table.split("\n")]


def _plan(read: Any) -> "Plan":
    """The plan that is meant: piped in, in a file, or in a folder that was grown."""
    from moegrow.planning import plan_file

    if isinstance(read, plan_file.Lines):
        return read.header
    path = user_path(read)
    inside = path / PLAN
    if path.is_dir():
        if not inside.is_file():
            raise MoegrowError(
                f"{path} holds no {PLAN}", "map takes a folder that moegrow has written, or a plan"
            )
        path = inside
    elif not plan_file.is_plan(path):
        raise MoegrowError(f"{path} is not a plan", "make one with moegrow depth … --plan")
    return plan_file.read_lines(path.resolve()).header


def _opened(sources: list[str] | None, reading: Reading) -> "list[Opened]":
    """Every source, opened, so that all that is wrong shows before weights are read."""
    from moegrow.planning import open_source

    access = reading.access
    named: list[str | None] = list(sources or ())
    return [
        open_source.load(read_source(source), reading.family, access) for source in named or [None]
    ]


def _shows(text: str) -> bool:
    """Whether standard output can show a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
