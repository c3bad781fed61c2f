"""What differs between two checkpoints or plans, in groups that a person can read."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from moegrow import jsontext, maps, planfile
from moegrow.check import check_plan, check_source
from moegrow.checkpoint import Checkpoint, open_checkpoint, user_path
from moegrow.planfile import Lines
from moegrow.plans import Output, Piece, Plan
from moegrow.stream import READ, Source, blocks, rechunked

# A checkpoint's folder or file, a plan's file, its lines, or a plan.
AnySource = str | os.PathLike[str] | Lines | Plan


@dataclass(frozen=True)
class Difference:
    """How `b` differs from `a`. Tensors are listed by name; config keys as (key, a's, b's)."""

    config: tuple[tuple[str, Any, Any], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    other_contents: tuple[str, ...]
    same: int
    contents_compared: bool

    @property
    def is_empty(self) -> bool:
        return not (
            self.config or self.only_a or self.only_b or self.other_shape or self.other_contents
        )


@dataclass(frozen=True)
class _Side:
    """A checkpoint or a plan, as outputs made from a checkpoint."""

    origin: Checkpoint
    outputs: Mapping[str, Output]
    config: Mapping[str, Any]


def diff(a: AnySource, b: AnySource, *, contents: bool = True) -> Difference:
    """Compare two checkpoints or plans; with `contents`, also the bytes of their tensors."""
    left, right = _side(a), _side(b)
    only_a = tuple(name for name in left.outputs if name not in right.outputs)
    only_b = tuple(name for name in right.outputs if name not in left.outputs)
    other_shape, other_contents, same = [], [], 0
    with Source(left.origin) as left_source, Source(right.origin) as right_source:
        for name, output in left.outputs.items():
            other = right.outputs.get(name)
            if other is None:
                continue
            if (output.dtype, output.shape) != (other.dtype, other.shape):
                other_shape.append(name)
            elif contents and not _is_same(left, left_source, output, right, right_source, other):
                other_contents.append(name)
            else:
                same += 1
    return Difference(
        tuple(_config_changes(left.config, right.config)),
        only_a, only_b, tuple(other_shape), tuple(other_contents), same, contents,
    )  # fmt: skip


def groups(names: Iterable[str]) -> list[tuple[str, int]]:
    """Names that differ in numbers alone, as one pattern each with how many there are.

    >>> groups(["layers.0.up", "layers.1.up", "norm"])
    [('layers.{0-1}.up', 2), ('norm', 1)]
    """
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        parts = re.split(r"(?<=\.)([0-9]{1,9})(?=\.|$)", name)
        found["\0".join(parts[::2])].append(tuple(map(int, parts[1::2])))
    patterns = []
    for template, numbers in found.items():
        ranges = [_ranges(sorted(set(slot))) for slot in zip(*numbers, strict=True)]
        words = zip_longest(template.split("\0"), ranges, fillvalue="")
        patterns.append(("".join(word for pair in words for word in pair), len(numbers)))
    return patterns


def _ranges(numbers: list[int]) -> str:
    spelled = maps.spell(numbers)
    return spelled if len(numbers) == 1 else "{" + spelled + "}"


def _side(source: AnySource) -> _Side:
    if isinstance(source, Lines):
        source = source.plan()
    elif not isinstance(source, Plan):
        path = user_path(source)
        if not planfile.is_plan(path):
            return _checkpoint_side(open_checkpoint(path))
        source = planfile.read_plan(path.resolve())
    origin = open_checkpoint(source.source.location)
    check_source(source, origin)
    check_plan(source, origin)
    outputs = {output.name: output for output in source.outputs}
    return _Side(origin, outputs, jsontext.loads(source.config, "config", infinities=True))


def _checkpoint_side(checkpoint: Checkpoint) -> _Side:
    outputs = {}
    for name, spec in sorted(checkpoint.tensors.items()):
        rows = spec.shape[0] if spec.shape else 1
        outputs[name] = Output(name, spec.dtype, spec.shape, (Piece(name, 0, rows),))
    return _Side(checkpoint, outputs, checkpoint.config)


def _is_same(
    left: _Side, left_source: Source, a: Output, right: _Side, right_source: Source, b: Output
) -> bool:
    if left.origin.files == right.origin.files and a == b:
        return True
    # In equal blocks, however the pieces of either are cut.
    chunks = rechunked(blocks(left_source, a), READ), rechunked(blocks(right_source, b), READ)
    return all(np.array_equal(x, y) for x, y in zip(*chunks, strict=True))


def _config_changes(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key in [*a, *(key for key in b if key not in a)]:
        old, new = a.get(key), b.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _config_changes(old, new, f"{prefix}{key}.")
        elif old != new or (key in a) != (key in b):
            yield prefix + key, old, new
