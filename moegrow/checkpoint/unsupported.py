"""Recognise formats that moegrow does not read, and name the next step for each."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Literal

import msgspec

from moegrow.checkpoint.store import Store, read_range
from moegrow.errors import MoegrowError, raise_all
from moegrow.files import typed_toml

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZES = range(100, 201)  # bytes: an address, a digest of 64 digits and a size


class UnsupportedFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A format that is not read: how it shows, what it is, and the next thing to do."""

    what: str
    hint: str
    files: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()

    def found(self, names: Iterable[str]) -> str | None:
        """The first of the names in a folder that gives it away."""
        pattern = re.compile("|".join(map(translate, self.files)))
        return next((name for name in names if pattern.match(name)), None)

    def advice(self, place: str) -> str:
        """The hint for a folder, to be typed as it stands."""
        return self.hint.format(place=quote(place), text=repr(place))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of unsupported.toml."""

    folder: tuple[UnsupportedFormat, ...]
    tensors: tuple[UnsupportedFormat, ...]


@cache
def formats(kind: Literal["folder", "tensors"]) -> tuple[UnsupportedFormat, ...]:
    """The formats of unsupported.toml that show by "folder" or by "tensors", in their order."""
    found = typed_toml.load("moegrow.checkpoint", "unsupported.toml", _File)
    match kind:
        case "folder":
            return found.folder
        case "tensors":
            return found.tensors


def refuse_folder(store: Store, lacks: str) -> None:
    """Raise MoegrowError where a folder that `lacks` something is of another format."""
    names = sorted({*store.top(), *store.folders()})
    for form in formats("folder"):
        if name := form.found(names):
            raise MoegrowError(
                f"{store.location} holds no {lacks}, only {name}: {form.what}",
                form.advice(store.location),
            )


def refuse_file(path: Path, what: str) -> None:
    """Raise MoegrowError, which begins with `what`, where a file is of another format."""
    for form in formats("folder"):
        if form.found([path.name]):
            raise MoegrowError(f"{what}: {form.what}", form.advice(str(path.parent)))


def of_tensors(names: Iterable[str]) -> UnsupportedFormat | None:
    """The format whose way of naming tensors some names are, or None."""
    everything = "\n".join(names)
    return next(
        (form for form in formats("tensors") if all(part in everything for part in form.holds)),
        None,
    )


def refuse_pointers(store: Store, names: Iterable[str]) -> None:
    """Raise MoegrowError where files are what git-lfs leaves in place of the real ones."""
    pointers = [
        name
        for name in names
        if store.size(name) in _POINTER_SIZES
        and read_range(store, name, 0, len(_POINTER)) == _POINTER
    ]
    raise_all(
        f"{store.location} was cloned without the contents of its large files",
        [f"{name} is a git-lfs pointer, not the file itself" for name in pointers],
        "fetch them, in that folder: git lfs pull",
    )
