"""The codecs of plain floats, and of stored values that are only multiplied."""

from collections.abc import Iterator
from typing import ClassVar

from moegrow.checkpoint.header import nbytes
from moegrow.dtypes import FP8, PLAIN
from moegrow.quant.codec import BAND, Decoder, Shape
from moegrow.quant.decoding import CODES, SCALES
from moegrow.quant.unpack import Floats, Read, numbers


class Plain(Decoder):
    """Floats whose values are their numbers."""

    dtypes: ClassVar[tuple[str, ...]] = (*PLAIN, *FP8)

    def _shape(self) -> Shape:
        return self.spec.shape

    def dequantize(self, read: Read, rows: tuple[int, int]) -> Iterator[Floats]:
        dtype = self.spec.dtype
        step, row = BAND * nbytes(dtype, (1,)), nbytes(dtype, self.shape[1:])
        for start in range(rows[0] * row, rows[1] * row, step):
            yield numbers(read(self.spec, start, min(start + step, rows[1] * row)), dtype)


class Exact(Plain):
    """Scales and codes that are multiplied, or set to one number, as they are stored."""

    dtypes = (*SCALES, *CODES)
