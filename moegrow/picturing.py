"""The commands that show what is in the weights: norms layer by layer."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from moegrow.checkpoint import user_path
from moegrow.errors import UsageError
from moegrow.options import JsonOption, QuietOption, Reading, ThreadsOption
from moegrow.origin import Access
from moegrow.progress import phase
from moegrow.terminal import print_json, print_lines, read_source

if TYPE_CHECKING:
    from moegrow.opened import Opened
    from moegrow.profiles import Profile


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
    from moegrow import documents, plots, sketches
    from moegrow.seams import drawn, ways

    target = None if plot is None else user_path(plot)
    if target is not None:
        plots.check(target)
    opened = _opened(sources, reading)
    shown, old = [], []
    for its in opened:
        both = _profiles(its, sample=sample, threads=threads, quiet=quiet)
        shown.append(both[0])
        old.append(both[1])
    found = None
    if seams:
        found = [ways(its, profile) for its, profile in zip(opened, old, strict=True)]
        shown = old
    if target is not None:
        lines = drawn(old, found) if found else shown
        plots.draw(lines, target)
        if not quiet:
            print(f"drawn: {target}", file=sys.stderr)
    if as_json:
        print_json(documents.norms(shown, found))
        return
    if as_csv:
        print_lines(sketches.comma_separated(shown))
        return
    plain = not _shows(sketches.curve((0.0, 1.0)))
    if found is None:
        told = [sketches.table(it, plain=plain) for it in shown]
    else:
        together = zip(old, found, strict=True)
        told = [sketches.ways_table(it, its, plain=plain) for it, its in together]
    print_lines("\n\n".join(told).split("\n"))


def _opened(sources: list[str] | None, reading: Reading) -> "list[Opened]":
    """Every source, opened, so that all that is wrong shows before weights are read."""
    from moegrow import opened

    access = Access(reading.token, reading.revision)
    named: list[str | None] = list(sources or ())
    return [opened.load(read_source(source), reading.family, access) for source in named or [None]]


def _profiles(
    opened: "Opened", *, sample: bool, threads: int | None, quiet: bool
) -> "tuple[Profile, Profile]":
    """The profile of an opened source, and that of the checkpoint that its weights are in."""
    from moegrow import profiles, squares

    plan, layout = opened
    what = f"reading {layout.checkpoint.name}"
    size = squares.reading_bytes(layout, sample=sample)
    with phase(what, size, quiet=quiet) as progress:
        measured = squares.measure(layout, sample=sample, threads=threads, progress=progress)
    old = profiles.measured_profile(layout, measured)
    return (profiles.predicted_profile(plan, layout, measured) if plan.steps else old), old


def _shows(text: str) -> bool:
    """Whether standard output can show a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
