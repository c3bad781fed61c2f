"""Compare two checkpoints or plans, and group the differences."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.store import Access
from moegrow.display import groups
from moegrow.errors import printable
from moegrow.files import json_edit
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import READ, SourceReader, rechunked
from moegrow.kernels.tensor_bytes import blocks
from moegrow.planning import plan_file
from moegrow.planning.check import check_plan, check_source
from moegrow.planning.plan import Output, Piece, Plan
from moegrow.planning.plan_file import Lines

# A checkpoint's folder or file, a plan's file, its lines, or a plan.
AnySource = str | os.PathLike[str] | Lines | Plan


@dataclass(frozen=True)
class Difference:
    """How `b` differs from `a`. Tensors are listed by name; config keys as (key, a's, b's)."""

    config: tuple[tuple[str, Any, Any], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    other_dtype: tuple[str, ...]
    other_contents: tuple[str, ...]
    same: int
    contents_compared: bool

    @property
    def is_empty(self) -> bool:
        return not (
            self.config
            or self.only_a
            or self.only_b
            or self.other_shape
            or self.other_dtype
            or self.other_contents
        )

    def __str__(self) -> str:
        lines = [f"config  {key}: {_short(old)} -> {_short(new)}" for key, old, new in self.config]
        for sign, names in (
            ("-", self.only_a),
            ("+", self.only_b),
            ("shape", self.other_shape),
            ("dtype", self.other_dtype),
            ("data", self.other_contents),
        ):
            lines += [f"{sign:<7} {pattern}  ({count})" for pattern, count in groups(names)]
        compared = "" if self.contents_compared else " (contents not compared)"
        lines.append(f"{self.same} tensors are the same{compared}")
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class _Side:
    """A checkpoint or a plan, as outputs made from a checkpoint."""

    store: Checkpoint
    outputs: Mapping[str, Output]
    config: Mapping[str, Any]


def diff(
    a: AnySource,
    b: AnySource,
    *,
    contents: bool = True,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
) -> Difference:
    """Compare two checkpoints or plans; with `contents`, also the bytes of their tensors.

    `token` is for repositories of the Hub, `links_to` are folders into which links may lead.
    """
    access = Access(token, None, links_to)
    left, right = _side(a, access), _side(b, access)
    only_a = tuple(name for name in left.outputs if name not in right.outputs)
    only_b = tuple(name for name in right.outputs if name not in left.outputs)
    other_shape, other_dtype, other_contents, same = [], [], [], 0
    with SourceReader(left.store) as left_source, SourceReader(right.store) as right_source:
        for name, output in left.outputs.items():
            other = right.outputs.get(name)
            if other is None:
                continue
            if output.shape != other.shape:
                other_shape.append(name)
            elif output.dtype != other.dtype:
                other_dtype.append(name)
            elif contents and not _is_same(left, left_source, output, right, right_source, other):
                other_contents.append(name)
            else:
                same += 1
    return Difference(
        tuple(config_changes(left.config, right.config)),
        only_a, only_b, tuple(other_shape), tuple(other_dtype), tuple(other_contents), same,
        contents,
    )  # fmt: skip


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _side(source: AnySource, access: Access) -> _Side:
    if isinstance(source, Lines):
        source = source.plan()
    elif not isinstance(source, Plan):
        path = user_path(source)
        if not plan_file.is_plan(path):
            return _checkpoint_side(open_checkpoint(source, access))
        source = plan_file.read_plan(path.resolve())
    store = open_checkpoint(source.source.location, access)
    check_source(source, store)
    check_plan(source, store)
    outputs = {output.name: output for output in source.outputs}
    return _Side(store, outputs, json_edit.loads(source.config, "config", infinities=True))


def _checkpoint_side(checkpoint: Checkpoint) -> _Side:
    outputs = {}
    for name, spec in sorted(checkpoint.tensors.items()):
        rows = spec.shape[0] if spec.shape else 1
        outputs[name] = Output(name, spec.dtype, spec.shape, (Piece(name, 0, rows),))
    return _Side(checkpoint, outputs, checkpoint.config)


def _is_same(
    left: _Side,
    left_source: SourceReader,
    a: Output,
    right: _Side,
    right_source: SourceReader,
    b: Output,
) -> bool:
    if left.store.files == right.store.files and a == b:
        return True
    # In equal blocks, however the pieces of either are cut.
    workspace = Workspace(), Workspace()
    chunks = (
        rechunked(blocks(left_source, a, workspace[0]), READ),
        rechunked(blocks(right_source, b, workspace[1]), READ),
    )
    return all(np.array_equal(x, y) for x, y in zip(*chunks, strict=True))


def config_changes(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Each key whose value is not the same, as a path with dots, with the values of both."""
    for key in [*a, *(key for key in b if key not in a)]:
        old, new = a.get(key), b.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from config_changes(old, new, f"{prefix}{key}.")
        elif old != new or (key in a) != (key in b):
            yield prefix + key, old, new
