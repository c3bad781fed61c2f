"""Write a plan as a checkpoint that appears under its name only when it is complete."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

from moegrow import display
from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moegrow.checkpoint.hub import Bar, Repository, no_bar
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.store import CARD, CONFIG, Access, is_index
from moegrow.errors import UsageError
from moegrow.files.byte_ranges import cores
from moegrow.planning.check import check_plan, check_source, check_witness, witness
from moegrow.planning.plan import Plan
from moegrow.write import engine, shards, verify_result
from moegrow.write.disk_space import check_space
from moegrow.write.engine import Moved
from moegrow.write.parts import Part, publish_parts, read_part, write_part
from moegrow.write.publish import (
    Progress,
    Run,
    check_apart,
    check_free,
    check_renaming,
    check_target,
    complete,
    dropping,
    failing,
    unchecked,
)
from moegrow.write.resume import Say, begin_anew, go_on, is_written
from moegrow.write.shard_files import Journal
from moegrow.write.verify_result import Verified
from moegrow.write.work_dir import partial_of
from moegrow.write.work_dir_lock import HeldError, locked


@dataclass(frozen=True)
class Written:
    """What apply wrote: where, how many files and tensors, how many bytes of tensors, and how.

    `kept` of the files were there already, finished by an earlier run. Where a `part` was written,
    these are its own; `missing` are the numbers of the shards, counted from 1, that no process has
    finished, and `is_published` says whether the result is at `path` now.
    """

    path: Path
    files: int
    tensors: int
    nbytes: int
    moved: Moved
    kept: int = 0
    part: Part | None = None
    missing: tuple[int, ...] = ()
    is_published: bool = True

    @property
    def came(self) -> str:
        """By which ways the bytes that were written have come, for people."""
        ways = (
            ("shared with the source", self.moved.shared),
            ("copied", self.moved.copied),
            ("computed", self.moved.computed),
        )
        return (
            ", ".join(f"{display.size(count)} {way}" for way, count in ways if count) or "no bytes"
        )

    def verify(
        self, *, threads: int | None = None, progress: Progress = lambda count: None
    ) -> Verified:
        """Hold what was written against its plan and its source, byte for byte."""
        return verify_result.verify(self.path, threads=threads, progress=progress)

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.tensors} tensors in {self.files} file{'s' * (self.files != 1)},"
            f" {display.size(self.nbytes)} ({self.came})"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def apply(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    resume: bool = False,
    part: str | tuple[int, int] | None = None,
    finish: bool = False,
    digests: bool = False,
    threads: int | None = None,
    max_shard_size: str | int = shards.DEFAULT_SIZE,
    reflink: bool = True,
    download: bool = False,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    progress: Progress = lambda count: None,
    say: Say = lambda text: None,
    checked: Checkpoint | None = None,
) -> Written:
    """Write the checkpoint that the plan describes to the folder `output`.

    With `resume`, shards that an earlier run of the same plan has finished are kept. With `part`,
    (3, 16) or "3/16", every sixteenth shard from the third on is written: any number of processes
    may do that at once, on any machines that see the folder, and the last one publishes the
    result. With `finish` no shard is written, and a result whose shards are all there is published.
    With `digests`, those of all bytes are kept beside the result, not only of the computed ones.
    With `download` a source on the Hub is put into the Hub's cache first; `token` is for it, and
    `links_to` are folders into which a local source's links may lead.
    `progress` is called with the number of bytes just written, from several threads, and `say`
    with sentences for a person. `checked` is the plan's source, where it has just been opened and
    the plan held against it. Raises MoegrowError, with nothing left under the final name, where the
    plan does not fit its source or the folder may not be written.
    """
    share = None if part is None else read_part(part)
    if share and finish:
        raise UsageError("--finish writes no shards, so --shards does not go with it")
    goes_on = resume or finish or share is not None
    target, here = user_path(output).absolute(), plan.source.folder
    is_complete = goes_on and is_written(plan, target)
    check_target(target, here, force=force, is_complete=is_complete)
    check_apart(partial_of(target), here)
    checkpoint = checked or open_checkpoint(plan.source.location, Access(token, None, links_to))
    if not checked:
        check_source(plan, checkpoint)
        check_plan(plan, checkpoint)
    files = shards.split(plan, checkpoint, max_shard_size)
    if download:
        fetch(checkpoint)
    seen = witness(checkpoint)
    check_witness(seen, checkpoint)
    run = Run(
        target=target, plan=plan, checkpoint=checkpoint, seen=seen, files=files,
        max_shard_size=shards.parse_size(max_shard_size), digests=digests, force=force,
        threads=threads or checkpoint.store.threads or cores(), reflink=reflink,
        progress=progress, say=say,
    )  # fmt: skip
    if goes_on and is_written(plan, target):
        with suppress(HeldError), locked(target) as partial:
            partial.remove()
        return _there(run, share)
    if share:
        return _write_part(run, share)
    if finish:
        publish_parts(run)
        return Written(target, len(files), len(plan.outputs), plan.nbytes, Moved(), len(files))
    return _write(run, resume=resume)


def _there(run: Run, part: Part | None = None) -> Written:
    """What is said of a result that is complete already."""
    run.say(f"{run.target} is complete already")
    count, plan = sum(1 for _ in run.target.glob("*.safetensors")), run.plan
    return Written(run.target, count, len(plan.outputs), plan.nbytes, Moved(), count, part)


def _write_part(run: Run, part: Part) -> Written:
    """Write the shards of a part, and publish the result if they were the last ones."""
    mine = [run.files[number] for number in part.shards(len(run.files))]
    done = write_part(run, part)
    return Written(
        run.target, len(mine), sum(len(shard.outputs) for shard in mine),
        sum(output.nbytes for shard in mine for output in shard.outputs), done.moved, done.kept,
        part, tuple(number + 1 for number in done.missing), done.is_published,
    )  # fmt: skip


def _write(run: Run, *, resume: bool) -> Written:
    """Write all shards, but for those that an earlier run has finished, and publish the result."""
    plan, target, files = run.plan, run.target, run.files
    with locked(target) as partial:
        if resume and is_written(plan, target):
            partial.remove()
            return _there(run)
        check_free(target, force=run.force)
        begun = go_on(partial, plan, run.facts, resume=resume, force=run.force, say=run.say)
        with failing(partial, target):
            plan = begun or begin_anew(partial, plan, run.facts)
            check_renaming(partial)
            done = partial.check(files, run.threads, run.say)
            check_space(files, partial.result, run.checkpoint, done=done, reflink=run.reflink)
            run.progress(sum(output.nbytes for number in done for output in files[number].outputs))
            with dropping(run, partial):
                moved = engine.fill(
                    files, partial.result, run.checkpoint, threads=run.threads,
                    reflink=run.reflink, progress=run.progress,
                    journal=Journal(done, partial.note, everything=run.digests),
                )  # fmt: skip
            unchecked(run, moved)
            complete(run, partial, plan)
    return Written(target, len(files), len(plan.outputs), plan.nbytes, moved, len(done))


def fetch(checkpoint: Checkpoint, bar: Bar = no_bar) -> None:
    """Put all that is read from a source on the Hub into the Hub's cache.

    Raises MoegrowError where the source is elsewhere, or it does not arrive whole.
    """
    store = checkpoint.store
    if not isinstance(store, Repository):
        raise UsageError(
            f"--download is for a repository of the Hub, and {store.location} is none",
            "leave it out",
        )
    names = [CONFIG, CARD, *(file.name for file in checkpoint.files), *checkpoint.side_files]
    names += filter(is_index, store.top())
    store.download([name for name in names if store.has(name)], bar)


def default_name(plan: Plan) -> str:
    """The folder for a result that was given none: `ckpt-depth2x-width2x`."""
    # It comes from a plan, and is printed for the next program as it is.
    name = "".join(mark if mark.isprintable() else "_" for mark in plan.source.name)
    for step in plan.steps:
        for of, (old, new) in step.numbers.items():
            if of != "top_k":
                name += f"-{new}{of}" if new % old else f"-{step.axis}{new // old}x"
    dtype = (plan.storage.dtype or plan.storage.experts).lower()
    name += f"-{dtype}" if dtype else ""
    return name if plan.steps or dtype else name + "-copy"
