"""The base class of codecs, which dequantize and requantize one quantised format."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import TensorSpec
from moegrow.quant.decoding import Decoding
from moegrow.quant.packing import CodeGrid, Packing
from moegrow.quant.scheme import Scheme
from moegrow.quant.stochastic_rounding import FLOATS, Codes, Levels, WholeGrid
from moegrow.quant.unpack import Bytes, Floats, Read, float_values

Shape = tuple[int, ...]
Parts = Mapping[str, TensorSpec]
Settings = Iterator[tuple[str, int]]

# Something of the rows of a matrix from one to another: a value for each column, or one for all.
Rows = Callable[[int, int], npt.NDArray[Any]]

BAND = 1 << 20  # values that are dequantized at a time, in whole rows
REQUANTIZED = 1 << 16  # and that are requantized


class Matrix(NamedTuple):
    """A stored matrix: its numbers, and, of the same rows and columns, what they are made of.

    `codes` are whole numbers of 8 bits or fewer. The number of each code, less `zeros` and times
    `scales`, is the number of the matrix.
    """

    numbers: Rows
    codes: Rows
    scales: Rows
    zeros: Rows | None = None


class Making(Protocol):
    """A change of numbers that lie one behind the other, the first being number `start`."""

    def numbers(self, old: Floats, start: int) -> Floats:
        """The new numbers for some old ones."""

    def levels(self, start: int, count: int) -> Levels:
        """The draws that decide how they are rounded."""

    def made(self, old: Floats, new: Floats, start: int) -> None:
        """Take note of what the old ones have become, on their grid."""


class Decoder(ABC):
    """A tensor with its companions by their roles, and the settings of its codec.

    `dtypes` are those of the tensor, `roles` the companions; one with a question mark may be
    missing. Raises ValueError, with what does not fit, where tensor, companions and settings are
    not those of the codec: a plan may be a stranger's.
    """

    dtypes: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: TensorSpec, parts: Parts, decoding: Decoding) -> None:
        expect(spec, *self.dtypes)
        needed = {role for role in self.roles if not role.endswith("?")}
        known = {role.removesuffix("?") for role in self.roles}
        if not needed <= parts.keys() or not parts.keys() <= known:
            wanted = ", ".join(self.roles)
            raise ValueError(f"it has {', '.join(parts) or 'no companions'}, not {wanted}")
        self.spec, self.parts, self.decoding = spec, parts, decoding
        self.shape = self._shape()

    @abstractmethod
    def _shape(self) -> Shape:
        """The shape of the numbers; raises ValueError where tensor and companions do not fit."""

    @property
    def is_turned(self) -> bool:
        """Whether the tensor is stored with its columns as rows."""
        return bool(self.decoding.setting("transposed"))

    def rows(self, stored: tuple[int, int]) -> tuple[int, int]:
        """The rows of numbers that some rows of the stored tensor hold.

        Raises ValueError where they lie across others: only the whole of a matrix that is turned
        can be decoded by itself.
        """
        if len(self.shape) > 2 or not self.is_turned:
            return stored
        if stored != (0, self.spec.shape[0]):
            raise ValueError(f"rows {stored[0]} to {stored[1]} lie across others")
        return 0, self.shape[0]

    @abstractmethod
    def dequantize(self, read: Read, rows: tuple[int, int]) -> Iterator[Floats]:
        """The numbers of rows `rows[0]` to `rows[1]` along the first dimension, some at a time.

        They are float32, and float64 where the tensor is; each block is one-dimensional and valid
        until the next is asked for. `read` gives bytes `start` to `stop` of a tensor.
        """

    def fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes] | None:
        """Rows dequantized to bf16 by compiled loops, or None where there is no loop for them.

        They are the bytes that `dequantize` and rounding to nearest even make.
        """
        return None


class Codec(Decoder):
    """A quantised weight: codes, and the scales and zeros of their blocks or groups."""

    uses_group_size: ClassVar[bool] = False  # of the config
    middle: ClassVar[bool] = False  # whether codes of whole numbers are counted from their middle

    @classmethod
    def settings(
        cls, spec: TensorSpec, parts: Parts, scheme: Scheme, config: Mapping[str, str]
    ) -> Settings:
        """The settings of a weight: from shapes where those tell, else as its config has them.

        Raises ValueError where the config speaks of a layout that is not decoded.
        """
        return iter(())

    @abstractmethod
    def matrix(self, read: Read, number: int) -> Matrix:
        """One matrix of the tensor, the only one where it has no more than two dimensions."""

    @property
    def floats(self) -> str:
        """The dtype of codes that are floating-point numbers, or "" for whole numbers."""
        return ""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.decoding.setting("bits", 8)

    @property
    def grouped(self) -> tuple[int, int]:
        """How many columns there are, and how many groups of them."""
        return self.shape[-1], self.parts["scale"].shape[-1]

    def grid(self) -> CodeGrid:
        """The numbers of all codes, before zeros and scales."""
        if self.floats:
            return CodeGrid(float_values(self.floats), FLOATS[self.floats])
        count = 1 << self.bits
        middle = count // 2 if self.middle else 0
        whole = WholeGrid(-middle, count - 1 - middle, middle)
        return CodeGrid(np.arange(count, dtype=np.float32) - np.float32(middle), whole)

    def packing(self) -> Packing:
        """How the codes of one matrix become bytes."""
        return Packing()

    def zeros(self) -> Mapping[str, int]:
        """What to store as "values" and as "zero" so that all numbers are 0, whatever the scale."""
        return {"values": 0, "zero": 0}

    def factor(self, factor: Fraction) -> tuple[str, Fraction]:
        """The companion that makes the numbers a power of two times as large, and what it is
        multiplied by itself: the codes stay."""
        return "scale", factor

    def dequantize(self, read: Read, rows: tuple[int, int]) -> Iterator[Floats]:
        columns = self._columns
        # Whole words of every packing, so that no band begins within one.
        step = max(8, BAND // columns // 8 * 8) if columns else 0
        for number, low, high in self.matrices(rows):
            matrix = self.matrix(read, number)
            for first in range(low, high, step):
                # Scales of any size may go with any code; a number may become infinite.
                with np.errstate(over="ignore", invalid="ignore"):
                    found = matrix.numbers(first, min(first + step, high))
                yield found.reshape(-1)

    def requantize(self, read: Read, rows: tuple[int, int], making: Making) -> Iterator[Bytes]:
        """Requantize changed numbers of some stored rows with the scales that the tensor has.

        A code stays where its number does, and where its scale is 0 or no number. Of a tensor with
        more than two dimensions a matrix at a time is held, of others some rows, or all where the
        matrix is turned or its words hold numbers of several rows.
        """
        grid, columns, start = self.grid(), self._columns, 0
        step = max(8, REQUANTIZED // columns // 8 * 8) if columns else 0
        for number, low, high in self.matrices(self.rows(rows)):
            matrix, packing = self.matrix(read, number), self.packing()
            for first in range(low, high, step):
                stop = min(first + step, high)
                codes = _requantized(matrix, grid, (first, stop), making, start)
                start += (stop - first) * columns
                yield from packing.take(codes, first)
            yield from packing.rest()

    @property
    def _columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    def matrices(self, rows: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
        """The matrices that some rows lie in: the number of each, and which of its own rows."""
        if not math.prod(self.shape) or rows[0] == rows[1]:
            return
        if len(self.shape) < 3:
            yield 0, *rows
            return
        each = math.prod(self.shape[1:-2])
        for number in range(rows[0] * each, rows[1] * each):
            yield number, 0, self.shape[-2]


def _requantized(
    matrix: Matrix, grid: CodeGrid, rows: tuple[int, int], making: Making, start: int
) -> Codes:
    """The new codes of some rows, the first number of which is number `start`."""
    codes = matrix.codes(*rows)
    scales, zeros = matrix.scales(*rows), matrix.zeros and matrix.zeros(*rows)
    old = grid.numbers(codes, scales, zeros)
    wanted = making.numbers(old.reshape(-1), start).reshape(old.shape)
    levels = making.levels(start, old.size).reshape(old.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        on_grid = wanted / scales
    moves = (wanted != old) & np.isfinite(old) & ~np.isnan(on_grid) & (scales != 0)
    on_grid[~moves] = 0
    new = np.where(moves, grid.codes(on_grid, levels, zeros), codes).astype(np.uint8)
    making.made(old.reshape(-1), grid.numbers(new, scales, zeros).reshape(-1), start)
    return new


class Bands:
    """Rows of bf16 weights, some at a time, in memory that the kernel need not find anew."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.uint16)

    def of(self, low: int, high: int, size: int) -> Iterator[tuple[int, int, Floats]]:
        """From which row to which, of `size` values each, and memory for them."""
        step = max(1, BAND // size)
        for first in range(low, high, step):
            stop = min(first + step, high)
            if self._values.size < (stop - first) * size:
                self._values = np.empty((stop - first) * size, np.uint16)
            yield first, stop, self._values[: (stop - first) * size]


def expect(spec: TensorSpec, *dtypes: str) -> None:
    """Raise ValueError unless a tensor is of one of these dtypes."""
    if spec.dtype not in dtypes:
        raise ValueError(f"{spec.name} is {spec.dtype}, and not {' or '.join(dtypes)}")


def same(found: Shape, expected: Shape) -> None:
    """Raise ValueError unless a shape is the one that is expected."""
    if found != expected:
        raise ValueError(f"{list(found)} should be {list(expected)}")


def two_sizes(spec: TensorSpec) -> tuple[int, int]:
    """The rows and columns of a tensor; raises ValueError unless it is a matrix."""
    if len(spec.shape) != 2:
        raise ValueError(f"{spec.name} {list(spec.shape)} is no matrix")
    return spec.shape[0], spec.shape[1]
