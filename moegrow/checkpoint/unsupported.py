"""What a folder or its tensors are where moegrow does not read them, and what to do instead."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Any

from moegrow.checkpoint.store import Store, read_range
from moegrow.errors import MoegrowError, raise_all

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZES = range(100, 201)  # bytes: an address, a digest of 64 digits and a size


@dataclass(frozen=True)
class Format:
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


@cache
def formats(kind: str) -> tuple[Format, ...]:
    """The formats of unsupported.toml that show by "folder" or by "tensors", in their order."""
    text = files("moegrow.checkpoint").joinpath("unsupported.toml").read_text("utf-8")
    tables: list[dict[str, Any]] = tomllib.loads(text)[kind]
    lists = ("files", "holds")
    return tuple(
        Format(**table | {key: tuple(table[key]) for key in lists if key in table})
        for table in tables
    )


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


def of_tensors(names: Iterable[str]) -> Format | None:
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
