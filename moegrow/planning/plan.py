"""The plan: everything that the result will hold, as frozen values."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from moegrow.checkpoint.fingerprint import SourceFile
from moegrow.checkpoint.header import nbytes
from moegrow.checkpoint.store import INDEX, scheme, short_name
from moegrow.growth import Growth
from moegrow.planning.notes import AxisSummary
from moegrow.planning.op import COPY, Copy, Op
from moegrow.steps import Step


class Piece(NamedTuple):
    """Rows `start` to `stop` of one source tensor, along the output's axis, and what happens to
    them."""

    source: str
    start: int
    stop: int
    op: Op = COPY

    @property
    def is_copy(self) -> bool:
        """Whether the bytes stay as they are."""
        return isinstance(self.op, Copy)


class Storage(NamedTuple):
    """How weights are to be stored: all of them as `dtype`, and routed experts as `experts`.

    Both are dtypes as safetensors spells them, or "" for what the source has.
    """

    dtype: str = ""
    experts: str = ""


AS_STORED = Storage()


class Output(NamedTuple):
    """One tensor to write: its pieces joined along a dimension, nearly always the first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    axis: int = 0

    @property
    def rows(self) -> int:
        """Its size along the axis; a tensor without dimensions has one row."""
        return self.shape[self.axis] if self.shape else 1

    @property
    def nbytes(self) -> int:
        return nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Source:
    """The checkpoint a plan reads from, and how to tell that it is still the same.

    `path` is its folder, or the address of one far away, pinned to what it held, and `named` the
    weight file or the index in it by which it was opened, or "" for the whole.
    """

    path: str
    config_digest: str
    files: tuple[SourceFile, ...]
    named: str = ""

    @property
    def name(self) -> str:
        """What people call it: its last folder."""
        return short_name(self.path)

    @property
    def folder(self) -> Path | None:
        """The folder that it is, or None where it is not on this machine."""
        return None if scheme(self.path) else Path(self.path)

    @property
    def location(self) -> str:
        """What to open: the folder, or its one weight file where others may lie beside it."""
        if self.named:
            return f"{self.path}/{self.named}"
        if len(self.files) != 1:
            return self.path
        folder = self.folder
        if folder is None:
            return f"{self.path}/{self.files[0].name}"
        return str(folder if (folder / INDEX).exists() else folder / self.files[0].name)


@dataclass(frozen=True, repr=False)
class Plan:
    """Everything a new checkpoint will hold.

    `family` is the model type by which the source was read, and `family_text` the family file
    that a user gave for it, or "". `config` is the text of its config.json, `files` are names and
    texts of files beside it that are not as in the source, None for one that is left out. `storage`
    says in which dtypes weights are written, `metadata` are keys and texts for the headers of the
    weight files. `steps` are summaries of what was done along each axis and what was
    compensated. `commands` are how the plan came about, and `recipe` the steps that do so again
    (None where that is not known); two plans that reach the same result by other commands are
    equal.
    """

    source: Source
    family: str
    growth: Growth
    steps: tuple[AxisSummary, ...]
    config: str
    outputs: tuple[Output, ...]
    commands: tuple[str, ...] = field(default=(), compare=False)
    family_text: str = ""
    files: tuple[tuple[str, str | None], ...] = ()
    storage: Storage = AS_STORED
    recipe: tuple[Step, ...] | None = field(default=(), compare=False)
    metadata: tuple[tuple[str, str], ...] = ()

    def noted(self, command: str) -> "Plan":
        """The plan with one more command by which it came about."""
        return replace(self, commands=(*self.commands, command))

    def __repr__(self) -> str:
        """One line, where the values themselves could fill a book."""
        numbers = [
            f"{key} {before} -> {after}"
            for step in self.steps
            for key, (before, after) in step.numbers.items()
        ]
        what = ", ".join([*numbers, f"{len(self.outputs)} tensors"])
        return f"<plan of {self.family} from {str(self.source.path)!r}: {what}>"

    @property
    def is_edited(self) -> bool:
        """Whether its lines are not what its header makes."""
        return any(step.axis == "hand" for step in self.steps)

    @cached_property
    def shapes(self) -> Mapping[tuple[str, tuple[int, ...]], int]:
        """How many tensors of each dtype and shape the result has."""
        return Counter((output.dtype, output.shape) for output in self.outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the result."""
        return sum(count * nbytes(*kind) for kind, count in self.shapes.items())
