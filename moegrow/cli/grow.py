"""The commands that grow a checkpoint, and the one that writes what they planned."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moegrow.cli.finish import finish
from moegrow.cli.options import (  # fmt: skip
    LinksOption,
    Mode,
    NewLayers,
    Order,
    Planning,
    Preset,
    Reading,
    Rounding,
    RouterCopies,
    Sharing,
    Source,
    Storing,
    TokenOption,
    Writing,
)
from moegrow.cli.share import share
from moegrow.cli.terminal import command_line, phase, read_source
from moegrow.errors import MoegrowError

if TYPE_CHECKING:
    from moegrow.planning.open_source import Opened


def depth(
    source: Source = None,
    mode: Annotated[
        Mode | None, typer.Option(show_default="interpose", help="How layers are repeated.")
    ] = None,
    times: Annotated[
        str | None, typer.Option(metavar="2x", show_default="2x", help="How many times deeper.")
    ] = None,
    to: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=False, help="The number of layers to reach."),
    ] = None,
    keep_first: Annotated[int, typer.Option(metavar="N", help="Leave the first N once.")] = 0,
    keep_last: Annotated[int, typer.Option(metavar="N", help="Leave the last N once.")] = 0,
    group: Annotated[
        int, typer.Option(metavar="G", help="interpose: repeat groups of G layers in place.")
    ] = 1,
    every: Annotated[
        int | None,
        typer.Option(metavar="G", show_default=False, help="expand: a new layer after every G."),
    ] = None,
    drop: Annotated[
        int | None,
        typer.Option(metavar="M", show_default=False, help="overlap: layers left out at the seam."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="0,0,1-3", show_default=False, help="A free layer map instead of a mode."
        ),
    ] = None,
    new_layers: Annotated[
        NewLayers | None,
        typer.Option(
            show_default="copy; for expand identity",
            help="Repeated layers as copies, or beginning as the identity (zero outputs).",
        ),
    ] = None,
    *,
    storing: Storing,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Make the model deeper: repeat layers."""
    from moegrow.planning import grow

    read = read_source(source)
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = grow.depth(
            old, mode=mode and mode.value, times=times, to=to, keep_first=keep_first,
            keep_last=keep_last, group=group, every=every, drop=drop, layers=layers,
            new_layers=new_layers and new_layers.value, command=command, **_dtypes(storing),
        )  # fmt: skip
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


def convert(
    source: Source = None,
    *,
    storing: Storing,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Write the weights in another dtype: round them, and decode those that are quantised."""
    from moegrow.planning import grow

    read = read_source(source)
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = grow.convert(old, command=command, **_dtypes(storing))
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


def _dtypes(storing: Storing) -> dict[str, Any]:
    return {
        "dtype": storing.dtype and storing.dtype.value,
        "experts_dtype": storing.experts_dtype and storing.experts_dtype.value,
    }


def width(
    source: Source = None,
    experts: Annotated[
        str, typer.Option(metavar="2x|N", help="How many times, or how many, experts.")
    ] = "2x",
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="A", show_default="0.01",
            help="Gaussian noise on copies, relative to the sigma of what is copied.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the noise.")] = 0,
    top_k: Annotated[
        str | None,
        typer.Option(
            metavar="scale|keep|N", show_default="scale", autocompletion=lambda: ["scale", "keep"],
            help="Experts per token: grow with the experts, keep, or a number.",
        ),
    ] = None,
    order: Annotated[
        Order | None,
        typer.Option(show_default="append", help="Copies behind the originals or beside each."),
    ] = None,
    router: Annotated[
        RouterCopies | None,
        typer.Option(show_default="noise", help="Noise on the copies' router rows, or none."),
    ] = None,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            show_default="nearest",
            help="Round copies with noise to nearest, or up or down by a draw: none of it is lost"
            " on average, and quantised experts keep their format.",
        ),
    ] = None,
    allow_nonfinite: Annotated[
        bool,
        typer.Option(
            "--allow-nonfinite",
            help="Noise around finite values only; NaN and infinity stay as they are.",
        ),
    ] = False,
    preset: Annotated[
        Preset, typer.Option(help="A published recipe; single flags override it.")
    ] = Preset.orthogonal,
    *,
    storing: Storing,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:  # fmt: skip
    """Make the model wider: duplicate experts."""
    from moegrow.planning import grow

    read = read_source(source)
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = grow.width(
            old, experts=experts, noise=noise, seed=seed, top_k=top_k,
            order=order and order.value, router=router and router.value, preset=preset.value,
            rounding=rounding and rounding.value, allow_nonfinite=allow_nonfinite,
            command=command, **_dtypes(storing),
        )  # fmt: skip
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


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
    if sharing.shards is None and not sharing.finish:
        finish(plan.noted(command), layout, writing, command=command, reading=reading)
    else:
        share(plan.noted(command), layout, writing, sharing, reading=reading)


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
