"""Lock a working folder for one process, or for several that write parts of one result."""

import errno
import fcntl
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moegrow.errors import MoegrowError, Parameter
from moegrow.files.untrusted import is_plain_file, is_plain_folder, kind, read_text
from moegrow.write.work_dir import (
    BEGUN,
    JOURNAL,
    LOCK,
    OWNER,
    REPLACED,
    RESULT,
    Partial,
    partial_of,
)

LONGEST_OWNER = 1000  # bytes of a file that says which process holds the folder

# What flock answers where another holds the lock; all else means that there are no locks.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}

# A link in place of the lock is not followed, and a FIFO is not waited for.
_LOCK = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class HeldError(MoegrowError):
    """Another process holds the working folder, in a way that leaves no room for this one."""


@contextmanager
def locked(target: Path, *, shared: bool = False) -> Iterator[Partial]:
    """The working folder of a target, made where it is missing, held by this process alone.

    With `shared` others may hold it at the same time in that way. Raises MoegrowError where it is
    held, where the folder is not moegrow's, or cannot be written.
    """
    folder = partial_of(target)
    while True:
        if os.path.lexists(folder) and not _is_ours(folder):
            raise MoegrowError(
                f"{folder} is in the way, and moegrow did not make it",
                "move it elsewhere, or give another " + Parameter("output"),
            )
        try:
            _make(folder)
            _check_kinds(folder)
            lock = _opened_lock(folder)
        except FileNotFoundError:
            if folder.parent.is_dir():
                continue  # another run removed it just now
            raise MoegrowError(f"{folder.parent} is gone") from None
        except OSError as error:
            raise MoegrowError(
                f"cannot write to {folder}: {error.strerror}", "give another " + Parameter("output")
            ) from None
        owner = None
        try:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _HELD:
                    raise HeldError(
                        f"another moegrow is writing {target}",
                        "wait for it, or give another " + Parameter("output"),
                    ) from None
                owner = _own(folder, target, shared=shared)
            if not _is_open_as(lock, folder / LOCK):
                continue  # the run that held the lock has removed the folder
            partial = Partial(folder)
            if not shared:
                _settle(partial)
            yield partial
            return
        finally:
            if owner:
                owner.unlink(missing_ok=True)
            os.close(lock)
            # On a network filesystem the lock is in the way of that until it is closed.
            with suppress(OSError):
                folder.rmdir()


def _make(folder: Path) -> None:
    """Make a working folder where it is missing.

    Filesystems where nobody makes folders, such as /proc, say that it is not there: that is no
    sign of another run which has just removed it.
    """
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        if folder.parent.is_dir():
            # Not as an OSError, which would be a FileNotFoundError again by its number.
            raise MoegrowError(
                f"cannot write to {folder}: no folder can be made there",
                "give another " + Parameter("output"),
            ) from None
        raise


def _settle(partial: Partial) -> None:
    """End a replacement that an earlier run was cut off in; see `Partial.settle`."""
    try:
        partial.settle()
    except OSError as error:
        raise MoegrowError(
            f"{partial.replaced} was moved there while {partial.target} was replaced, and cannot be"
            f" put back or removed: {error.strerror}",
            f"put it back yourself: mv {shlex.quote(str(partial.replaced))}"
            f" {shlex.quote(str(partial.target))}",
        ) from None


def _check_kinds(folder: Path) -> None:
    """Raise MoegrowError where something in a working folder is not what moegrow makes there.

    Who prepares such a folder could otherwise have files removed, written or read elsewhere.
    """
    folders = (RESULT, JOURNAL, REPLACED)
    for name in [*os.listdir(folder)]:
        path = folder / name
        if name in folders:
            is_right = is_plain_folder(path)
        elif name in (LOCK, BEGUN) or name.startswith(OWNER):
            is_right = is_plain_file(path)
        else:
            continue
        if not is_right and os.path.lexists(path):
            usual = "a folder" if name in folders else "a file"
            raise MoegrowError(
                f"{path} is {kind(path)}, and moegrow makes {usual} of that name",
                "somebody else made it; move it away, or give another " + Parameter("output") + ":"
                f" mv {shlex.quote(str(folder))} elsewhere",
            )


def _opened_lock(folder: Path) -> int:
    """The lock of a working folder as an open file, made where it is missing."""
    at = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return os.open(LOCK, _LOCK, 0o666, dir_fd=at)
    finally:
        os.close(at)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether the file that is open is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether moegrow made a folder: it has a lock, or nothing at all yet, or is gone again."""
    if folder.is_symlink():
        return False
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    return LOCK in names or all(name.startswith(OWNER) for name in names)


def _own(folder: Path, target: Path, *, shared: bool) -> Path | None:
    """Take a working folder on a filesystem without locks: by a file that names who has it.

    Gives that file, or None where the folder has gone. A process of this machine that has ended is
    known to have done so; of one on another machine nobody can tell, so its file must be removed
    by hand.
    """
    here = socket.gethostname()
    mine = folder / OWNER
    if shared:
        mine = folder / f"{OWNER}-{here}-{os.getpid()}-{os.urandom(4).hex()}"
    else:
        _check_ended(mine, target)
    try:
        with mine.open("x") as file:
            file.write(f"{here} {os.getpid()}")
    except FileNotFoundError:
        return None
    except FileExistsError:
        raise HeldError(f"another moegrow is writing {target}", "wait for it") from None
    # Looked for now, when this one can be seen: of two that begin at once, one sees the other.
    others = [folder / OWNER] if shared else [*folder.glob(f"{OWNER}-*")]
    try:
        for other in others:
            _check_ended(other, target)
    except BaseException:
        mine.unlink(missing_ok=True)
        raise
    return mine


def _check_ended(owner: Path, target: Path) -> None:
    """Raise HeldError unless the process that a file names has ended; then the file goes."""
    if not os.path.lexists(owner):
        return
    try:
        host, _, process = read_text(owner.parent, owner.name, LONGEST_OWNER).partition(" ")
    except MoegrowError:
        if os.path.lexists(owner):
            raise
        return
    is_known = process.isdecimal() and host == socket.gethostname()
    if not is_known or Path("/proc", process).exists():
        raise HeldError(
            f"process {process} on {host} is writing {target}, as {owner} says",
            f"wait for it; if it has ended: rm {shlex.quote(str(owner))}",
        )
    owner.unlink(missing_ok=True)
