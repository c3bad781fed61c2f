"""The command line: parse, call, print."""

import gc
import io
import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import moegrow
from moegrow.errors import MoegrowError, UsageError
from moegrow.options import (
    DryRunOption,
    FamilyOption,
    ForceOption,
    JsonOption,
    Mode,
    NewLayers,
    NoReflinkOption,
    Order,
    OutputOption,
    PlanOption,
    Preset,
    QuietOption,
    RouterCopies,
    ShardOption,
    Source,
    ThreadsOption,
)  # fmt: skip
from moegrow.terminal import (
    command_line,
    complain,
    help_for,
    print_lines,
    read_source,
    usage_message,
)  # fmt: skip

INTERRUPTED = 130  # what shells say of a command that was stopped by Ctrl-C

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Grow a trained Mixture-of-Experts checkpoint: deeper, wider, or both in one pass.",
)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"moegrow {moegrow.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


@app.command()
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
    family: FamilyOption = None,
    output: OutputOption = None,
    plan: PlanOption = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    max_shard_size: ShardOption = "5GB",
    no_reflink: NoReflinkOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make the model deeper: repeat layers."""
    from moegrow import verbs

    old = verbs.begin(read_source(source), family)
    grown = verbs.depth(
        old, mode=mode.value, times=times, to=to, keep_first=keep_first, keep_last=keep_last,
        group=group, every=every, drop=drop, layers=layers,
        new_layers=new_layers and new_layers.value, command=command_line(),
    )  # fmt: skip
    _finish(
        grown, old.layout, output, plan, dry_run, force,
        threads, max_shard_size, not no_reflink, quiet,
    )  # fmt: skip


@app.command()
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
    family: FamilyOption = None,
    output: OutputOption = None,
    plan: PlanOption = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    max_shard_size: ShardOption = "5GB",
    no_reflink: NoReflinkOption = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Make the model wider: duplicate experts."""
    from moegrow import verbs

    old = verbs.begin(read_source(source), family)
    grown = verbs.width(
        old, experts=experts, noise=noise, seed=seed, top_k=top_k, order=order and order.value,
        router=router and router.value, preset=preset.value,
        allow_nonfinite=allow_nonfinite, command=command_line(),
    )  # fmt: skip
    _finish(
        grown, old.layout, output, plan, dry_run, force,
        threads, max_shard_size, not no_reflink, quiet,
    )  # fmt: skip


@app.command()
def apply(
    source: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan, or - for standard input.")
    ] = None,
    output: OutputOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    max_shard_size: ShardOption = "5GB",
    no_reflink: NoReflinkOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the checkpoint that a plan describes."""
    from moegrow import verbs
    from moegrow.planfile import is_plan

    plan = read_source(source)
    if isinstance(plan, str) and not is_plan(Path(plan)):
        raise MoegrowError(f"{plan} is not a plan", "make one with moegrow depth … --plan")
    grown, layout = verbs.load(plan)
    _finish(
        grown, layout, output, False, dry_run, force,
        threads, max_shard_size, not no_reflink, quiet,
    )  # fmt: skip


@app.command()
def inspect(
    source: Source = None,
    as_json: JsonOption = False,
    values: Annotated[
        bool, typer.Option("--values", help="Read all weights and look for NaN and infinity.")
    ] = False,
    family: FamilyOption = None,
) -> None:
    """Show what a checkpoint is: layers, experts, parameters, bytes."""
    facts = moegrow.inspect(read_source(source), family=family, values=values)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from moegrow import show

    print(show.inspection(facts))


@app.command()
def verify(
    grown: Annotated[
        str | None, typer.Argument(help="The folder to verify.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="DIR", show_default=False, help="The source, if it has moved."),
    ] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Hold a grown checkpoint against its plan and its source, byte for byte."""
    from moegrow import show

    folder = read_source(grown)
    if not isinstance(folder, str):
        raise UsageError("verify takes the folder of a grown checkpoint, not a plan")
    with show.progress("verifying", _bytes_in(folder), quiet=quiet) as progress:
        found = moegrow.verify(folder, source, threads=threads, progress=progress)
    if not quiet or not found.ok:
        show.verified(found, folder)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint or a plan.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    as_json: JsonOption = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Compare names, dtypes and shapes, not contents.")
    ] = False,
) -> None:
    """Show what differs between two checkpoints or plans."""
    found = moegrow.diff(read_source(a), read_source(b) if b != a else a, contents=not headers)
    if as_json:
        print(json.dumps(found.__dict__, indent=2))
        return
    from moegrow import show

    print(show.difference(found))


@app.command()
def demo(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder to make; it must not exist.")
    ] = "moegrow-demo",
) -> None:
    """Make a small MoE checkpoint, grow it in depth and width in one pass, and verify it."""
    from moegrow.demo import run_demo

    run_demo(Path(folder))


def _finish(
    grown: Any,
    layout: Any,
    output: str | None,
    as_plan: bool,
    dry_run: bool,
    force: bool,
    threads: int | None,
    max_shard_size: str,
    reflink: bool,
    quiet: bool,
) -> None:
    """Print the plan, show it, or write what it describes and print where.

    `layout` is that of the plan's source.
    """
    if as_plan:
        if output is not None or dry_run:
            other = "--output" if output is not None else "--dry-run"
            raise UsageError(f"--plan writes nothing, so {other} does not go with it")
        from moegrow.planfile import to_lines

        print_lines(to_lines(grown))
        return
    from moegrow import show
    from moegrow.check import check_plan
    from moegrow.shards import parse_size
    from moegrow.writer import check_target, default_name

    parse_size(max_shard_size)
    target = Path(output if output is not None else default_name(grown))
    check_target(target, grown.source.path, force=force)
    check_plan(grown, layout.checkpoint)
    if dry_run or not quiet:
        show.summary(grown, layout, target)
    if dry_run:
        show.dry_run(grown, target)
        return
    began = time.perf_counter()
    with show.progress("writing", grown.nbytes, quiet=quiet) as progress:
        result = moegrow.apply(
            grown, target, force=force, threads=threads, max_shard_size=max_shard_size,
            reflink=reflink, progress=progress, checked=layout.checkpoint,
        )  # fmt: skip
    if not quiet:
        show.written(result, time.perf_counter() - began)
    print(target)


def _bytes_in(folder: str) -> int:
    path = Path(folder)
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 0


def main() -> NoReturn:
    """Run the command line; every error that a user can cause ends as a message and a hint."""
    # A plan is up to a million frozen values and no cycles: looking for those as often as Python
    # does took a third of the time.
    gc.set_threshold(1_000_000, 100, 100)
    # Newer versions of Typer carry their own click: its base class is found by descent.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Names come from strangers: what is no text is shown escaped and never stops a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    click_error: type[Exception]
    click_error = typer.BadParameter.__mro__[2]
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = app(standalone_mode=False, prog_name="moegrow")
        sys.stdout.flush()
        if code == INTERRUPTED:
            # Newer versions of Typer turn the exception into this code.
            raise KeyboardInterrupt
    except MoegrowError as error:
        complain(error.message, error.hint)
        code = 2 if isinstance(error, UsageError) else 1
    except click_error as error:
        complain(usage_message(error), f"see {help_for(error)}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; nothing was published", "run the command again")
        code = INTERRUPTED
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}", "")
        code = 1
    sys.exit(code or 0)
