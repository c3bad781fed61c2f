"""Codes of 4 bits with a scale for each group: the common base of fp4 and packed."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from moegrow.quant.codec import Bands, Codec, Matrix, Rows
from moegrow.quant.packing import Packing, apart
from moegrow.quant.unpack import Bytes, Floats, Pairs, Read, companion


class Grouped(Codec):
    """Two codes in a byte, the first in its lower half, less the zero and times the scale of
    their group. `pairs` has the two numbers for each byte."""

    pairs: Pairs

    @property
    def is_swapped(self) -> bool:
        """Whether rows and columns of the numbers are exchanged."""
        return False

    def groups(self, read: Read, number: int) -> tuple[Floats, Floats | None]:
        """The scale of every group of matrix `number`, a row for each row as it is stored, and the
        zero that is taken from its codes, where there are zeros."""
        height, groups = self.parts["scale"].shape[-2:]
        scale = companion(self.parts["scale"], read, number, height * groups)
        return scale.reshape(height, groups), None

    @property
    def _stored(self) -> tuple[int, int]:
        """The rows of a matrix as it is stored, and the bytes of each."""
        height, columns = self.shape[-2:]
        return (columns, height // 2) if self.is_swapped else (height, columns // 2)

    def packing(self) -> Packing:
        return Packing(2)

    def matrix(self, read: Read, number: int) -> Matrix:
        scale, zero = self.groups(read, number)
        height, line = self._stored
        start, groups = number * height, scale.shape[1]
        size = 2 * line // groups

        def stored(first: int, stop: int) -> Bytes:
            part = read(self.spec, (start + first) * line, (start + stop) * line)
            return part.reshape(-1, line)

        def rows(first: int, stop: int) -> Floats:
            found = self._numbers(stored(first, stop)).reshape(stop - first, groups, -1)
            if zero is not None:
                found -= zero[first:stop, :, None]
            found *= scale[first:stop, :, None]
            return found

        def spread(each: Floats) -> Rows:
            return lambda first, stop: np.repeat(each[first:stop], size, axis=1)

        if self.is_swapped:
            return self._swapped(stored(0, height), scale)
        zeros = None if zero is None else spread(zero)
        return Matrix(rows, lambda *rows: apart(stored(*rows)), spread(scale), zeros)

    def _swapped(self, held: Bytes, scale: Floats) -> Matrix:
        """A matrix whose rows are stored as columns, which is held as it is stored."""
        height, groups = scale.shape
        size = 2 * held.shape[1] // groups

        def rows(first: int, stop: int) -> Floats:
            low, high = first // size, -(-stop // size)
            part = held[:, low * size // 2 : high * size // 2]
            found = self._numbers(part).reshape(height, high - low, size)
            found *= scale[:, low:high, None]
            turned = found.reshape(height, -1)[:, first - low * size : stop - low * size]
            return np.ascontiguousarray(turned.T)

        def codes(first: int, stop: int) -> Bytes:
            return apart(held[:, first // 2 : -(-stop // 2)]).T[: stop - first]

        return Matrix(rows, codes, lambda first, stop: scale[:, np.arange(first, stop) // size].T)

    def _numbers(self, stored: Bytes) -> Floats:
        pairs = np.take(self.pairs, np.ascontiguousarray(stored), mode="wrap")
        return pairs.view(np.float32).reshape(len(stored), -1)

    def fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes] | None:
        return self._fused(loops, read, rows)

    def _fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes]:
        (height, line), bands = self._stored, Bands()
        for number, low, high in self.matrices(rows):
            scales, zeros = self.groups(read, number)
            zeros = np.zeros_like(scales) if zeros is None else zeros
            base = number * height * line
            if self.is_swapped:
                codes = read(self.spec, base, base + height * line).reshape(height, line)
                width = 2 * line // scales.shape[1]
                for first, stop, new in bands.of(low // width, -(-high // width), width * height):
                    made = new.reshape(-1, height)
                    loops.in_groups_turned(codes, self.pairs, scales, zeros, first, stop, made)
                    found = made[max(0, low - first * width) : high - first * width]
                    yield found.reshape(-1).view(np.uint8)
                continue
            for first, stop, new in bands.of(low, high, 2 * line):
                part, made = slice(first, stop), new.reshape(-1, 2 * line)
                codes = read(self.spec, base + first * line, base + stop * line).reshape(-1, line)
                loops.in_groups(codes, self.pairs, scales[part], zeros[part], made)
                yield new.view(np.uint8)
