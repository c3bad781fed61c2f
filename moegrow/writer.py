"""Write a plan as a checkpoint that appears under its name only when it is complete."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

from moegrow import card, engine, report, shards, verifier
from moegrow.check import check_plan, check_source, check_unchanged, check_witness, witness
from moegrow.checkpoint import (
    CARD,
    CONFIG,
    DIGESTS,
    INDEX,
    PLAN,
    Checkpoint,
    open_checkpoint,
    user_path,
)  # fmt: skip
from moegrow.digests import Digests, file_digest, text_bytes, text_digest
from moegrow.durable import durable, sync
from moegrow.engine import Moved
from moegrow.errors import MoegrowError, UsageError
from moegrow.hub import Repository
from moegrow.origin import Access, contents
from moegrow.partial import Partial, locked, partial_of
from moegrow.plans import Plan
from moegrow.ranges import cores
from moegrow.resume import Say, UnfinishedError, begin_anew, facts_of, go_on, is_written
from moegrow.shards import Shard
from moegrow.space import check_space
from moegrow.targets import Journal
from moegrow.verifier import Verified

REPLACED = ".replaced"  # behind the name of a result, for the moment in which it is replaced

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Written:
    """What apply wrote: where, how many files and tensors, how many bytes of tensors, and how.

    `kept` of the files were there already, finished by an earlier run.
    """

    path: Path
    files: int
    tensors: int
    nbytes: int
    moved: Moved
    kept: int = 0

    def verify(
        self, *, threads: int | None = None, progress: Progress = lambda count: None
    ) -> Verified:
        """Hold what was written against its plan and its source, byte for byte."""
        return verifier.verify(self.path, threads=threads, progress=progress)

    def __str__(self) -> str:
        moved = self.moved
        ways = (
            ("shared with the source", moved.shared),
            ("copied", moved.copied),
            ("computed", moved.computed),
        )
        came = ", ".join(f"{report.size(count)} {way}" for way, count in ways if count)
        return (
            f"{self.path}: {self.tensors} tensors in {self.files} file{'s' * (self.files != 1)},"
            f" {report.size(self.nbytes)} ({came or 'no bytes'})"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def apply(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    resume: bool = False,
    digests: bool = False,
    threads: int | None = None,
    max_shard_size: str | int = shards.DEFAULT_SIZE,
    reflink: bool = True,
    download: bool = False,
    token: str | None = None,
    progress: Progress = lambda count: None,
    say: Say = lambda text: None,
    checked: Checkpoint | None = None,
) -> Written:
    """Write the checkpoint that the plan describes to the folder `output`.

    With `resume`, shards that an earlier run of the same plan has finished are kept. With
    `digests`, those of all bytes are kept beside the result, not only of the computed ones. With
    `download` a source on the Hub is put into the Hub's cache first; `token` is for it.
    `progress` is called with the number of bytes just written, from several threads, and `say`
    with sentences for a person. `checked` is the plan's source, where it has just been opened and
    the plan held against it. Raises MoegrowError, with nothing left under the final name, where the
    plan does not fit its source or the folder may not be written.
    """
    target, here = user_path(output).absolute(), plan.source.folder
    check_target(target, here, force=force or (resume and is_written(plan, target)))
    for beside in (partial_of(target), target.with_name(target.name + REPLACED)):
        check_apart(beside, here)
    checkpoint = checked or open_checkpoint(plan.source.location, Access(token))
    if not checked:
        check_source(plan, checkpoint)
        check_plan(plan, checkpoint)
    files = shards.split(plan, checkpoint, max_shard_size)
    if download:
        fetch(checkpoint)
    threads = threads or checkpoint.origin.threads or cores()
    seen = witness(checkpoint)
    check_witness(seen, checkpoint)
    with locked(target) as partial:
        if resume and is_written(plan, target):
            say(f"{target} is complete already")
            partial.remove()
            count = sum(1 for _ in target.glob("*.safetensors"))
            return Written(target, count, len(plan.outputs), plan.nbytes, Moved(), count)
        check_free(target, force=force)
        facts = facts_of(shards.parse_size(max_shard_size), digests, seen)
        begun = go_on(partial, plan, facts, resume=resume, force=force, say=say)
        with _ending(partial, target):
            plan = begun or begin_anew(partial, plan, facts)
            done = partial.check(files, threads, say)
            check_space(files, partial.result, checkpoint, done=done, reflink=reflink)
            progress(sum(output.nbytes for number in done for output in files[number].outputs))
            moved = engine.fill(
                files, partial.result, checkpoint, threads=threads, reflink=reflink,
                journal=Journal(done, partial.note, everything=digests), progress=progress,
            )  # fmt: skip
            _finish(partial, plan, checkpoint, files, target.name, everything=digests)
            check_unchanged(seen, checkpoint)
            _publish(partial, target, force=force)
    return Written(target, len(files), len(plan.outputs), plan.nbytes, moved, len(done))


def fetch(checkpoint: Checkpoint, *, quiet: bool = True) -> None:
    """Put all that is read from a source on the Hub into the Hub's cache.

    Raises MoegrowError where the source is elsewhere, or it does not arrive whole.
    """
    origin = checkpoint.origin
    if not isinstance(origin, Repository):
        raise UsageError(
            f"--download is for a repository of the Hub, and {origin.location} is none",
            "leave it out",
        )
    names = [CONFIG, INDEX, CARD, *(file.name for file in checkpoint.files), *checkpoint.side_files]
    origin.download([name for name in names if origin.has(name)], quiet=quiet)


def check_target(target: Path, source: Path | None, *, force: bool) -> None:
    """Raise MoegrowError unless `target` may be written: new, or made by moegrow and `force`.

    The source, and anything in it or around it, is never written, whatever the flags.
    """
    check_apart(target, source)
    if not target.parent.is_dir():
        raise MoegrowError(
            f"{target.parent} is not a folder", f"make it first: mkdir -p {target.parent}"
        )
    check_free(target, force=force)


def check_free(target: Path, *, force: bool) -> None:
    """Raise MoegrowError where something stands under the name that may not be replaced."""
    if not os.path.lexists(target):
        return
    if not force:
        raise MoegrowError(f"{target} exists already", "use --force, or another -o")
    replaceable = target.is_dir() and not target.is_symlink()
    if not replaceable or (any(target.iterdir()) and not (target / PLAN).exists()):
        raise MoegrowError(
            f"{target} was not written by moegrow, so --force does not replace it",
            "remove it yourself, or give another -o",
        )


def check_apart(target: Path, source: Path | None) -> None:
    """Raise MoegrowError where writing to `target` could touch a source on this machine."""
    if source is None:
        return
    real, origin = target.resolve(), source.resolve()
    folder = origin if origin.is_dir() else origin.parent
    if real == folder or real.is_relative_to(folder) or folder.is_relative_to(real):
        where = "is" if real == folder else "is inside" if real.is_relative_to(folder) else "holds"
        raise MoegrowError(
            f"the output {target} {where} the source {source}",
            "give another folder with -o; the source is never written",
        )


def default_name(plan: Plan) -> str:
    """The folder for a result that was given none: `ckpt-depth2x-width2x`."""
    # It comes from a plan, and is printed for the next program as it is.
    name = "".join(mark if mark.isprintable() else "_" for mark in plan.source.name)
    for step in plan.steps:
        if step["axis"] not in ("depth", "width"):
            continue
        old, new = step["layers"] if step["axis"] == "depth" else step["experts"]
        if new % old == 0:
            name += f"-{step['axis']}{new // old}x"
        else:
            name += f"-{new}{'layers' if step['axis'] == 'depth' else 'experts'}"
    dtype = (plan.storage.dtype or plan.storage.experts).lower()
    name += f"-{dtype}" if dtype else ""
    return name if plan.steps or dtype else name + "-copy"


@contextmanager
def _ending(partial: Partial, target: Path) -> Iterator[None]:
    """What becomes of a run that fails: finished shards are kept where they can be of use."""
    try:
        yield
    except BaseException as error:
        is_useful = isinstance(error, UnfinishedError) or not isinstance(error, MoegrowError)
        with suppress(OSError):
            if is_useful and partial.finished():
                partial.tidy()
            else:
                partial.remove()
        if not isinstance(error, OSError):
            raise
        said = f"writing {target} failed: {error.filename or partial.folder}: {error.strerror}"
        raise UnfinishedError(said, "nothing was published; mend what is wrong there") from error


def _finish(
    partial: Partial,
    plan: Plan,
    checkpoint: Checkpoint,
    files: tuple[Shard, ...],
    name: str,
    *,
    everything: bool,
) -> None:
    """Write what stands beside the shards, index and config last."""
    folder = partial.result
    changed = dict(plan.files)
    sides = [side for side in checkpoint.side_files if changed.get(side, "") is not None]
    text = card.model_card(plan, name, card.carried_from(checkpoint.origin), sides)
    texts = {CARD: text, INDEX: shards.index(files), CONFIG: plan.config}
    for side in sides:
        copy = folder / side
        copy.parent.mkdir(parents=True, exist_ok=True)
        new = changed.get(side)
        with durable(copy) as file:
            file.writelines(contents(checkpoint.origin, side) if new is None else [new.encode()])
        sync(copy.parent)
    found = {side: file_digest(folder, side) for side in (PLAN, *sides)}
    found |= {side: text_digest(text) for side, text in texts.items()}
    entries = tuple(map(partial.noted, files))
    texts[DIGESTS] = Digests(everything, found, entries).text()
    for side in (CARD, DIGESTS, INDEX, CONFIG):
        with durable(folder / side) as file:
            file.write(text_bytes(texts[side]))
    sync(folder)


def _publish(partial: Partial, target: Path, *, force: bool) -> None:
    """Give the result its final name; what stood there goes only after that."""
    old = target.with_name(target.name + REPLACED)
    has_old = force and _is_result(old)
    if os.path.lexists(target):
        check_free(target, force=force)
        if has_old:
            # An earlier replacement died after its result was in place.
            shutil.rmtree(old)
        target.rename(old)
        has_old = True
    try:
        partial.result.rename(target)
    except BaseException:
        if has_old and not target.exists():
            old.rename(target)
        raise
    sync(target.parent)
    # The result is in place: what goes wrong from here on is no failure of the run.
    with suppress(OSError):
        partial.remove()
        if has_old:
            shutil.rmtree(old)


def _is_result(folder: Path) -> bool:
    return (folder / PLAN).is_file() and not folder.is_symlink()
