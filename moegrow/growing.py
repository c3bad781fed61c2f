"""The commands that grow a checkpoint, and the one that writes what they planned."""

import shlex
import sys
import time
from collections.abc import Callable
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
    TokenOption,
    Writing,
)  # fmt: skip
from moegrow.origin import Access
from moegrow.progress import phase
from moegrow.terminal import command_line, print_json, print_lines, read_source

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
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = verbs.depth(
            old, mode=mode and mode.value, times=times, to=to, keep_first=keep_first,
            keep_last=keep_last, group=group, every=every, drop=drop, layers=layers,
            new_layers=new_layers and new_layers.value, command=command,
        )  # fmt: skip
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


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
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:  # fmt: skip
    """Make the model wider: duplicate experts."""
    from moegrow import verbs

    read = read_source(source)
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = verbs.width(
            old, experts=experts, noise=noise, seed=seed, top_k=top_k,
            order=order and order.value, router=router and router.value, preset=preset.value,
            allow_nonfinite=allow_nonfinite, command=command,
        )  # fmt: skip
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


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

    read = read_source(source)
    if isinstance(read, str) and not is_plan(Path(read)):
        raise MoegrowError(f"{read} is not a plan", "make one with moegrow depth … --plan")
    command = command_line(source, read)
    with phase("planning", quiet=writing.quiet):
        plan, layout = _kept(opened.load(read, access=Access(token)), read)
    reading = Reading(token=token)
    finish(_noted(plan, command), layout, writing, command=command, reading=reading)


def begin(read: Any, reading: Reading) -> "Opened":
    """The source of a growth, opened."""
    from moegrow import opened

    access = Access(reading.token, reading.revision)
    return _kept(opened.begin(read, reading.family, access), read)


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
    command: str,
    reading: Reading,
) -> None:
    """Print the plan, show it, or write what it describes and print where.

    `layout` is that of the plan's source, `reading` how it was read, and `command` what was typed.
    """
    saved = None
    if planning:
        saved = _recipe_to_save(grown, writing, planning.save_recipe, reading.family)
    if planning and planning.plan:
        _check_alone(writing)
        from moegrow.planfile import to_lines

        save(saved)
        print_lines(to_lines(grown))
        return
    from moegrow import documents, explain, show
    from moegrow.check import check_plan
    from moegrow.interrupted import going_on
    from moegrow.resume import written_plan
    from moegrow.shards import DEFAULT_SIZE, parse_size, split
    from moegrow.writer import check_target, default_name, fetch

    size, quiet = writing.max_shard_size or DEFAULT_SIZE, writing.quiet
    parse_size(size)
    target = Path(default_name(grown) if writing.output is None else writing.output)
    # What an upload broke off from is not grown again.
    there = written_plan(grown, target) if writing.resume or writing.push is not None else None
    grown = there or grown
    check_target(target, grown.source.folder, force=writing.force or there is not None)
    check_plan(grown, layout.checkpoint)
    upload = _prepared_upload(grown, writing, reading.token)
    if writing.verbose:
        show.told(explain.source_sentences(layout, own_family=bool(grown.family_text)))
        show.told(explain.growth_sentences(grown, layout))
        files = split(grown, layout.checkpoint, size)
        show.told(explain.writing_sentences(files, layout))
    if writing.dry_run or not quiet:
        show.summary(grown, layout, target)
    if writing.dry_run:
        show.dry_run(grown, target)
        if writing.as_json:
            print_json(documents.growth(grown, layout, target))
        return
    if writing.download and not there:
        fetch(layout.checkpoint, quiet=quiet or not sys.stderr.isatty())
    began = time.perf_counter()
    writing_phase = phase("writing", grown.nbytes, quiet=quiet)
    with going_on(target, command), writing_phase as progress:
        result = moegrow.apply(
            grown, target, force=writing.force, resume=writing.resume or there is not None,
            digests=writing.digests,
            threads=writing.threads, max_shard_size=size, reflink=not writing.no_reflink,
            progress=progress, say=show.say(quiet=quiet), checked=layout.checkpoint,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if not quiet and not there:
        show.written(result, seconds)
    verified = None
    if writing.verify:
        verified = verify_result(target, None, writing.threads, reading.token, quiet=quiet)
    is_good = verified is None or verified["ok"]
    uploaded = upload(target) if is_good else None
    save(saved)
    if writing.as_json:
        facts = documents.growth(grown, layout, target, result, seconds, verified, uploaded)
        print_json(facts)
    else:
        print(target)
    if not is_good:
        raise typer.Exit(1)


def verify_result(
    folder: Path,
    source: str | None,
    threads: int | None,
    token: str | None,
    *,
    quiet: bool,
    noise: bool = False,
) -> dict[str, Any]:
    """Hold a folder against its plan, say what was found, and give that as a document."""
    from moegrow import documents, show

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    began = time.perf_counter()
    with phase("verifying", size, quiet=quiet) as progress:
        found = moegrow.verify(folder, source, threads=threads, token=token, progress=progress)
    if not quiet or not found.ok:
        show.verified(found, str(folder))
    if noise:
        show.noise(found.realised)
    return documents.verification(found, folder, time.perf_counter() - began)


def _check_alone(writing: Writing) -> None:
    """With --plan nothing is written and no document printed: a plan is one."""
    for other, given in (
        ("--output", writing.output is not None), ("--dry-run", writing.dry_run),
        ("--resume", writing.resume), ("--digests", writing.digests),
        ("--verify", writing.verify), ("--json", writing.as_json),
        ("--download", writing.download), ("--push", writing.push is not None),
    ):  # fmt: skip
        if given:
            raise UsageError(
                f"--plan writes nothing but the plan, so {other} does not go with it",
                f"leave out --plan or {other}",
            )


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
    if grown.source.folder is not None and Path(source).is_relative_to(here):
        source = str(Path(source).relative_to(here))
    recipe = Recipe(
        steps=grown.recipe, source=source, family=family,
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


def _prepared_upload(
    grown: "Plan", writing: Writing, token: str | None
) -> Callable[[Path], str | None]:
    """What uploads a result when it is written, and gives its address; may it, is asked now."""
    if writing.push is None:
        if writing.private:
            raise UsageError("--private is for the repository of --push, and none is given")
        return lambda target: None
    from moegrow import uploader

    goal = uploader.prepare(
        grown, writing.push, private=writing.private, force=writing.force, token=token,
        is_trial=writing.dry_run,
    )  # fmt: skip

    def upload(target: Path) -> str:
        uploader.upload(target, goal, quiet=writing.quiet or not sys.stderr.isatty())
        if not writing.quiet:
            print(f"uploaded to {goal.address}", file=sys.stderr)
        return goal.address

    return upload
