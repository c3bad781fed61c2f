"""The GPTQ codec: words packed along the inputs, a zero and a scale for each input group."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.errors import MoegrowError, Parameter
from moegrow.quant.codec import Codec, Matrix, Parts, Settings, Shape, expect, same, two_sizes
from moegrow.quant.packing import Packing, Turned
from moegrow.quant.scheme import Scheme
from moegrow.quant.stochastic_rounding import Codes
from moegrow.quant.unpack import Floats, Read, Words, companion, unpacked, words_of
from moegrow.quant.words import bits_of, groups_of_columns, length, per_word, zero_words


class Gptq(Codec):
    """Codes less the zero and times the scale of the group that their input is in."""

    dtypes = ("I32",)
    roles = ("scale", "zero", "group")
    is_turned = True

    @classmethod
    def settings(
        cls, spec: TensorSpec, parts: Parts, scheme: Scheme, config: Mapping[str, str]
    ) -> Settings:
        yield "bits", bits_of(length(spec, 0), length(parts["group"], 0))
        layout = config.get("checkpoint_format", "gptq")
        if layout not in ("gptq", "gptq_v2"):
            raise ValueError(f"it is packed as for {layout}, which is not decoded")
        yield "zero_shift", 0 if layout == "gptq_v2" else 1

    def _shape(self) -> Shape:
        each = per_word(self.decoding)
        words, rows = two_sizes(self.spec)
        groups_of_columns(self.parts, rows, each)
        expect(self.parts["group"], "I32")
        same(self.parts["group"].shape, (words * each,))
        return rows, words * each

    def zeros(self) -> Mapping[str, int]:
        return zero_words(self.bits, self.decoding.setting("zero_shift"))

    def packing(self) -> Packing:
        return Turned(self.spec.shape, "<u4", partial(_put, self.bits))

    def matrix(self, read: Read, number: int) -> Matrix:
        bits, parts = self.bits, self.parts
        words = words_of(self.spec, read)
        scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
        scale = scale.reshape(parts["scale"].shape)
        zeros = unpacked(words_of(parts["zero"], read), bits, axis=1)[:, : self.shape[0]]
        zeros = zeros.astype(np.float32) + self.decoding.setting("zero_shift")
        groups = read(parts["group"], 0, nbytes("I32", parts["group"].shape)).view("<i4")
        if groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < len(scale):
            raise MoegrowError(
                f"{parts['group'].name} names groups {groups.min()} to {groups.max()}, and"
                f" {parts['scale'].name} has {len(scale)}",
                "one of them is damaged; copies need no decoding: " + Parameter("noise", 0),
            )

        def rows(first: int, stop: int) -> Floats:
            codes = unpacked(words[:, first:stop], bits, axis=0).astype(np.float32)
            codes -= zeros[groups, first:stop]
            codes *= scale[groups, first:stop]
            return np.ascontiguousarray(codes.T)

        return Matrix(
            rows,
            lambda first, stop: unpacked(words[:, first:stop], bits, axis=0).T.astype(np.uint8),
            lambda first, stop: scale[groups, first:stop].T,
            lambda first, stop: zeros[groups, first:stop].T,
        )


def _put(bits: int, new: Words, codes: Codes, first: int) -> None:
    """Put codes into words of as many rows as fit into them, the lowest bits first."""
    part = new[:, first : first + codes.shape[1]]
    for place in range(32 // bits):
        part |= codes[place :: 32 // bits].astype(np.uint32) << np.uint32(bits * place)
