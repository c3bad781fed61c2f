"""Write a plan as a checkpoint that appears under its name only when it is complete."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moegrow import card, engine, planfile, shards
from moegrow.check import check_plan, check_source
from moegrow.checkpoint import CONFIG, INDEX, PLAN, README, Checkpoint, open_checkpoint, user_path
from moegrow.engine import Moved
from moegrow.errors import MoegrowError
from moegrow.plans import Plan
from moegrow.ranges import cores
from moegrow.strangers import opened

LOCK = ".moegrow-lock"

# What stands beside the output while it is written, and for a moment while it is replaced.
PARTIAL, REPLACED = ".partial", ".replaced"

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Written:
    """What apply wrote: where, how many files and tensors, how many bytes of tensors, and how."""

    path: Path
    files: int
    tensors: int
    nbytes: int
    moved: Moved


def apply(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    threads: int | None = None,
    max_shard_size: str | int = shards.DEFAULT_SIZE,
    reflink: bool = True,
    progress: Progress = lambda count: None,
    checked: Checkpoint | None = None,
) -> Written:
    """Write the checkpoint that the plan describes to the folder `output`.

    `progress` is called with the number of bytes just written, from several threads. `checked` is
    the plan's source, where it has just been opened and the plan held against it. Raises
    MoegrowError, with nothing left under the final name, where the plan does not fit its source
    or the folder may not be written.
    """
    target = user_path(output).absolute()
    check_target(target, plan.source.path, force=force)
    for name in (PARTIAL, REPLACED):
        check_apart(target.with_name(target.name + name), plan.source.path)
    checkpoint = checked or open_checkpoint(plan.source.location)
    if not checked:
        check_source(plan, checkpoint)
        check_plan(plan, checkpoint)
    files = shards.split(plan, checkpoint, max_shard_size)
    with _partial(target) as partial:
        moved = engine.fill(
            files, partial, checkpoint, threads=threads or cores(), reflink=reflink,
            progress=progress,
        )  # fmt: skip
        for name in checkpoint.side_files:
            copy = partial / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            with opened(checkpoint.folder, name) as side, _durable(copy) as file:
                shutil.copyfileobj(side, file)
        _write_text(partial / README, card.model_card(plan, target.name))
        with _durable(partial / PLAN) as file:
            file.writelines(line.encode() + b"\n" for line in planfile.to_lines(plan))
        _write_text(partial / INDEX, shards.index(files))
        _write_text(partial / CONFIG, plan.config)
        _publish(partial, target)
    return Written(target, len(files), len(plan.outputs), plan.nbytes, moved)


def check_target(target: Path, source: Path, *, force: bool) -> None:
    """Raise MoegrowError unless `target` may be written: new, or made by moegrow and `force`.

    The source, and anything in it or around it, is never written, whatever the flags.
    """
    check_apart(target, source)
    if not target.parent.is_dir():
        raise MoegrowError(
            f"{target.parent} is not a folder", f"make it first: mkdir -p {target.parent}"
        )
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


def check_apart(target: Path, source: Path) -> None:
    """Raise MoegrowError where writing to `target` could touch the source."""
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
    name = "".join(mark if mark.isprintable() else "_" for mark in plan.source.path.name)
    for step in plan.steps:
        if step["axis"] not in ("depth", "width"):
            continue
        old, new = step["layers"] if step["axis"] == "depth" else step["experts"]
        if new % old == 0:
            name += f"-{step['axis']}{new // old}x"
        else:
            name += f"-{new}{'layers' if step['axis'] == 'depth' else 'experts'}"
    return name if plan.steps else name + "-copy"


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A locked working folder beside the target, gone afterwards unless it became the target."""
    partial = target.with_name(target.name + PARTIAL)
    if os.path.lexists(partial) and (partial.is_symlink() or not (partial / LOCK).is_file()):
        raise MoegrowError(
            f"{partial} is in the way, and moegrow did not make it",
            "move it elsewhere, or give another -o",
        )
    try:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise MoegrowError(f"cannot write to {partial}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MoegrowError(
                f"another moegrow is writing {target}", "wait for it, or give another -o"
            ) from None
        # What a run that died left here is complete in no sense: it begins anew.
        for entry in partial.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        except OSError as error:
            name = error.filename or partial
            raise MoegrowError(
                f"writing {target} failed: {name}: {error.strerror}",
                "nothing was published; mend it and run the command again",
            ) from error
        finally:
            if partial.exists():
                shutil.rmtree(partial)
    finally:
        os.close(lock)


def _publish(partial: Path, target: Path) -> None:
    """Give the working folder its final name; what stood there goes only after that."""
    (partial / LOCK).unlink()
    _sync(partial)
    old = None
    if target.exists():
        old = target.with_name(target.name + REPLACED)
        if (old / PLAN).is_file() and not old.is_symlink():
            # An earlier replacement died after its result was in place.
            shutil.rmtree(old)
        target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        if old:
            old.rename(target)
        raise
    _sync(target.parent)
    if old:
        shutil.rmtree(old)


@contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when all of it is on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _write_text(path: Path, text: str) -> None:
    with _durable(path) as file:
        # A lone surrogate, as names of files that are no UTF-8 become, is no text elsewhere.
        file.write(text.encode("utf-8", "backslashreplace"))


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
