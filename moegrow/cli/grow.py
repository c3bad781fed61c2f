"""The commands `depth`, `width`, `convert` and `apply`."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moegrow.checkpoint.store import Reading
from moegrow.cli.finish import finish
from moegrow.cli.options import Planning, Sharing, Source, Writing
from moegrow.cli.terminal import command_line, phase, read_source
from moegrow.errors import MoegrowError
from moegrow.options import LinksOption, TokenOption
from moegrow.steps import Convert, Depth, Step, Width

if TYPE_CHECKING:
    from moegrow.planning.open_source import Opened


def depth(
    source: Source = None,
    *,
    step: Depth,
    storing: Convert,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Make the model deeper: repeat layers."""
    _grow(source, storing, (step.spelled_out(),), reading, planning, writing)


def convert(
    source: Source = None,
    *,
    storing: Convert,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Write the weights in another dtype: round them, and decode those that are quantised."""
    _grow(source, storing, (), reading, planning, writing)


def width(
    source: Source = None,
    *,
    step: Width,
    storing: Convert,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Make the model wider: duplicate experts."""
    _grow(source, storing, (step,), reading, planning, writing)


def _grow(
    source: str | None,
    storing: Convert,
    steps: tuple[Step, ...],
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    from moegrow.planning import grow

    read = read_source(source)
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        plan = grow.stored(old, storing, *steps).plan.noted(command)
    finish(plan, old.layout, writing, planning, command=command, reading=reading)


def apply(
    source: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan, or - for standard input.")
    ] = None,
    *,
    token: TokenOption = None,
    links_to: LinksOption = None,
    sharing: Sharing,
    writing: Writing,
) -> None:
    """Write the checkpoint that a plan describes."""
    from moegrow.planning import open_source
    from moegrow.planning.plan_file import is_plan

    read = read_source(source)
    if isinstance(read, str) and not is_plan(Path(read)):
        raise MoegrowError(f"{read} is not a plan", "make one with moegrow depth … --plan")
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet):
        reading = Reading(token=token, links_to=links_to)
        plan, layout = _kept(open_source.load(read, access=reading.access), read)
    finish(plan.noted(command), layout, writing, sharing=sharing, command=command, reading=reading)


def begin(read: Any, reading: Reading) -> "Opened":
    """The source of a growth, opened."""
    from moegrow.planning import open_source

    access = reading.access
    return _kept(open_source.begin(read, reading.family, access), read)


def _kept(old: "Opened", read: object) -> "Opened":
    """The plan as opened, noting in which file it lay: its last command printed it there."""
    from moegrow.planning.noted_command import read_command

    commands = old.plan.commands
    if not isinstance(read, str) or not commands or not read_command(commands[-1]).prints_plan:
        return old
    last = f"{commands[-1]} > {shlex.quote(read)}"
    return old._replace(plan=replace(old.plan, commands=(*commands[:-1], last)))
