"""Check before the first byte that a result can get its name."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD, CONFIG, INDEX
from moegrow.errors import MoegrowError, Parameter, UnfinishedError
from moegrow.files.atomic import temporary
from moegrow.files.mounts import is_mount, try_moving
from moegrow.write.digests import read_digests
from moegrow.write.work_dir import RESULT, Partial, partial_of


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
            "give another folder with " + Parameter("output") + "; the source is never written",
        )


def check_free(target: Path, *, force: bool) -> None:
    """Raise MoegrowError where something stands under the name that may not be replaced."""
    if not os.path.lexists(target):
        return
    if is_mount(target):
        raise MoegrowError(
            f"{target} is a mount point, and a result gets its name by renaming, which cannot"
            " replace one",
            "give a folder on it: " + Parameter("output", target / "grown"),
        )
    if not force:
        raise MoegrowError(
            f"{target} exists already",
            "use "
            + Parameter("force", True)
            + ", or another "
            + Parameter("output")
            + _left(target),
        )
    replaceable = target.is_dir() and not target.is_symlink()
    if not replaceable or (any(target.iterdir()) and not (target / PLAN).exists()):
        raise MoegrowError(
            f"{target} was not written by moegrow, so "
            + Parameter("force")
            + " does not replace it",
            "remove it yourself, or give another " + Parameter("output"),
        )
    if name := _first_addition(target):
        raise MoegrowError(
            f"{target} holds {name}, which moegrow did not write and "
            + Parameter("force")
            + " would delete",
            "move it elsewhere if you need it, or else remove it; or give another "
            + Parameter("output"),
        )


def _left(target: Path) -> str:
    """The hint about the working folder of a run that was killed when its result was in place."""
    partial = Partial(partial_of(target))
    if os.path.lexists(partial.replaced) and not os.path.lexists(partial.result):
        folder = shlex.quote(str(partial.folder))
        return f"; {partial.folder} is left over from a run that was killed: rm -r {folder}"
    return ""


def _first_addition(result: Path) -> str | None:
    """The name of a file in a result that its digests do not name, or None.

    Training that goes on in the folder of a result leaves checkpoints there, and notes are kept
    beside weights. Hidden files do not count. Without readable digests nothing is known.
    """
    try:
        digests = read_digests(result / DIGESTS)
    except (MoegrowError, OSError):
        return None
    known = {CARD, CONFIG, INDEX, DIGESTS, PLAN, *digests.files}
    known |= {entry.name for entry in digests.entries}
    return next((name for name in _names(result) if name not in known), None)


def _names(folder: Path) -> Iterator[str]:
    """The names of all files in a folder and below it, without hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


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
            "give an " + Parameter("output") + " on another filesystem",
        ) from None
    else:
        if partial.target.is_dir():
            with moving_aside(partial.target):
                try_moving(partial.target, inside)
    finally:
        for folder in (inside, beside):
            for full in (folder / RESULT, folder):
                with suppress(OSError):
                    full.rmdir()


@contextmanager
def moving_aside(target: Path) -> Iterator[None]:
    """Say what to do where an older result cannot be moved."""
    try:
        yield
    except OSError as error:
        raise UnfinishedError(
            f"{target} cannot be moved aside: {error.strerror}",
            f"move it yourself: mv {shlex.quote(str(target))} {shlex.quote(f'{target}.old')}",
        ) from None
