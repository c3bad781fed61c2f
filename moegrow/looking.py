"""The commands that look at checkpoints and write none."""

import json
from pathlib import Path
from typing import Annotated

import typer

import moegrow
from moegrow.errors import UsageError
from moegrow.options import JsonOption, QuietOption, Reading, Source, ThreadsOption, TokenOption
from moegrow.terminal import read_source


def inspect(
    source: Source = None,
    as_json: JsonOption = False,
    *,
    reading: Reading,
    token: TokenOption = None,
) -> None:
    """Show what a checkpoint is: layers, experts, parameters, bytes."""
    facts = moegrow.inspect(
        read_source(source), family=reading.family, revision=reading.revision, token=token
    )
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from moegrow import show

    print(show.inspection(facts))


def verify(
    grown: Annotated[
        str | None, typer.Argument(help="The folder to verify.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", show_default=False, help="The source, if it has moved."),
    ] = None,
    token: TokenOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Hold a grown checkpoint against its plan and its source, byte for byte."""
    from moegrow import show

    folder = read_source(grown)
    if not isinstance(folder, str):
        raise UsageError("verify takes the folder of a grown checkpoint, not a plan")
    with show.progress("verifying", _bytes_in(folder), quiet=quiet) as progress:
        found = moegrow.verify(folder, source, threads=threads, token=token, progress=progress)
    if not quiet or not found.ok:
        show.verified(found, folder)
    if not found.ok:
        raise typer.Exit(1)


def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint or a plan.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    as_json: JsonOption = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Compare names, dtypes and shapes, not contents.")
    ] = False,
    token: TokenOption = None,
) -> None:
    """Show what differs between two checkpoints or plans."""
    found = moegrow.diff(
        read_source(a), read_source(b) if b != a else a, contents=not headers, token=token
    )
    if as_json:
        print(json.dumps(found.__dict__, indent=2))
        return
    from moegrow import show

    print(show.difference(found))


def _bytes_in(folder: str) -> int:
    path = Path(folder)
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 0
