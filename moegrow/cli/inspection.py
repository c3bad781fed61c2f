"""The commands `inspect`, `advise`, `verify` and `diff`."""

from pathlib import Path
from typing import Annotated

import typer

import moegrow
from moegrow.checkpoint.store import Access, Reading
from moegrow.cli import finish
from moegrow.cli.options import (
    JsonOption,
    QuietOption,
    Source,
    ThreadsOption,
    VerboseOption,
)
from moegrow.cli.terminal import columns, print_json, print_lines, read_source
from moegrow.errors import UsageError
from moegrow.options import LinksOption, TokenOption


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
    from moegrow.analysis import advice, norm_profile, norm_sums
    from moegrow.cli.terminal import phase
    from moegrow.planning import open_source

    count = None if tokens is None else advice.parse_tokens(tokens)
    access = reading.access
    old = open_source.load(read_source(source), reading.family, access)
    profile = None
    if norms:
        size = norm_sums.reading_bytes(old.layout)
        with phase("reading", size, quiet=quiet) as progress:
            profile = norm_profile.of(old, progress=progress)
    found = advice.advise(old, tokens=count, profile=profile)
    if as_json:
        print_json(found)
        return
    print_lines(found.lines(columns()))


def inspect(
    source: Source = None,
    as_json: JsonOption = False,
    values: Annotated[
        bool, typer.Option("--values", help="Read all weights and look for NaN and infinity.")
    ] = False,
    verbose: VerboseOption = False,
    *,
    reading: Reading,
) -> None:
    """Show what a checkpoint is: layers, experts, parameters, bytes."""
    from moegrow.planning import open_source

    access = reading.access
    old = open_source.load(read_source(source), reading.family, access)
    if verbose:
        from moegrow.cli import explain, summaries

        own_family = bool(old.plan.family_text)
        summaries.told(explain.source_sentences(old.layout, own_family=own_family))
    facts = moegrow.inspect(old, values=values)
    if as_json:
        print_json(facts)
        return
    print(facts)


def verify(
    grown: Annotated[
        str | None, typer.Argument(help="The folder to verify.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", show_default=False, help="The source, if it has moved."),
    ] = None,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="Run source and result on the CPU and compare their logits."),
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            show_default="random tokens",
            help="A text for --logits; may be given several times.",
        ),
    ] = None,
    token: TokenOption = None,
    links_to: LinksOption = None,
    noise: Annotated[
        bool, typer.Option("--noise", help="Show what rounding has left of the noise.")
    ] = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hold a grown checkpoint against its plan and its source, byte for byte."""
    if prompt and not logits:
        raise UsageError("--prompt is for --logits", "add --logits")
    if logits:
        from moegrow.analysis import model_weights

        model_weights.library()  # missing libraries are told before anything is compared
    folder = read_source(grown)
    if not isinstance(folder, str):
        raise UsageError("verify takes the folder of a grown checkpoint, not a plan")
    access = Access(token, None, links_to or ())
    found = finish.verify_result(Path(folder), source, threads, access, quiet=quiet, noise=noise)
    if logits:
        from msgspec import structs

        compared = finish.compared(Path(folder), source, prompt or [], access, quiet=quiet)
        found = structs.replace(found, logits=compared)
    if as_json:
        print_json(found)
    if not found.ok or (found.logits and not found.logits.ok):
        raise typer.Exit(1)


def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint or a plan.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    as_json: JsonOption = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Compare names, dtypes and shapes, not contents.")
    ] = False,
    token: TokenOption = None,
    links_to: LinksOption = None,
) -> None:
    """Show what differs between two checkpoints or plans."""
    found = moegrow.diff(
        read_source(a),
        read_source(b) if b != a else a,
        contents=not headers,
        token=token,
        links_to=links_to or (),
    )
    if as_json:
        print_json(found.__dict__)
        return
    print(found)
