"""Stores: where the files of a checkpoint are, and how byte ranges of them are read."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from moegrow.checkpoint.checksums import sum_of
from moegrow.errors import MoegrowError
from moegrow.files.byte_ranges import read_all
from moegrow.files.untrusted import decoded
from moegrow.options import FamilyOption, LinksOption, RevisionOption, TokenOption

CONFIG, INDEX, CARD = "config.json", "model.safetensors.index.json", "README.md"
BLOCK = 8 << 20  # bytes of a file read at a time
# Weight files, and files that come along with them: far more than any model has.
MOST_FILES, MOST_SIDE_FILES = 10_000, 100_000
MOST_ENTRIES = 500_000  # names that are looked at, whatever becomes of them
DEEPEST = 32  # folders within folders

# An index, also of a variant: model.safetensors.index.fp16.json.
_INDEX = re.compile(r".+\.safetensors\.index(?:\.[\w-]+)?\.json", re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://.*", re.DOTALL)


@dataclass(frozen=True)
class Access:
    """With what a source is opened.

    `token`, which is never shown, and `revision` are for one on the Hub; `links_to` are folders
    into which the links of a local folder may lead.
    """

    token: str | None = field(default=None, repr=False)
    revision: str | None = None
    links_to: Sequence[str | os.PathLike[str]] = ()


ANYONE = Access()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read: by which family file, and with what it is opened."""

    family: FamilyOption = None
    revision: RevisionOption = None
    token: TokenOption = field(default=None, repr=False)
    links_to: LinksOption = None

    @property
    def access(self) -> Access:
        """With what the source is opened."""
        return Access(self.token, self.revision, self.links_to or ())


class Store(Protocol):
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
        """The names of files that lie in no folder, sorted; here those of folders too."""

    def folders(self) -> list[str]:
        """The names of the folders that lie in no other, sorted."""

    def walk(self, is_left: Callable[[str], bool]) -> Iterator[str]:
        """Every file, but for hidden ones.

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

    def blob(self, name: str) -> str | None:
        """The SHA-1 by which git knows a small file, where its place says so, or None."""

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


def check_count(location: str, found: int, *, depth: int, looked: int = 0) -> None:
    """Raise MoegrowError where there are more files, or deeper folders, than in any checkpoint.

    `found` are the files that come along, `looked` all names that were looked at.
    """
    if depth > DEEPEST:
        raise MoegrowError(
            f"{location} holds folders more than {DEEPEST} deep",
            "give the folder of one checkpoint",
        )
    for count, most in ((found, MOST_SIDE_FILES), (looked, MOST_ENTRIES)):
        if count > most:
            raise MoegrowError(
                f"{location} holds more than {most} files beside its weights",
                "give the folder of one checkpoint, or move what is no part of it elsewhere",
            )


def read_here(descriptor: int, start: int, view: memoryview) -> None:
    """Fill `view` from an open file, and close that."""
    try:
        read_all(descriptor, start, view)
    finally:
        os.close(descriptor)


def read_range(store: Store, name: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to `stop`; raises MoegrowError where it ends before.

    All of them together are held against the digest that its place lists.
    """
    found = bytearray(stop - start)
    try:
        store.read_into(name, start, memoryview(found))
    except EOFError as end:
        raise MoegrowError(
            f"{name} of {store.location} ends at byte {end.args[0]}, and has"
            f" {store.size(name)} bytes by what its place says",
            "it was changed while it was read; run the command again",
        ) from None
    if start == 0 and stop == store.size(name) and (known := sum_of(store, name)):
        known.update(found)
        known.check()
    return bytes(found)


def read_whole(store: Store, name: str, most: int) -> bytes:
    """All bytes of a small file; raises MoegrowError where there are more than `most`."""
    size = store.size(name)
    if size > most:
        raise MoegrowError(
            f"{name} of {store.location} has {size} bytes, and the most that is read is {most}"
        )
    return read_range(store, name, 0, size)


def read_text(store: Store, name: str, most: int) -> str:
    """The text of a small file; raises MoegrowError where it is larger, or no UTF-8."""
    store.check(name)
    return decoded(read_whole(store, name, most), f"{name} of {store.location}")


def contents(store: Store, name: str) -> Iterator[bytes]:
    """All bytes of a file, a few at a time.

    Raises WrongBytesError behind the last where they are not what its place lists.
    """
    size, known = store.size(name), sum_of(store, name)
    for start in range(0, size, BLOCK):
        block = read_range(store, name, start, min(size, start + BLOCK))
        if known:
            known.update(block)
        yield block
    if known:
        known.check()


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index of safetensors files.

    >>> is_index("model.safetensors.index.fp16.json"), is_index("config.json")
    (True, False)
    """
    return _INDEX.fullmatch(name) is not None


def names_weights(name: str) -> bool:
    """Whether a name in a source is that of a weight file or of an index, not of a folder."""
    return name.endswith(".safetensors") or is_index(name)


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
