"""The commands that grow a checkpoint, and the one that writes what they planned."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import moegrow
from moegrow.checkpoint import user_path
from moegrow.errors import MoegrowError, UsageError
from moegrow.options import (
    Mode,
    NewLayers,
    Order,
    Planning,
    Preset,
    Reading,
    RouterCopies,
    Source,
    Writing,
)  # fmt: skip
from moegrow.terminal import command_line, print_lines, read_source

if TYPE_CHECKING:
    from moegrow.layout import Layout
    from moegrow.opened import Opened
    from moegrow.plans import Plan


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
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Make the model deeper: repeat layers."""
    from moegrow import verbs

    read = read_source(source)
    old, command = begin(read, reading.family), command_line(source, read)
    grown = verbs.depth(
        old, mode=mode and mode.value, times=times, to=to, keep_first=keep_first,
        keep_last=keep_last, group=group, every=every, drop=drop, layers=layers,
        new_layers=new_layers and new_layers.value, command=command,
    )  # fmt: skip
    finish(grown, old.layout, writing, planning, family=reading.family)


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
            metavar="scale|keep|N", show_default="scale",
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
    preset: Annotated[
        Preset, typer.Option(help="A published recipe; single flags override it.")
    ] = Preset.orthogonal,
    *,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:  # fmt: skip
    """Make the model wider: duplicate experts."""
    from moegrow import verbs

    read = read_source(source)
    old, command = begin(read, reading.family), command_line(source, read)
    grown = verbs.width(
        old, experts=experts, noise=noise, seed=seed, top_k=top_k, order=order and order.value,
        router=router and router.value, preset=preset.value, command=command,
    )  # fmt: skip
    finish(grown, old.layout, writing, planning, family=reading.family)


def apply(
    source: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan, or - for standard input.")
    ] = None,
    *,
    writing: Writing,
) -> None:
    """Write the checkpoint that a plan describes."""
    from moegrow import opened
    from moegrow.planfile import is_plan

    read = read_source(source)
    if isinstance(read, str) and not is_plan(Path(read)):
        raise MoegrowError(f"{read} is not a plan", "make one with moegrow depth … --plan")
    plan, layout = _kept(opened.load(read), read)
    finish(_noted(plan, command_line(source, read)), layout, writing)


def begin(read: Any, family: str | None) -> "Opened":
    """The source of a growth, opened."""
    from moegrow import opened

    return _kept(opened.begin(read, family), read)


def _kept(old: "Opened", read: object) -> "Opened":
    """The plan as opened, noting in which file it lay: its last command printed it there."""
    commands = old.plan.commands
    if not isinstance(read, str) or not commands or " --plan" not in commands[-1]:
        return old
    last = f"{commands[-1]} > {shlex.quote(read)}"
    return old._replace(plan=replace(old.plan, commands=(*commands[:-1], last)))


def _noted(plan: "Plan", command: str) -> "Plan":
    return replace(plan, commands=(*plan.commands, command))


def finish(
    grown: "Plan",
    layout: "Layout",
    writing: Writing,
    planning: Planning | None = None,
    *,
    family: str | None = None,
) -> None:
    """Print the plan, show it, or write what it describes and print where.

    `layout` is that of the plan's source, `family` the file by which it was read.
    """
    saved = _recipe_to_save(grown, writing, planning.save_recipe, family) if planning else None
    if planning and planning.plan:
        if writing.output is not None or writing.dry_run:
            other = "--output" if writing.output is not None else "--dry-run"
            raise UsageError(f"--plan writes nothing, so {other} does not go with it")
        from moegrow.planfile import to_lines

        save(saved)
        print_lines(to_lines(grown))
        return
    from moegrow import show
    from moegrow.check import check_plan
    from moegrow.shards import DEFAULT_SIZE, parse_size
    from moegrow.writer import check_target, default_name

    size = writing.max_shard_size or DEFAULT_SIZE
    parse_size(size)
    target = Path(default_name(grown) if writing.output is None else writing.output)
    check_target(target, grown.source.path, force=writing.force)
    check_plan(grown, layout.checkpoint)
    if writing.dry_run or not writing.quiet:
        show.summary(grown, layout, target)
    if writing.dry_run:
        show.dry_run(grown, target)
        return
    began = time.perf_counter()
    with show.progress("writing", grown.nbytes, quiet=writing.quiet) as progress:
        result = moegrow.apply(
            grown, target, force=writing.force, threads=writing.threads,
            max_shard_size=size, reflink=not writing.no_reflink,
            progress=progress, checked=layout.checkpoint,
        )  # fmt: skip
    if not writing.quiet:
        show.written(result, time.perf_counter() - began)
    save(saved)
    print(target)


def _recipe_to_save(
    grown: "Plan", writing: Writing, file: str | None, family: str | None
) -> tuple[Path, str] | None:
    """Where the recipe goes and its text; refused before anything is written."""
    if file is None:
        return None
    from moegrow.recipe import Recipe, is_below, to_toml

    if writing.dry_run:
        raise UsageError("--dry-run writes nothing, so --save-recipe does not go with it")
    path = user_path(file)
    if path.exists() or not path.absolute().parent.is_dir():
        what = "exists already" if path.exists() else "is in no folder that exists"
        raise MoegrowError(f"--save-recipe {path} {what}", "give another file")
    if not grown.recipe:
        raise MoegrowError(
            "the plan does not say by which steps it came about", "make it again from its source"
        )
    here, source = Path.cwd(), grown.source.location
    if source.is_relative_to(here):
        source = source.relative_to(here)
    recipe = Recipe(
        steps=grown.recipe, source=str(source), family=family,
        output=writing.output if is_below(writing.output or "") else None,
        max_shard_size=writing.max_shard_size,
    )  # fmt: skip
    return path, to_toml(recipe)


def save(recipe: tuple[Path, str] | None) -> None:
    """Write a recipe whole, or not at all."""
    if recipe:
        path, text = recipe
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, "utf-8")
        temporary.rename(path)
