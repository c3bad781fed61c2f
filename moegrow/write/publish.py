"""Complete a result whose shards are written, and give it its name as the last thing of all."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.checksums import WrongBytesError
from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD, CONFIG, INDEX, contents
from moegrow.errors import MoegrowError, UnfinishedError
from moegrow.files.atomic import durable, sync, temporary
from moegrow.files.mounts import is_mount, try_moving
from moegrow.planning.check import Witness, check_unchanged
from moegrow.planning.plan import Plan
from moegrow.write import model_card, shards
from moegrow.write.digests import Digests, file_digest, text_bytes, text_digest
from moegrow.write.engine import Moved
from moegrow.write.resume import Facts, Say, facts_of
from moegrow.write.schedule import made_from
from moegrow.write.shards import Shard
from moegrow.write.unknown_files import first_addition
from moegrow.write.work_dir import RESULT, Partial, partial_of

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run writes, where, and how, from the moment on that its source has been looked at.

    `seen` is what the files of the source were at that moment, and `max_shard_size` in bytes.
    """

    target: Path
    plan: Plan
    checkpoint: Checkpoint
    seen: Witness
    files: tuple[Shard, ...]
    max_shard_size: int
    digests: bool
    force: bool
    threads: int
    reflink: bool
    progress: Progress
    say: Say

    @property
    def facts(self) -> Facts:
        """What another run must share with this one to go on with it, beside the plan."""
        return facts_of(self.max_shard_size, self.digests, self.seen)


def check_target(
    target: Path, source: Path | None, *, force: bool, is_complete: bool = False
) -> None:
    """Raise MoegrowError unless `target` may be written: new, or made by moegrow and `force`.

    The source, and anything in it or around it, is never written, whatever the flags. One that
    `is_complete` already is not going to be written.
    """
    check_apart(target, source)
    if not target.parent.is_dir():
        raise MoegrowError(
            f"{target.parent} is not a folder",
            f"make it first: mkdir -p {shlex.quote(str(target.parent))}",
        )
    if not is_complete:
        check_free(target, force=force)


def check_free(target: Path, *, force: bool) -> None:
    """Raise MoegrowError where something stands under the name that may not be replaced."""
    if not os.path.lexists(target):
        return
    if is_mount(target):
        raise MoegrowError(
            f"{target} is a mount point, and a result gets its name by renaming, which cannot"
            " replace one",
            f"give a folder on it: -o {shlex.quote(str(target / 'grown'))}",
        )
    if not force:
        raise MoegrowError(f"{target} exists already", f"use --force, or another -o{_left(target)}")
    replaceable = target.is_dir() and not target.is_symlink()
    if not replaceable or (any(target.iterdir()) and not (target / PLAN).exists()):
        raise MoegrowError(
            f"{target} was not written by moegrow, so --force does not replace it",
            "remove it yourself, or give another -o",
        )
    if name := first_addition(target):
        raise MoegrowError(
            f"{target} holds {name}, which moegrow did not write and --force would delete",
            "move it elsewhere if you need it, or else remove it; or give another -o",
        )


def _left(target: Path) -> str:
    """What to do about the folder of a run that was killed when its result was in place."""
    partial = Partial(partial_of(target))
    if os.path.lexists(partial.replaced) and not os.path.lexists(partial.result):
        folder = shlex.quote(str(partial.folder))
        return f"; {partial.folder} is left over from a run that was killed: rm -r {folder}"
    return ""


def check_renaming(partial: Partial) -> None:
    """Raise UnfinishedError where a result could not leave its working folder, or an old one enter.

    That is tried before hours are spent on a result: with an empty folder, and with these two in
    a way that leaves them in their places.
    """
    inside, beside = temporary(partial.folder / RESULT), temporary(partial.target)
    try:
        inside.mkdir()
        inside.rename(beside)
        (beside / RESULT).mkdir()
        try_moving(partial.result, beside)
        beside.rename(inside)
    except OSError as error:
        raise UnfinishedError(
            f"a folder cannot be moved from {partial.folder} to {partial.target.parent}, which is"
            f" how a result gets its name: {error.strerror}",
            "give an -o on another filesystem",
        ) from None
    else:
        if partial.target.is_dir():
            with _moving_aside(partial.target):
                try_moving(partial.target, inside)
    finally:
        for folder in (inside, beside):
            for full in (folder / RESULT, folder):
                with suppress(OSError):
                    full.rmdir()


