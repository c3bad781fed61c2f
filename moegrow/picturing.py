"""The commands that show what is in the weights: norms layer by layer."""

import sys
from pathlib import Path
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
    from moegrow import documents, plots, sketches

    target = None if plot is None else user_path(plot)
    if target is not None:
        plots.check(target)
    profiles = [
        _profile(opened, sample=sample, threads=threads, quiet=quiet)
        for opened in _opened(sources, reading)
    ]
    if target is not None:
        plots.draw(profiles, target)
        if not quiet:
            print(f"drawn: {target}", file=sys.stderr)
    if as_json:
        print_json(documents.norms(profiles))
    elif as_csv:
        print_lines(sketches.comma_separated(profiles))
    else:
        plain = not _shows(sketches.curve((0.0, 1.0)))
        print_lines("\n\n".join(sketches.table(it, plain=plain) for it in profiles).split("\n"))


def _opened(sources: list[str] | None, reading: Reading) -> "list[Opened]":
    """Every source, opened, so that all that is wrong shows before weights are read."""
    from moegrow import opened

    access = Access(reading.token, reading.revision)
    named: list[str | None] = list(sources or ())
    return [opened.load(read_source(source), reading.family, access) for source in named or [None]]


def _profile(opened: "Opened", *, sample: bool, threads: int | None, quiet: bool) -> "Profile":
    from moegrow import profiles, squares

    size = squares.reading_bytes(opened.layout, sample=sample)
    with phase(
        f"reading {Path(opened.layout.checkpoint.name).name}", size, quiet=quiet
    ) as progress:
        return profiles.of(opened, sample=sample, threads=threads, progress=progress)


def _shows(text: str) -> bool:
    """Whether standard output can show a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
