"""How a format packs codes: the value of each code, and the bytes of codes in a tensor."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from moegrow.quant.stochastic_rounding import Codes, FloatGrid, Grid, Levels
from moegrow.quant.unpack import Bytes, Floats, Words

# Put codes of the rows from one on into a tensor that is stored with columns as rows.
Put = Callable[[Words, Codes, int], None]


class CodeGrid(NamedTuple):
    """The numbers of codes: `table` has one for each, and `grid` rounds numbers to codes.

    Where a tensor has zeros, its numbers are counted from those.
    """

    table: Floats
    grid: Grid

    def numbers(self, codes: Bytes, scales: Floats, zeros: Floats | None) -> Floats:
        """The numbers of codes, the same as a matrix has them."""
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
        """The bytes that are finished when the codes of the rows from `first` on have come."""
        yield (codes if self._each == 1 else together(codes)).reshape(-1)

    def rest(self) -> Iterator[Bytes]:
        """The bytes that are finished only now that all rows have come."""
        return iter(())


class Turned(Packing):
    """Codes of a matrix that is stored with its columns as rows: all is finished at the end."""

    def __init__(self, shape: tuple[int, ...], kind: str, put: Put) -> None:
        self._new: Words = np.zeros(shape, kind)
        self._put = put

    def take(self, codes: Codes, first: int) -> Iterator[Bytes]:
        self._put(self._new, codes.T, first)
        return iter(())

    def rest(self) -> Iterator[Bytes]:
        yield self._new.reshape(-1).view(np.uint8)


def together(codes: Codes) -> Bytes:
    """Two codes in each byte, the first in its lower half."""
    found: Bytes = codes[:, 0::2] | codes[:, 1::2] << 4
    return found


def apart(stored: Bytes) -> Bytes:
    """The two codes in each byte of a matrix, the lower half first."""
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1)
