"""A local folder as a store."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from moegrow.checkpoint.store import MOST_ENTRIES, check_count
from moegrow.errors import MoegrowError
from moegrow.files.untrusted import exists_inside, open_inside, opened


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    folder: Path
    links_to: tuple[Path, ...] = field(default=(), compare=False)
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

    def folders(self) -> list[str]:
        return [entry.name for entry in self._entries(Path()) if _is_folder(entry)]

    def walk(self, is_left: Callable[[str], bool]) -> Iterator[str]:
        waiting, looked, found = [Path()], 0, 0
        while waiting:
            place = waiting.pop()
            entries = self._entries(place)
            looked += len(entries)
            for entry in entries:
                name = str(place / entry.name)
                if entry.name.startswith(".") or is_left(name):
                    continue
                if _is_folder(entry):
                    waiting.append(place / entry.name)
                else:
                    found += 1
                    yield name
                check_count(self.location, found, looked=looked, depth=len(place.parts))

    def _entries(self, place: Path) -> list[os.DirEntry[str]]:
        """What a folder below this one holds, in alphabetical order, if it is not too much."""
        try:
            with os.scandir(self.folder / place) as entries:
                some = islice(entries, MOST_ENTRIES + 1)
                return sorted(some, key=lambda entry: entry.name)
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
        exceptions are a snapshot of the Hub cache, whose files are links into the `blobs` folder
        of the same repository, and the folders `links_to` that the user names.
        """
        os.close(self.open(name))

    def size(self, name: str) -> int:
        with opened(self.folder, name, self.links_to) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, name: str) -> int:
        return open_inside(self.folder, name, self.links_to)

    def sha256(self, name: str) -> str | None:
        return None

    def blob(self, name: str) -> str | None:
        return None

    def version(self, name: str) -> int:
        with opened(self.folder, name, self.links_to) as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def refresh(self) -> None:
        """Every question is asked of the folder as it is."""

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        try:
            with opened(self.folder, name, self.links_to) as file:
                file.seek(start)
                count = file.readinto(view)
        except OSError as error:
            path = str(self.folder / name)
            raise OSError(error.errno, error.strerror, path) from error
        if count < len(view):
            raise EOFError(start + count)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False)
