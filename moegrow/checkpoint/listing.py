"""Names, sizes and checksums of remote files, as a repository or an object store lists them."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from moegrow.checkpoint.store import check_count
from moegrow.errors import MoegrowError

CONNECTIONS = 8  # at a time, unless `threads` says otherwise
MOST_BYTES = 1 << 63  # of a file


class RemoteFile(NamedTuple):
    """A file far away: how many bytes it has, their digests where they are known, and its version.

    `blob` is the SHA-1 that git gives to a small file.
    """

    size: int
    sha256: str | None = None
    version: str = ""
    blob: str | None = None


class FileHashes(NamedTuple):
    """By what a list knows the bytes of a file, as in `Entry`."""

    sha256: str | None = None
    blob: str | None = None


NONE = FileHashes()


class Listed:
    """What an Origin says of names, from a list of all files."""

    threads = CONNECTIONS

    def __init__(self, location: str, files: Mapping[str, RemoteFile]) -> None:
        self._location = location
        self._files = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listed) and self.location == other.location

    def __hash__(self) -> int:
        return hash(self.location)

    @property
    def location(self) -> str:
        return self._location

    def has(self, name: str) -> bool:
        return name in self._files

    def top(self) -> list[str]:
        return sorted(name for name in self._files if "/" not in name)

    def folders(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self._files if "/" in name})

    def walk(self, is_left: Callable[[str], bool]) -> Iterator[str]:
        left: dict[str, bool] = {}

        def stays(name: str) -> bool:
            """Whether a name is left out; of a folder that is asked once."""
            if name not in left:
                left[name] = is_left(name)
            return left[name]

        count = 0
        for name in sorted(self._files):
            parts = name.split("/")
            if any(part.startswith(".") for part in parts):
                continue
            folders = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
            if not any(map(stays, folders)) and not is_left(name):
                count += 1
                check_count(self.location, count, depth=len(folders))
                yield name

    def below(self, name: str) -> list[str]:
        folders = {folder for folder in map(_folder, self._files) if self.has(f"{folder}/{name}")}
        return sorted(f"{self.location}/{folder}" for folder in folders if "/" not in folder)

    def size(self, name: str) -> int:
        return self._files[name].size

    def sha256(self, name: str) -> str | None:
        return self._files[name].sha256

    def blob(self, name: str) -> str | None:
        return self._files[name].blob

    def version(self, name: str) -> str:
        return self._files[name].version

    def refresh(self) -> None:
        """A list holds for good, unless the kind of place says otherwise."""


def entry(name: str, size: Any, digests: FileHashes = NONE, version: str = "") -> RemoteFile:
    """What a list says of a file; raises MoegrowError where that cannot be."""
    if type(size) is not int or not 0 <= size < MOST_BYTES:
        raise MoegrowError(
            f"the source lists {name[:200]!r} with {str(size)[:30]} bytes, which no file has",
            "check the address; nothing was written",
        )
    return RemoteFile(size, digests.sha256, version, digests.blob)


def digests(sha256: object, blob: object) -> FileHashes:
    """The digests that a list gives for a file, as far as they are any."""
    return FileHashes(_digest(sha256, 64), _digest(blob, 40))


def _digest(text: object, length: int) -> str | None:
    is_one = isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", text)
    return str(text) if is_one else None


def is_safe(name: str) -> bool:
    """Whether a name stands for a file within a folder, and can be printed."""
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts and str(path) == name != "."
    return is_inside and name.isprintable() and "\\" not in name


def safe(name: str) -> str:
    """A name of a stranger's file; raises MoegrowError where it would lead out of a folder."""
    if not is_safe(name):
        raise MoegrowError(f"the source lists {name[:200]!r}, which is no name of a file in it")
    return name


def _folder(name: str) -> str:
    """The folder of a file, or what is the name of none."""
    return name.rpartition("/")[0] or "/"
