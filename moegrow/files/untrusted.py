"""Open untrusted files: regular files inside their own folder, up to a size limit.

What a name stands for is looked at and opened component by component, and no link is followed on
the way, so that a file cannot be exchanged for a link between the check and the opening.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePath
from typing import BinaryIO, TextIO

from moegrow.errors import MoegrowError, Parameter, Text

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# A FIFO would otherwise be waited for, should one take the place of a plain file.
_FILE = _FLAGS | os.O_NONBLOCK
_FOLDER = _FLAGS | os.O_DIRECTORY

# Bytes of a text with characters outside ASCII: one of them can make all take four bytes each.
MOST_WIDE = 16 << 20


class _LinkError(Exception):
    """Something on the way to a file is a link."""


def open_inside(folder: Path, name: str, links_to: tuple[Path, ...] | None = None) -> int:
    """The file `name` in `folder`, opened for reading, as a descriptor; the caller closes it.

    Links are followed within the folder alone, from a snapshot of the Hub's cache into the blobs
    of the same repository, and into the folders `links_to` where a user may name some. Raises
    MoegrowError for one that leads elsewhere, for a name that does, and for anything but a plain
    file.
    """
    path = folder / name
    if not name or "\0" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise MoegrowError(f"{name!r} is not the name of a file in {folder}")
    try:
        try:
            return _open(folder.resolve(), PurePath(name).parts)
        except _LinkError:
            target, root = _followed(folder, path, links_to)
            return _open(root, target.relative_to(root).parts)
    except _LinkError:
        raise MoegrowError(f"{path} was exchanged for a link just now") from None
    except (OSError, RuntimeError) as error:
        # Before Python 3.13 a circle of links is a RuntimeError.
        reason = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
        raise MoegrowError(f"{path} cannot be opened: {reason}") from None


@contextmanager
def opened(
    folder: Path, name: str, links_to: tuple[Path, ...] | None = None
) -> Iterator[BufferedReader]:
    """The file `name` in `folder`, opened as `open_inside` does, closed at the end."""
    with os.fdopen(open_inside(folder, name, links_to), "rb") as file:
        yield file


def read_text(folder: Path, name: str, most: int) -> str:
    """The text of a file of at most `most` bytes, opened as `open_inside` does.

    Raises MoegrowError also where there is more, of which nothing is read, or no UTF-8.
    """
    with opened(folder, name) as file:
        return read_all_text(file, str(folder / name), most)


def read_all_text(file: BinaryIO, what: str, most: int) -> str:
    """The text of an open file, as `read_text` gives it; `what` names it in errors."""
    size = os.fstat(file.fileno()).st_size
    # What has no size, such as files that the kernel makes up, may still go on for ever.
    raw = file.read(most + 1) if size <= most else b""
    if size > most or len(raw) > most:
        raise MoegrowError(f"{what} has {size} bytes or more, and the most that is read is {most}")
    return decoded(raw, what)


def decoded(raw: bytes, what: str) -> str:
    """The text that bytes are; raises MoegrowError where that is no UTF-8, or takes too much."""
    check_width(raw, what)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MoegrowError(f"{what} is not UTF-8 text") from None


def check_width(text: str | bytes, what: str) -> None:
    """Raise MoegrowError where a text would take four bytes for each of very many characters.

    Bytes are looked at before they become such a text. In JSON, an escape can do the same.
    """
    if len(text) > MOST_WIDE and (not text.isascii() or _has_escape(text)):
        raise MoegrowError(
            f"{what} has {len(text)} characters and some of them outside ASCII, where the most that"
            f" is read is {MOST_WIDE}"
        )


def _has_escape(text: str | bytes) -> bool:
    return b"\\u" in text if isinstance(text, bytes) else "\\u" in text


def lines(file: TextIO, what: str, *, longest: int, most: int) -> Iterator[str]:
    """The lines of an open file, which may have no end; `what` names it in errors.

    Raises MoegrowError where a line has more than `longest` characters, or all have more than
    `most`, before more than that is read.
    """
    total = 0
    while line := file.readline(longest + 1):
        total += len(line)
        if len(line) > longest or total > most:
            raise MoegrowError(
                f"{what} is larger than any that moegrow writes: {total} characters so far"
            )
        yield line


def exists_inside(folder: Path, name: str) -> bool:
    """Whether anything stands under a name, be it a link to nothing."""
    try:
        return os.path.lexists(folder / name)
    except ValueError:
        return False


def is_plain_file(path: Path) -> bool:
    """Whether a plain file, and no link to one, stands under a path."""
    return _is(path, stat.S_ISREG)


def is_plain_folder(path: Path) -> bool:
    """Whether a folder, and no link to one, stands under a path."""
    return _is(path, stat.S_ISDIR)


def kind(path: Path) -> str:
    """What stands under a path, which exists, for people."""
    mode = path.lstat().st_mode
    return next((name for is_it, name in _KINDS if is_it(mode)), "something else")


_KINDS = (
    (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip


def _is(path: Path, wanted: Callable[[int], bool]) -> bool:
    try:
        return wanted(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _open(root: Path, parts: tuple[str, ...]) -> int:
    """The plain file that lies at `parts` below `root`; raises _LinkError where one is a link."""
    at = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for number, part in enumerate(parts):
            mode = os.stat(part, dir_fd=at, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise _LinkError
            is_last = number == len(parts) - 1
            # Opening a device can do things, so what it is is asked before.
            if is_last and not stat.S_ISREG(mode):
                raise MoegrowError(f"{root.joinpath(*parts)} is not a plain file")
            below = os.open(part, _FILE if is_last else _FOLDER, dir_fd=at)
            # A signal may end the run between any two steps, and `at` is always open.
            above, at = at, below
            os.close(above)
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise MoegrowError(f"{root.joinpath(*parts)} is not a plain file")
    except BaseException:
        os.close(at)
        raise
    return at


def _followed(folder: Path, path: Path, links_to: tuple[Path, ...] | None) -> tuple[Path, Path]:
    """Where a link leads, and the allowed folder in which that lies."""
    target = path.resolve()
    for root in (*_allowed(folder.resolve()), *(links_to or ())):
        if target.is_relative_to(root) and target != root:
            if not os.path.lexists(target):
                raise MoegrowError(f"{path} is a link to {target}, which does not exist")
            return target, root
    hint: Text = "replace the link by the file itself"
    if links_to is not None:
        hint = (
            "if its links may lead there: "
            + Parameter("links_to", [str(target.parent)])
            + "; or "
            + hint
        )
    raise MoegrowError(f"{path} is a link that leads out of the checkpoint, to {target}", hint)


def _allowed(folder: Path) -> Iterator[Path]:
    """The folder itself; and for a snapshot of the Hub's cache the blobs of its repository."""
    yield folder
    for place in (folder, *folder.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and repository.name.startswith("models--"):
            yield repository / "blobs"
