"""Matrices whose codes are bytes, or two in a byte, times the scales of their blocks and groups."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.dtypes import numpy_type
from moegrow.errors import MoegrowError
from moegrow.quant.decoding import Decoding, block_of
from moegrow.quant.unpack import (
    Bytes,
    Floats,
    Read,
    companion,
    nibbles,
    numbers,
    unpacked,
    words_of,
)

# Something of the rows of a matrix from one to another: a value for each column, or one for all.
Rows = Callable[[int, int], npt.NDArray[Any]]


class Matrix(NamedTuple):
    """A stored matrix: its numbers, or, of the same rows and columns, what they are made of.

    `codes` are what is stored, whole numbers of 8 bits or fewer. What they stand for, less `zeros`
    and times `scales`, is the number.
    """

    numbers: Rows
    codes: Rows
    scales: Rows
    zeros: Rows | None = None


def scaled(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Codes times a scale for each block of them."""
    columns = shape[-1] if shape else 1
    height = shape[-2] if len(shape) > 1 else 1
    block_rows, block_columns = block_of(shape, parts["scale"].shape, decoding)
    grid = -(-height // block_rows), -(-columns // block_columns)
    one = math.prod(parts["scale"].shape) == 1
    scale = companion(parts["scale"], read, 0 if one else number, math.prod(grid)).reshape(grid)
    zero = parts.get("zero")
    offset = None if zero is None else companion(zero, read, 0 if one else number, math.prod(grid))
    base = number * height * columns * nbytes(spec.dtype, (1,))

    def rows(first: int, stop: int) -> Floats:
        found = numbers(codes(first, stop).reshape(-1), spec.dtype).reshape(-1, columns)
        if block_rows == 1:
            wide = _wide(scale[first:stop], block_columns, columns)
            if offset is not None:
                found -= _wide(offset.reshape(grid)[first:stop], block_columns, columns)
            found *= wide
            return found
        for block in range(first // block_rows, -(-stop // block_rows)):
            part = found[max(0, block * block_rows - first) : (block + 1) * block_rows - first]
            if offset is not None:
                part -= _wide(offset.reshape(grid)[block], block_columns, columns)
            part *= _wide(scale[block], block_columns, columns)
        return found

    def codes(first: int, stop: int) -> Bytes:
        return read(spec, base + first * columns, base + stop * columns).reshape(-1, columns)

    def spread(each: Floats) -> Rows:
        return lambda first, stop: _wide(
            each[np.arange(first, stop) // block_rows], block_columns, columns
        )

    zeros = None if offset is None else spread(offset.reshape(grid))
    return Matrix(rows, codes, spread(scale), zeros)


def _wide(scale: Floats, each: int, columns: int) -> Floats:
    """A scale for each column, from one for every so many; a single one is left to be spread."""
    return scale if scale.shape[-1] == 1 else np.repeat(scale, each, axis=-1)[..., :columns]


def fp4(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Two values of FP4 in a byte, the first in its lower half, times a scale for each group."""
    swapped = bool(decoding.setting("transposed"))
    height, columns = (shape[-1], shape[-2]) if swapped else shape[-2:]
    scale, _ = groups_of(spec, parts, decoding, shape, read, number)
    line = columns // 2
    return _grouped_halves(spec, "F4", scale, (number * height, line), read, swapped=swapped)


def _grouped_halves(
    spec: TensorSpec, table: str, scale: Floats, at: tuple[int, int], read: Read,
    *, zero: Floats | None = None, swapped: bool = False,
) -> Matrix:  # fmt: skip
    """Two values in a byte times their group's scale; `at`: the first row, and bytes of a row."""
    start, line = at
    height, groups = scale.shape
    size = 2 * line // groups
    held = (
        read(spec, start * line, (start + height) * line).reshape(height, line) if swapped else None
    )

    def rows(first: int, stop: int) -> Floats:
        if held is None:
            stored = read(spec, (start + first) * line, (start + stop) * line)
            found = _halves(stored.reshape(-1, line), table).reshape(stop - first, groups, -1)
            if zero is not None:
                found -= zero[first:stop, :, None]
            found *= scale[first:stop, :, None]
            return found
        # Rows of the result are columns here; a band of them is decoded and turned.
        low, high = first // size, -(-stop // size)
        part = np.ascontiguousarray(held[:, low * size // 2 : high * size // 2])
        found = _halves(part, table).reshape(height, high - low, size)
        found *= scale[:, low:high, None]
        turned = found.reshape(height, -1)[:, first - low * size : stop - low * size]
        return np.ascontiguousarray(turned.T)

    def codes(first: int, stop: int) -> Bytes:
        if held is not None:
            return _apart(held[:, first // 2 : -(-stop // 2)]).T[: stop - first]
        stored = read(spec, (start + first) * line, (start + stop) * line)
        return _apart(stored.reshape(-1, line))

    def spread(each: Floats) -> Rows:
        if swapped:
            return lambda first, stop: each[:, np.arange(first, stop) // size].T
        return lambda first, stop: np.repeat(each[first:stop], size, axis=1)

    return Matrix(rows, codes, spread(scale), None if zero is None else spread(zero))


def _apart(stored: Bytes) -> Bytes:
    """The two codes in each byte of a matrix, the lower half first."""
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1)


def _halves(stored: Bytes, table: str) -> Floats:
    pairs = np.take(nibbles(table), np.ascontiguousarray(stored), mode="wrap")
    return pairs.view(np.float32).reshape(len(stored), -1)


def packed(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Whole numbers of some bits, the lowest bits first, minus half their range, times a scale."""
    columns, bits = shape[-1], decoding.setting("bits")
    scale, zero = groups_of(spec, parts, decoding, shape, read, number)
    groups = scale.shape[1]
    line = columns * bits // 8
    if bits == 4:
        return _grouped_halves(spec, "INT4", scale, (0, line), read, zero=zero)

    def rows(first: int, stop: int) -> Floats:
        found = read(spec, first * line, stop * line).astype(np.float32)
        found = found.reshape(stop - first, groups, -1) - 128
        if zero is not None:
            found -= zero[first:stop, :, None]
        found *= scale[first:stop, :, None]
        return found

    def spread(each: Floats) -> Rows:
        return lambda first, stop: np.repeat(each[first:stop], columns // groups, axis=1)

    return Matrix(
        rows,
        lambda first, stop: read(spec, first * line, stop * line).reshape(-1, line),
        spread(scale),
        None if zero is None else spread(zero),
    )


def groups_of(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> tuple[Floats, Floats | None]:  # fmt: skip
    """The scale of every group of matrix `number`, a row for each row as it is stored, and the
    zero that is taken from its codes, where there are zeros."""
    told = parts.get("shape")
    if told is not None:
        sizes = read(told, 0, nbytes(told.dtype, (2,)))
        sizes = sizes.view(numpy_type(told.dtype)).tolist()
        if sizes != [*shape]:
            raise MoegrowError(
                f"{told.name} says {sizes}, and {spec.name} holds {[*shape]}",
                "one of them is damaged or padded; copies need no decoding: --noise 0",
            )
    height, groups = parts["scale"].shape[-2:]
    scale = companion(parts["scale"], read, number, height * groups).reshape(height, groups)
    # What becomes infinite, or none, is what such a number stands for.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if "divisor" in parts:
            scale = scale / companion(parts["divisor"], read, 0, 1)
        if "factor" in parts:
            scale = scale * companion(parts["factor"], read, 0, 1)
    if "zero" not in parts:
        return scale, None
    bits = decoding.setting("bits")
    codes = unpacked(words_of(parts["zero"], read), bits, axis=0)[:height]
    return scale, codes.astype(np.float32) - np.float32(1 << (bits - 1))


def pairs_of(decoding: Decoding) -> npt.NDArray[np.uint64]:
    """What each byte of two codes of 4 bits holds: two float32, the lower half's first."""
    return nibbles("F4" if decoding.codec == "fp4" else "INT4")
