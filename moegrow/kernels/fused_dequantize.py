"""Codes to bf16 weights straight, with no numbers kept between, where compiled loops do that."""

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import TensorSpec
from moegrow.kernels.perturb import Workspace
from moegrow.quant.decoding import Decoding, Tensors, block_of, decoded_shape
from moegrow.quant.scaled import groups_of, pairs_of
from moegrow.quant.unpack import Bytes, Read, companion, numbers

BAND = 1 << 20  # values made at a time
# Values that share a scale, from which on a table of what codes become is worth making.
WORTH_A_TABLE = 512


def loops(workspace: Workspace) -> ModuleType | None:
    """The compiled loops, where a run has loaded those for noise."""
    if workspace.compiled is None:
        return None
    from moegrow.kernels import numba_codes

    return numba_codes


def weights(
    loops: ModuleType, spec: TensorSpec, decoding: Decoding, tensors: Tensors, read: Read,
    rows: tuple[int, int],
) -> Iterator[Bytes] | None:  # fmt: skip
    """Rows `rows[0]` to `rows[1]` of a weight as bf16, or None where there is no loop for it.

    They are the bytes that `decoders.decoded` and rounding to nearest even make.
    """
    shape = decoded_shape(spec, decoding, tensors)
    parts = {role: tensors[name] for role, name in decoding.companions}
    if len(shape) < 2 or not math.prod(shape):
        return None
    if decoding.codec == "scaled":
        height, width = block_of(shape, parts["scale"].shape, decoding)
        if "zero" in parts or height * width < WORTH_A_TABLE:
            return None
        return _in_blocks(loops, spec, decoding, parts["scale"], shape, read, rows)
    if decoding.codec == "fp4" or (decoding.codec == "packed" and decoding.setting("bits") == 4):
        return _in_groups(loops, spec, decoding, parts, shape, read, rows)
    return None


def _matrices(shape: tuple[int, ...], rows: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """The matrices that some rows lie in: the number of each, and which of its own rows."""
    if len(shape) == 2:
        yield 0, *rows
        return
    each = math.prod(shape[1:-2])
    for number in range(rows[0] * each, rows[1] * each):
        yield number, 0, shape[-2]


def _in_blocks(
    loops: ModuleType, spec: TensorSpec, decoding: Decoding, scale: TensorSpec,
    shape: tuple[int, ...], read: Read, rows: tuple[int, int],
) -> Iterator[Bytes]:  # fmt: skip
    height, columns = shape[-2:]
    tall, wide = block_of(shape, scale.shape, decoding)
    grid = -(-height // tall), -(-columns // wide)
    one, room = math.prod(scale.shape) == 1, _Room()
    values = numbers(np.arange(256, dtype=np.uint8), spec.dtype)
    for number, low, high in _matrices(shape, rows):
        scales = companion(scale, read, 0 if one else number, math.prod(grid)).reshape(grid)
        base = number * height * columns
        for first, stop in _bands(low, high, columns):
            codes = read(spec, base + first * columns, base + stop * columns)
            new = room.take(stop - first, columns)
            loops.in_blocks(codes.reshape(-1, columns), values, scales, first, tall, wide, new)
            yield _bytes(new)


def _in_groups(
    loops: ModuleType, spec: TensorSpec, decoding: Decoding, parts: dict[str, TensorSpec],
    shape: tuple[int, ...], read: Read, rows: tuple[int, int],
) -> Iterator[Bytes]:  # fmt: skip
    is_turned = bool(decoding.setting("transposed"))
    height, columns = (shape[-1], shape[-2]) if is_turned else shape[-2:]
    line, pairs, room = columns // 2, pairs_of(decoding), _Room()
    for number, low, high in _matrices(shape, rows):
        scales, zeros = groups_of(spec, parts, decoding, shape, read, number)
        zeros = np.zeros_like(scales) if zeros is None else zeros
        base = number * height * line
        if not is_turned:
            for first, stop in _bands(low, high, columns):
                codes = read(spec, base + first * line, base + stop * line).reshape(-1, line)
                new = room.take(stop - first, columns)
                loops.in_groups(codes, pairs, scales[first:stop], zeros[first:stop], new)
                yield _bytes(new)
            continue
        codes = read(spec, base, base + height * line).reshape(height, line)
        width = columns // scales.shape[1]
        for first, stop in _bands(low // width, -(-high // width), width * height):
            new = room.take((stop - first) * width, height)
            loops.in_groups_turned(codes, pairs, scales, zeros, first, stop, new)
            yield _bytes(new[max(0, low - first * width) : high - first * width])


class _Room:
    """Memory for one block after another, which the kernel need not find anew each time."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.uint16)

    def take(self, rows: int, columns: int) -> npt.NDArray[np.uint16]:
        """Memory for a matrix, which was that of the last one."""
        if self._values.size < rows * columns:
            self._values = np.empty(rows * columns, np.uint16)
        return self._values[: rows * columns].reshape(rows, columns)


def _bands(low: int, high: int, size: int) -> Iterator[tuple[int, int]]:
    step = max(1, BAND // size)
    for first in range(low, high, step):
        yield first, min(first + step, high)


def _bytes(new: npt.NDArray[np.uint16]) -> Bytes:
    found: Bytes = new.reshape(-1).view(np.uint8)
    return found
