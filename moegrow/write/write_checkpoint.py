"""The Python function `apply`: write a plan as a checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from moegrow import display
from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moegrow.checkpoint.hub import Bar, Repository, no_bar
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.store import CARD, CONFIG, Access, is_index
from moegrow.errors import Parameter, UsageError
from moegrow.files.byte_ranges import cores
from moegrow.planning.check import check_plan, check_source, check_witness, witness
from moegrow.planning.plan import Plan
from moegrow.write import run_job, shards, verify_result
from moegrow.write.check_output import check_apart, check_target
from moegrow.write.engine import Moved
from moegrow.write.resume import is_written
from moegrow.write.run_job import JobOutcome
from moegrow.write.verify_result import Verified
from moegrow.write.work_dir import partial_of
from moegrow.write.write_job import WHOLE, Part, Progress, Role, Say, WriteJob, read_part


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
        raise UsageError(
            Parameter("finish")
            + " writes no shards, so "
            + Parameter("part")
            + " does not go with it"
        )
    role = Role.TOGETHER if share else Role.PUBLISH if finish else Role.ALONE
    target, here = user_path(output).absolute(), plan.source.folder
    goes_on = resume or role is not Role.ALONE
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
    job = WriteJob(
        plan=plan, target=target, checkpoint=checkpoint, seen=seen, shards=files,
        part=share or WHOLE, role=role, max_shard_size=shards.parse_size(max_shard_size),
        digests=digests, force=force, resume=resume,
        threads=threads or checkpoint.store.threads or cores(), reflink=reflink,
        progress=progress, say=say,
    )  # fmt: skip
    return _written(job, run_job.run(job), share)


def _written(job: WriteJob, done: JobOutcome, part: Part | None) -> Written:
    """The result of a job, in numbers of what it was to write."""
    if done.was_complete:
        job.say(f"{job.target} is complete already")
        count = sum(1 for _ in job.target.glob("*.safetensors"))
        tensors, nbytes = len(job.plan.outputs), job.plan.nbytes
        return Written(job.target, count, tensors, nbytes, Moved(), count, part)
    outputs = [output for number in job.numbers for output in job.shards[number].outputs]
    return Written(
        job.target, len(job.numbers), len(outputs), sum(output.nbytes for output in outputs),
        done.moved, done.kept, part, tuple(number + 1 for number in done.missing),
        done.is_published,
    )  # fmt: skip


def fetch(checkpoint: Checkpoint, bar: Bar = no_bar) -> None:
    """Put all that is read from a source on the Hub into the Hub's cache.

    Raises MoegrowError where the source is elsewhere, or it does not arrive whole.
    """
    store = checkpoint.store
    if not isinstance(store, Repository):
        raise UsageError(
            Parameter("download", True)
            + f" is for a repository of the Hub, and {store.location} is none",
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
