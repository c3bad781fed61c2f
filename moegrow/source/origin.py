"""Where the files of a source are, and how their bytes are had: a folder here, or far away."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from moegrow.errors import MoegrowError
from moegrow.ground.ranges import read_all
from moegrow.ground.strangers import exists_inside, open_inside, opened

CONFIG, INDEX, CARD = "config.json", "model.safetensors.index.json", "README.md"
BLOCK = 8 << 20  # bytes of a file read at a time
MOST_FILES = 10_000  # far more than any model has
DEEPEST = 32  # folders within folders

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://.*", re.DOTALL)


@dataclass(frozen=True)
class Access:
    """With what a source far away is opened: a token, which is never shown, and a revision."""

    token: str | None = field(default=None, repr=False)
    revision: str | None = None


ANYONE = Access()


class Origin(Protocol):
    """The files of a source. Their names are relative, with / between folders.

    `location` leads here again, also from elsewhere and later; `name` is what people call it.
    `threads` is how many should work on it, or None for as many as there are cores.
    """

    @property
    def location(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def threads(self) -> int | None: ...

    def has(self, name: str) -> bool:
        """Whether there is anything under a name."""

    def top(self) -> list[str]:
        """The names that lie in no folder, sorted."""

    def walk(self, is_left: Callable[[str], bool]) -> Iterator[str]:
        """Every file, but for hidden ones and those of other checkpoints in folders of this.

        Files and folders for whose names `is_left` says so are left out. Raises MoegrowError
        where there are more than any checkpoint has.
        """

    def below(self, name: str) -> list[str]:
        """The locations of the folders that hold a file of this name, sorted."""

    def check(self, name: str) -> None:
        """Raise MoegrowError where a file is not one to read from."""

    def size(self, name: str) -> int:
        """The bytes of a file."""

    def open(self, name: str) -> int | None:
        """A descriptor of a file, for the caller to close, or None where it is far away."""

    def sha256(self, name: str) -> str | None:
        """The SHA-256 of a file where it is known without reading, or None."""

    def version(self, name: str) -> int | str:
        """When a file here was last written, in nanoseconds, or what its place far away calls it.

        It is another where the file is another; of what cannot change it is "".
        """

    def refresh(self) -> None:
        """Ask anew which files there are and in which version, where that may have changed."""

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes of a file from `start` on.

        Raises EOFError with the position where the file ends before that.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    folder: Path
    threads: None = None

    @property
    def location(self) -> str:
        return str(self.folder)

    @property
    def name(self) -> str:
        return self.folder.name

    def has(self, name: str) -> bool:
        return exists_inside(self.folder, name)

    def top(self) -> list[str]:
        return sorted(entry.name for entry in self.folder.iterdir())

    def walk(self, is_left: Callable[[str], bool]) -> Iterator[str]:
        waiting, count = [Path()], 0
        while waiting:
            place = waiting.pop()
            for entry in self._entries(place):
                name = str(place / entry.name)
                if entry.name.startswith(".") or is_left(name):
                    continue
                if exists_inside(self.folder / name, CONFIG):
                    # Another checkpoint in a folder of this one, as training runs leave them.
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(place / entry.name)
                else:
                    yield name
                count += 1
                check_count(self.location, count, len(place.parts))

    def _entries(self, place: Path) -> list[os.DirEntry[str]]:
        """What a folder below this one holds, in alphabetical order."""
        try:
            with os.scandir(self.folder / place) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            path = self.folder / place
            raise MoegrowError(f"{path} cannot be read: {error.strerror}") from None

    def below(self, name: str) -> list[str]:
        # What is given may be the folder of a repository in the Hub's cache.
        found = (*self.folder.glob(f"*/{name}"), *self.folder.glob(f"snapshots/*/{name}"))
        return [str(path.parent) for path in sorted(found)]

    def check(self, name: str) -> None:
        """Refuse anything but a plain file, and links that lead out of the checkpoint.

        A tokenizer file that links to a private key must not end up in a published model. The
        one exception is a snapshot of the Hub cache, whose files are links into the `blobs`
        folder of the same repository.
        """
        os.close(self.open(name))

    def size(self, name: str) -> int:
        with opened(self.folder, name) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, name: str) -> int:
        return open_inside(self.folder, name)

    def sha256(self, name: str) -> str | None:
        return None

    def version(self, name: str) -> int:
        with opened(self.folder, name) as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def refresh(self) -> None:
        """Every question is asked of the folder as it is."""

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        try:
            with opened(self.folder, name) as file:
                file.seek(start)
                count = file.readinto(view)
        except OSError as error:
            path = str(self.folder / name)
            raise OSError(error.errno, error.strerror, path) from error
        if count < len(view):
            raise EOFError(start + count)


def check_count(location: str, count: int, depth: int) -> None:
    """Raise MoegrowError where there are more files, or deeper folders, than in any checkpoint."""
    if count > MOST_FILES or depth > DEEPEST:
        raise MoegrowError(
            f"{location} holds more than {MOST_FILES} files, or folders more than {DEEPEST} deep",
            "give the folder of one checkpoint",
        )


def read_here(descriptor: int, start: int, view: memoryview) -> None:
    """Fill `view` from an open file, and close that."""
    try:
        read_all(descriptor, start, view)
    finally:
        os.close(descriptor)


def read_range(origin: Origin, name: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to `stop`; raises MoegrowError where it ends before."""
    found = bytearray(stop - start)
    try:
        origin.read_into(name, start, memoryview(found))
    except EOFError as end:
        raise MoegrowError(
            f"{name} of {origin.location} ends at byte {end.args[0]}, and has"
            f" {origin.size(name)} bytes by what its place says",
            "it was changed while it was read; run the command again",
        ) from None
    return bytes(found)


def read_whole(origin: Origin, name: str, most: int) -> bytes:
    """All bytes of a small file; raises MoegrowError where there are more than `most`."""
    size = origin.size(name)
    if size > most:
        raise MoegrowError(
            f"{name} of {origin.location} has {size} bytes, and the most that is read is {most}"
        )
    return read_range(origin, name, 0, size)


def contents(origin: Origin, name: str) -> Iterator[bytes]:
    """All bytes of a file, a few at a time."""
    size = origin.size(name)
    for start in range(0, size, BLOCK):
        yield read_range(origin, name, start, min(size, start + BLOCK))


def scheme(location: str) -> str:
    """The scheme of an address such as hf://org/name, or "" of a path on this machine."""
    found = _ADDRESS.fullmatch(location)
    return found[1] if found else ""


def short_name(location: str) -> str:
    """What people call a source: its last folder, without a revision.

    >>> short_name("hf://org/name@0123abc"), short_name("/home/you/ckpt")
    ('name', 'ckpt')
    """
    if scheme(location):
        last = [part for part in location.split("/") if part][-1]
        return last.partition("@")[0]
    return Path(location).name
