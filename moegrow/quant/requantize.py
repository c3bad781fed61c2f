"""Numbers put back on the grid that a tensor is stored on, on the scales that it has."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from moegrow.checkpoint.header import TensorSpec
from moegrow.quant.decoding import Decoding, decoded_rows, decoded_shape
from moegrow.quant.dequantize import matrix_of
from moegrow.quant.scaled import Matrix
from moegrow.quant.stochastic_rounding import FLOATS, Codes, FloatGrid, Grid, Levels, WholeGrid
from moegrow.quant.unpack import AWQ_ORDER, Bytes, Floats, Read, Words, float_values, numbers

# Put codes of the rows from one on into what is stored with columns as rows.
Put = Callable[[Words, Codes, int], None]

BAND = 1 << 16  # values that are put back at a time, in whole rows


class Making(Protocol):
    """What becomes of numbers that lie one behind the other, the first being number `start`."""

    def numbers(self, old: Floats, start: int) -> Floats:
        """The new numbers for some old ones."""

    def levels(self, start: int, count: int) -> Levels:
        """The draws that decide how they are rounded."""

    def made(self, old: Floats, new: Floats, start: int) -> None:
        """Told what the old ones have become, on their grid."""


class Stored(NamedTuple):
    """What the codes of a tensor stand for: `table` has a number for each, and `grid` all of them.

    Where it has zeros, the numbers are counted from those.
    """

    table: Floats
    grid: Grid

    def numbers(self, codes: Bytes, scales: Floats, zeros: Floats | None) -> Floats:
        """The numbers that codes stand for, as codes.py has them."""
        found = self.table[codes]
        if zeros is not None:
            found -= zeros
        with np.errstate(over="ignore", invalid="ignore"):
            found *= scales
        return found

    def codes(self, values: Floats, levels: Levels, zeros: Floats | None) -> Codes:
        """The codes of values that have been divided by their scales."""
        if isinstance(self.grid, FloatGrid):
            return self.grid.codes(values, levels)
        return self.grid.codes(values, levels, zeros)


class Packing:
    """Codes as bytes of a tensor: those of some rows follow those of the rows before."""

    def __init__(self, each: int = 1) -> None:
        self._each = each  # codes in a byte

    def take(self, codes: Codes, first: int) -> Iterator[Bytes]:
        """What is finished when the codes of the rows from `first` on have come."""
        yield (codes if self._each == 1 else _together(codes)).reshape(-1)

    def rest(self) -> Iterator[Bytes]:
        """What is finished only now that all rows have come."""
        return iter(())


class Turned(Packing):
    """Codes of a matrix that is stored with its columns as rows: all is finished at the end."""

    def __init__(self, shape: tuple[int, int], kind: str, put: Put) -> None:
        self._new: Words = np.zeros(shape, kind)
        self._put = put

    def take(self, codes: Codes, first: int) -> Iterator[Bytes]:
        self._put(self._new, codes.T, first)
        return iter(())

    def rest(self) -> Iterator[Bytes]:
        yield self._new.reshape(-1).view(np.uint8)


def remade(
    spec: TensorSpec,
    decoding: Decoding,
    tensors: Mapping[str, TensorSpec],
    read: Read,
    rows: tuple[int, int],
    making: Making,
) -> Iterator[Bytes]:
    """The bytes of rows of a stored tensor whose numbers become others, on the scales it has.

    A code stays where its number does, and where its scale is 0 or no number. Rows are those that
    are stored; of a tensor with more than two dimensions a matrix at a time is held, of others some
    rows, or all where the matrix is turned or its words hold numbers of several rows.
    """
    shape = decoded_shape(spec, decoding, tensors)
    first, stop = decoded_rows(spec, decoding, tensors, rows)
    if not math.prod(shape) or first == stop:
        return
    stored = _stored(spec, decoding)
    if len(shape) < 3:
        matrix = matrix_of(spec, decoding, tensors, read, 0)
        packing = _packing(spec, decoding, shape)
        yield from _matrix(matrix, stored, packing, (first, stop), _columns(shape), making, 0)
        return
    each = math.prod(shape[1:-2])
    size = shape[-2] * shape[-1]
    for place, number in enumerate(range(first * each, stop * each)):
        matrix = matrix_of(spec, decoding, tensors, read, number)
        packing, within = _packing(spec, decoding, shape), (0, shape[-2])
        yield from _matrix(matrix, stored, packing, within, _columns(shape), making, place * size)


def _columns(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape else 1


def _matrix(
    matrix: Matrix, stored: Stored, packing: Packing, rows: tuple[int, int], columns: int,
    making: Making, start: int,
) -> Iterator[Bytes]:  # fmt: skip
    """The bytes of some rows of a matrix, the first number of which is number `start`."""
    # Whole words of every packing, so that no band begins within one.
    step = max(8, BAND // columns // 8 * 8)
    for first in range(rows[0], rows[1], step):
        stop = min(first + step, rows[1])
        new = _band(matrix, stored, (first, stop), making, start + (first - rows[0]) * columns)
        yield from packing.take(new, first)
    yield from packing.rest()


def _band(
    matrix: Matrix, stored: Stored, rows: tuple[int, int], making: Making, start: int
) -> Codes:
    """The new codes of some rows, the first number of which is number `start`."""
    codes = matrix.codes(*rows)
    scales, zeros = matrix.scales(*rows), matrix.zeros and matrix.zeros(*rows)
    old = stored.numbers(codes, scales, zeros)
    wanted = making.numbers(old.reshape(-1), start).reshape(old.shape)
    levels = making.levels(start, old.size).reshape(old.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        on_grid = wanted / scales
    moves = (wanted != old) & np.isfinite(old) & ~np.isnan(on_grid) & (scales != 0)
    on_grid[~moves] = 0
    new = np.where(moves, stored.codes(on_grid, levels, zeros), codes).astype(np.uint8)
    making.made(old.reshape(-1), stored.numbers(new, scales, zeros).reshape(-1), start)
    return new


def _stored(spec: TensorSpec, decoding: Decoding) -> Stored:
    """What a code of one matrix stands for."""
    if decoding.codec == "fp4":
        return Stored(float_values("F4"), FLOATS["F4"])
    if decoding.codec == "scaled":
        grid = WholeGrid(-128, 127) if spec.dtype == "I8" else FLOATS[spec.dtype]
        return Stored(numbers(np.arange(256, dtype=np.uint8), spec.dtype), grid)
    count = 1 << decoding.setting("bits")
    # Packed integers are counted from the middle, GPTQ's and AWQ's from their zeros alone.
    middle = count // 2 if decoding.codec == "packed" else 0
    whole = WholeGrid(-middle, count - 1 - middle, middle)
    return Stored(np.arange(count, dtype=np.float32) - np.float32(middle), whole)


def _packing(spec: TensorSpec, decoding: Decoding, shape: tuple[int, ...]) -> Packing:
    """How the codes of one matrix of a tensor become bytes."""
    bits = decoding.setting("bits")
    if decoding.codec == "gptq":
        return Turned((spec.shape[0], spec.shape[1]), "<u4", partial(_put_rows, bits))
    if decoding.codec == "awq":
        return Turned((spec.shape[0], spec.shape[1]), "<u4", _put_in_order)
    if decoding.codec == "fp4" and decoding.setting("transposed"):
        return Turned((shape[-1], shape[-2] // 2), "u1", _put_halves)
    is_halves = decoding.codec == "fp4" or (decoding.codec == "packed" and bits == 4)
    return Packing(2 if is_halves else 1)


def _together(codes: Codes) -> Bytes:
    """Two codes in each byte, the first in its lower half."""
    found: Bytes = codes[:, 0::2] | codes[:, 1::2] << 4
    return found


def _put_halves(new: Words, codes: Codes, first: int) -> None:
    new[:, first // 2 : (first + codes.shape[1]) // 2] = _together(codes)


def _put_rows(bits: int, new: Words, codes: Codes, first: int) -> None:
    """Words of as many rows as fit into them, the lowest bits first."""
    part = new[:, first : first + codes.shape[1]]
    for place in range(32 // bits):
        part |= codes[place :: 32 // bits].astype(np.uint32) << np.uint32(bits * place)


def _put_in_order(new: Words, codes: Codes, first: int) -> None:
    """Words of eight columns in AWQ's order."""
    part = new[:, first // 8 : -(-(first + codes.shape[1]) // 8)]
    for place, column in enumerate(AWQ_ORDER):
        part |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * place)