def check_apart(target: Path, source: Path | None) -> None:
    """Raise MoegrowError where writing to `target` could touch a source on this machine."""
    if source is None:
        return
    real, store = target.resolve(), source.resolve()
    folder = store if store.is_dir() else store.parent
    if real == folder or real.is_relative_to(folder) or folder.is_relative_to(real):
        where = "is" if real == folder else "is inside" if real.is_relative_to(folder) else "holds"
        raise MoegrowError(
            f"the output {target} {where} the source {source}",
            "give another folder with -o; the source is never written",
        )


def complete(run: Run, partial: Partial, plan: Plan) -> None:
    """Make a result of a working folder in which all shards are, and give it its name.

    Raises MoegrowError, with nothing under that name that was not there before, where the source
    has changed since the run began.
    """
    _write_beside(partial, plan, run)
    check_unchanged(run.seen, run.checkpoint)
    _publish(partial, run.target, force=run.force)


@contextmanager
def failing(partial: Partial, target: Path) -> Iterator[None]:
    """What becomes of a run that fails: finished shards are kept where they can be of use."""
    with telling(partial, target):
        try:
            yield
        except BaseException as error:
            is_useful = isinstance(error, UnfinishedError) or not isinstance(error, MoegrowError)
            with suppress(OSError):
                if is_useful and partial.finished():
                    partial.tidy()
                else:
                    partial.remove()
            raise


@contextmanager
def dropping(run: Run, partial: Partial) -> Iterator[None]:
    """Remove the finished shards that hold bytes of a file which then turned out to be wrong."""
    try:
        yield
    except WrongBytesError as error:
        for number in made_from(run.files, run.checkpoint, error.file):
            partial.drop(run.files[number])
        raise


def unchecked(run: Run, moved: Moved) -> None:
    """Say which files of the source were not held against the digests that are listed for them."""
    if count := len(moved.unchecked):
        run.say(
            f"{count} of {len(run.checkpoint.files)} weight files were read in part, or not in the"
            " order of their bytes, and so not held against their SHA-256; moegrow verify does it"
        )


@contextmanager
def telling(partial: Partial, target: Path) -> Iterator[None]:
    """Tell of a disk that fails as of a run that can be gone on with."""
    try:
        yield
    except OSError as error:
        said = f"writing {target} failed: {error.filename or partial.folder}: {error.strerror}"
        raise UnfinishedError(said, "nothing was published; mend what is wrong there") from error


def _write_beside(partial: Partial, plan: Plan, run: Run) -> None:
    """Write what stands beside the shards, index and config last."""
    folder, checkpoint, files = partial.result, run.checkpoint, run.files
    changed = dict(plan.files)
    sides = [side for side in checkpoint.side_files if changed.get(side, "") is not None]
    text = model_card.model_card(
        plan, run.target.name, model_card.carried_from(checkpoint.store), sides
    )
    texts = {CARD: text, INDEX: shards.index(files), CONFIG: plan.config}
    for side in sides:
        copy = folder / side
        copy.parent.mkdir(parents=True, exist_ok=True)
        new = changed.get(side)
        with durable(copy) as file:
            file.writelines(contents(checkpoint.store, side) if new is None else [new.encode()])
        sync(copy.parent)
    found = {side: file_digest(folder, side) for side in (PLAN, *sides)}
    found |= {side: text_digest(text) for side, text in texts.items()}
    entries = tuple(map(partial.noted, files))
    texts[DIGESTS] = Digests(run.digests, found, entries).text()
    for side in (CARD, DIGESTS, INDEX, CONFIG):
        with durable(folder / side) as file:
            file.write(text_bytes(texts[side]))
    sync(folder)


def _publish(partial: Partial, target: Path, *, force: bool) -> None:
    """Give the result its final name; what stood there goes only after that.

    It is kept in the working folder meanwhile: no name beside the output is anyone else's.
    """
    if os.path.lexists(target):
        check_free(target, force=force)
        _move_aside(partial, target)
    try:
        partial.result.rename(target)
    except BaseException:
        partial.settle()
        raise
    sync(target.parent)
    # The result is in place: what goes wrong from here on is no failure of the run.
    with suppress(OSError):
        partial.remove()


def _move_aside(partial: Partial, target: Path) -> None:
    """Move an older result into the working folder."""
    with _moving_aside(target):
        target.rename(partial.replaced)
    sync(partial.folder)


@contextmanager
def _moving_aside(target: Path) -> Iterator[None]:
    """Say what to do where an older result cannot be moved."""
    try:
        yield
    except OSError as error:
        raise UnfinishedError(
            f"{target} cannot be moved aside: {error.strerror}",
            f"move it yourself: mv {shlex.quote(str(target))} {shlex.quote(f'{target}.old')}",
        ) from None
