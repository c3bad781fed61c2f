"""The command that says what published evidence there is for a checkpoint."""

from typing import Annotated

import typer

from moegrow.commands.options import JsonOption, QuietOption, Reading, Source
from moegrow.commands.terminal import columns, print_json, print_lines, read_source


def advise(
    source: Source = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N", show_default=False,
            help="How many tokens the source was trained on, such as 600B.",
        ),
    ] = None,
    norms: Annotated[
        bool, typer.Option("--norms", help="Read all weights, and look at their profile too.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:  # fmt: skip
    """Say what published evidence there is for growing a checkpoint."""
    from moegrow.analysis import advice, profiles, squares
    from moegrow.commands import documents
    from moegrow.commands.progress import phase
    from moegrow.planning import opened

    count = None if tokens is None else advice.parse_tokens(tokens)
    access = reading.access
    old = opened.load(read_source(source), reading.family, access)
    profile = None
    if norms:
        size = squares.reading_bytes(old.layout)
        with phase("reading", size, quiet=quiet) as progress:
            profile = profiles.of(old, progress=progress)
    found = advice.advise(old, tokens=count, profile=profile)
    if as_json:
        print_json(documents.advice(found))
        return
    print_lines(found.lines(columns()))
