"""Dequantize byte and 4-bit codes with scales for blocks, groups or channels."""

import math
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import FP8, POWERS
from moegrow.quant.codec import Bands, Codec, Matrix, Parts, Rows, Settings, Shape, expect, same
from moegrow.quant.decoding import FLOAT_SCALES, Decoding
from moegrow.quant.packing import CodeGrid
from moegrow.quant.scheme import Scheme
from moegrow.quant.stochastic_rounding import WholeGrid
from moegrow.quant.unpack import Bytes, Floats, Read, companion, numbers

# Values that share a scale, from which on a table of what codes become is worth making.
WORTH_A_TABLE = 512


class Scaled(Codec):
    """Codes times the scale of their tensor, channel or block; int8 may have zeros."""

    dtypes = (*FP8, "I8")
    roles = ("scale", "zero?")

    @classmethod
    def settings(
        cls, spec: TensorSpec, parts: Parts, scheme: Scheme, config: Mapping[str, str]
    ) -> Settings:
        if scheme.block:
            yield from zip(("block_rows", "block_columns"), scheme.block, strict=True)

    def _shape(self) -> Shape:
        expect(self.parts["scale"], *FLOAT_SCALES, *POWERS)
        if "zero" in self.parts:
            expect(self.spec, "I8")
            expect(self.parts["zero"], "I8")
            same(self.parts["zero"].shape, self.parts["scale"].shape)
        assert self.block
        return self.spec.shape

    @property
    def block(self) -> tuple[int, int]:
        """The rows and columns that share a scale."""
        return block_of(self.spec.shape, self.parts["scale"].shape, self.decoding)

    @property
    def floats(self) -> str:
        return "" if self.spec.dtype == "I8" else self.spec.dtype

    def grid(self) -> CodeGrid:
        if self.floats:
            return super().grid()
        return CodeGrid(numbers(np.arange(256, dtype=np.uint8), "I8"), WholeGrid(-128, 127))

    def _blocks(self, role: str, read: Read, number: int) -> Floats:
        """The numbers of a companion, one for each block of matrix `number`."""
        (tall, wide), spec = self.block, self.parts[role]
        height, columns = (1, 1, *self.shape)[-2:]
        grid = -(-height // tall), -(-columns // wide)
        first = 0 if math.prod(spec.shape) == 1 else number
        return companion(spec, read, first, math.prod(grid)).reshape(grid)

    def matrix(self, read: Read, number: int) -> Matrix:
        (tall, wide), spec = self.block, self.spec
        height, columns = (1, 1, *self.shape)[-2:]
        scale = self._blocks("scale", read, number)
        offset = self._blocks("zero", read, number) if "zero" in self.parts else None
        base = number * height * columns

        def codes(first: int, stop: int) -> Bytes:
            return read(spec, base + first * columns, base + stop * columns).reshape(-1, columns)

        def rows(first: int, stop: int) -> Floats:
            found = numbers(codes(first, stop).reshape(-1), spec.dtype).reshape(-1, columns)
            if tall == 1:
                if offset is not None:
                    found -= _wide(offset[first:stop], wide, columns)
                found *= _wide(scale[first:stop], wide, columns)
                return found
            for block in range(first // tall, -(-stop // tall)):
                part = found[max(0, block * tall - first) : (block + 1) * tall - first]
                if offset is not None:
                    part -= _wide(offset[block], wide, columns)
                part *= _wide(scale[block], wide, columns)
            return found

        def spread(each: Floats) -> Rows:
            return lambda first, stop: _wide(each[np.arange(first, stop) // tall], wide, columns)

        return Matrix(rows, codes, spread(scale), None if offset is None else spread(offset))

    def fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes] | None:
        is_small = math.prod(self.block) < WORTH_A_TABLE
        if "zero" in self.parts or is_small or len(self.shape) < 2:
            return None
        return self._fused(loops, read, rows)

    def _fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes]:
        (height, columns), bands = self.shape[-2:], Bands()
        values = numbers(np.arange(256, dtype=np.uint8), self.spec.dtype)
        for number, low, high in self.matrices(rows):
            scales, base = self._blocks("scale", read, number), number * height * columns
            for first, stop, new in bands.of(low, high, columns):
                codes = read(self.spec, base + first * columns, base + stop * columns)
                made = new.reshape(-1, columns)
                codes = codes.reshape(-1, columns)
                loops.in_blocks(codes, values, scales, first, *self.block, made)
                yield new.view(np.uint8)


def _wide(scale: Floats, each: int, columns: int) -> Floats:
    """A scale for each column, from one for every so many; a single one is left to be spread."""
    return scale if scale.shape[-1] == 1 else np.repeat(scale, each, axis=-1)[..., :columns]


def block_of(shape: Shape, scale: Shape, decoding: Decoding) -> tuple[int, int]:
    """How many rows and columns of a matrix share a scale; raises ValueError where none would do.

    The last blocks may be smaller where the decoding says how large the others are.
    """
    if math.prod(scale) == 1:
        return (shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1] if shape else 1)
    if len(shape) < 2:
        raise ValueError(f"a scale of {list(scale)} does not fit {list(shape)}")
    rows, columns = shape[-2:]
    if len(scale) == 1:
        if len(shape) == 2 and scale[0] == rows:
            return 1, columns
        if len(shape) == 3 and scale[0] == shape[0]:
            return rows, columns
    elif scale[:-2] == shape[:-2] and min(scale) > 0:
        high = _block(rows, scale[-2], decoding.setting("block_rows"))
        wide = _block(columns, scale[-1], decoding.setting("block_columns"))
        if high and wide:
            return high, wide
    told = decoding.setting("block_rows"), decoding.setting("block_columns")
    blocks = f" in blocks of {list(told)}" if min(told) and len(scale) > 1 else ""
    raise ValueError(f"a scale of {list(scale)} does not fit {list(shape)}{blocks}")


def _block(length: int, count: int, told: int) -> int:
    """How many of `length` rows or columns share one of `count` scales, or 0 if nothing tells."""
    if told and -(-length // told) == count:
        return told
    if count == 1:
        return length
    if count == length:
        return 1
    each, rest = divmod(length, count)
    # Blocks are a power of two wide, and where these are, the last one cannot be a smaller one.
    is_even = not told and not rest and each & (each - 1) == 0
    return each if is_even else 0
