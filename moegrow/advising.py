"""The command that says what published evidence there is for a checkpoint."""

from typing import Annotated

import typer

from moegrow.options import JsonOption, Reading, Source
from moegrow.origin import Access
from moegrow.terminal import print_json, read_source


def advise(
    source: Source = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N", show_default=False,
            help="How many tokens the source was trained on, such as 600B.",
        ),
    ] = None,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:  # fmt: skip
    """Say what published evidence there is for growing a checkpoint."""
    from moegrow import advice, documents, opened

    count = None if tokens is None else advice.parse_tokens(tokens)
    access = Access(reading.token, reading.revision)
    old = opened.load(read_source(source), reading.family, access)
    found = advice.advise(old, tokens=count)
    if as_json:
        print_json(documents.advice(found))
        return
    print(found)
