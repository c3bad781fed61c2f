"""The commands that grow a checkpoint, and the one that writes what they planned."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import moegrow
from moegrow.errors import MoegrowError, UsageError
from moegrow.options import (
    Mode,
    NewLayers,
    Order,
    PlanOption,
    Preset,
    Reading,
    RouterCopies,
    Source,
    TokenOption,
    Writing,
)  # fmt: skip
from moegrow.origin import Access
from moegrow.terminal import command_line, print_lines, read_source

if TYPE_CHECKING:
    from moegrow.layout import Layout
    from moegrow.plans import Plan


def depth(
    source: Source = None,
    mode: Annotated[Mode, typer.Option(help="How layers are repeated.")] = Mode.interpose,
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
    token: TokenOption = None,
    plan: PlanOption = False,
    writing: Writing,
) -> None:
    """Make the model deeper: repeat layers."""
    from moegrow import opened, verbs

    old = opened.begin(read_source(source), reading.family, Access(token, reading.revision))
    grown = verbs.depth(
        old, mode=mode.value, times=times, to=to, keep_first=keep_first, keep_last=keep_last,
        group=group, every=every, drop=drop, layers=layers,
        new_layers=new_layers and new_layers.value, command=command_line(),
    )  # fmt: skip
    _finish(grown, old.layout, writing, token, as_plan=plan)


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
    token: TokenOption = None,
    plan: PlanOption = False,
    writing: Writing,
) -> None:  # fmt: skip
    """Make the model wider: duplicate experts."""
    from moegrow import opened, verbs

    old = opened.begin(read_source(source), reading.family, Access(token, reading.revision))
    grown = verbs.width(
        old, experts=experts, noise=noise, seed=seed, top_k=top_k, order=order and order.value,
        router=router and router.value, preset=preset.value, command=command_line(),
    )  # fmt: skip
    _finish(grown, old.layout, writing, token, as_plan=plan)


def apply(
    source: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan, or - for standard input.")
    ] = None,
    *,
    token: TokenOption = None,
    writing: Writing,
) -> None:
    """Write the checkpoint that a plan describes."""
    from moegrow import opened
    from moegrow.planfile import is_plan

    plan = read_source(source)
    if isinstance(plan, str) and not is_plan(Path(plan)):
        raise MoegrowError(f"{plan} is not a plan", "make one with moegrow depth … --plan")
    grown, layout = opened.load(plan, access=Access(token))
    _finish(grown, layout, writing, token)


def _finish(
    grown: "Plan", layout: "Layout", writing: Writing, token: str | None, *, as_plan: bool = False
) -> None:
    """Print the plan, show it, or write what it describes and print where.

    `layout` is that of the plan's source.
    """
    if as_plan:
        given = {
            "--output": writing.output is not None, "--dry-run": writing.dry_run,
            "--download": writing.download, "--push": writing.push is not None,
        }  # fmt: skip
        if other := next((flag for flag, is_given in given.items() if is_given), ""):
            raise UsageError(f"--plan writes nothing, so {other} does not go with it")
        from moegrow.planfile import to_lines

        print_lines(to_lines(grown))
        return
    from moegrow import show
    from moegrow.check import check_plan
    from moegrow.shards import parse_size
    from moegrow.writer import check_target, default_name, is_written

    parse_size(writing.max_shard_size)
    target = Path(default_name(grown) if writing.output is None else writing.output)
    # What an upload broke off from is not grown again.
    is_there = writing.push is not None and is_written(grown, target)
    if not is_there:
        check_target(target, grown.source.folder, force=writing.force)
    check_plan(grown, layout.checkpoint)
    upload = _prepared_upload(grown, writing, token)
    if writing.dry_run or not writing.quiet:
        show.summary(grown, layout, target)
    if writing.dry_run:
        show.dry_run(grown, target)
        return
    if is_there and not writing.quiet:
        print(f"{target} holds this result already, and is uploaded as it is", file=sys.stderr)
    if not is_there:
        _write(grown, layout, writing, target)
    upload(target)
    print(target)


def _write(grown: "Plan", layout: "Layout", writing: Writing, target: Path) -> None:
    """Write what a plan describes, with what there is to say of it."""
    from moegrow import show
    from moegrow.writer import fetch

    if writing.download:
        fetch(layout.checkpoint, quiet=writing.quiet or not sys.stderr.isatty())
    began = time.perf_counter()
    with show.progress("writing", grown.nbytes, quiet=writing.quiet) as progress:
        result = moegrow.apply(
            grown, target, force=writing.force, threads=writing.threads,
            max_shard_size=writing.max_shard_size, reflink=not writing.no_reflink,
            progress=progress, checked=layout.checkpoint,
        )  # fmt: skip
    if not writing.quiet:
        show.written(result, time.perf_counter() - began)


def _prepared_upload(grown: "Plan", writing: Writing, token: str | None) -> Callable[[Path], None]:
    """What uploads a result when it is written; whether that may be is asked now."""
    if writing.push is None:
        if writing.private:
            raise UsageError("--private is for the repository of --push, and none is given")
        return lambda target: None
    from moegrow import uploader

    goal = uploader.prepare(
        grown, writing.push, private=writing.private, force=writing.force, token=token,
        is_trial=writing.dry_run,
    )  # fmt: skip

    def upload(target: Path) -> None:
        uploader.upload(target, goal, quiet=writing.quiet or not sys.stderr.isatty())
        if not writing.quiet:
            print(f"uploaded to {goal.address}", file=sys.stderr)

    return upload
