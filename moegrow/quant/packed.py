"""The codec of packed integers, as compressed-tensors writes them."""

from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.dtypes import numpy_type
from moegrow.errors import MoegrowError, Parameter
from moegrow.quant.codec import Matrix, Parts, Rows, Settings, Shape, expect, same, two_sizes
from moegrow.quant.decoding import FLOAT_SCALES
from moegrow.quant.groups import Grouped
from moegrow.quant.packing import Packing
from moegrow.quant.scheme import Scheme
from moegrow.quant.unpack import Bytes, Floats, Read, paired, unpacked, words_of
from moegrow.quant.words import per_word, zero_words


class Packed(Grouped):
    """Whole numbers of 4 or 8 bits, the lowest bits first, less half their range and the zero of
    their group, times its scale."""

    dtypes = ("I32",)
    roles = ("scale", "zero?", "group?", "shape")
    uses_group_size = True
    middle = True
    pairs = paired(np.arange(16, dtype=np.float32) - 8)

    @classmethod
    def settings(
        cls, spec: TensorSpec, parts: Parts, scheme: Scheme, config: Mapping[str, str]
    ) -> Settings:
        yield "bits", scheme.bits

    def _shape(self) -> Shape:
        each, parts = per_word(self.decoding), self.parts
        if "group" in parts:
            raise ValueError("its columns are in the order of activations, which is not decoded")
        rows, words = two_sizes(self.spec)
        scale = parts["scale"]
        expect(scale, *FLOAT_SCALES)
        expect(parts["shape"], "I64", "I32")
        same(parts["shape"].shape, (2,))
        groups = two_sizes(scale)[1]
        same(scale.shape, (rows, groups))
        if not groups or words * each % groups:
            raise ValueError(f"a scale of {list(scale.shape)} does not fit {[rows, words * each]}")
        if "zero" in parts:
            expect(parts["zero"], "I32")
            same(parts["zero"].shape, (-(-rows // each), groups))
        return rows, words * each

    def groups(self, read: Read, number: int) -> tuple[Floats, Floats | None]:
        told = self.parts["shape"]
        sizes = read(told, 0, nbytes(told.dtype, (2,))).view(numpy_type(told.dtype)).tolist()
        if sizes != [*self.shape]:
            raise MoegrowError(
                f"{told.name} says {sizes}, and {self.spec.name} holds {[*self.shape]}",
                "one of them is damaged or padded; copies need no decoding: "
                + Parameter("noise", 0),
            )
        scale, _ = super().groups(read, number)
        if "zero" not in self.parts:
            return scale, None
        codes = unpacked(words_of(self.parts["zero"], read), self.bits, axis=0)[: len(scale)]
        return scale, codes.astype(np.float32) - np.float32(1 << (self.bits - 1))

    def packing(self) -> Packing:
        return Packing(8 // self.bits)

    def zeros(self) -> Mapping[str, int]:
        return zero_words(self.bits)

    def matrix(self, read: Read, number: int) -> Matrix:
        if self.bits == 4:
            return super().matrix(read, number)
        scale, zero = self.groups(read, number)
        groups, line = scale.shape[1], self.shape[1]

        def codes(first: int, stop: int) -> Bytes:
            return read(self.spec, first * line, stop * line).reshape(-1, line)

        def rows(first: int, stop: int) -> Floats:
            found = codes(first, stop).astype(np.float32).reshape(stop - first, groups, -1) - 128
            if zero is not None:
                found -= zero[first:stop, :, None]
            found *= scale[first:stop, :, None]
            return found

        def spread(each: Floats) -> Rows:
            return lambda first, stop: np.repeat(each[first:stop], line // groups, axis=1)

        return Matrix(rows, codes, spread(scale), None if zero is None else spread(zero))

    def fused(self, loops: ModuleType, read: Read, rows: tuple[int, int]) -> Iterator[Bytes] | None:
        return super().fused(loops, read, rows) if self.bits == 4 else None
