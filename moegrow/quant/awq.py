"""The AWQ codec: words packed along the outputs, a zero and a scale for each input group."""

import math
from collections.abc import Mapping

import numpy as np

from moegrow.checkpoint.header import TensorSpec
from moegrow.quant.codec import Codec, Matrix, Parts, Rows, Settings, Shape, two_sizes
from moegrow.quant.packing import Packing, Turned
from moegrow.quant.scheme import Scheme
from moegrow.quant.stochastic_rounding import Codes
from moegrow.quant.unpack import Bytes, Floats, Read, Words, companion, words_of
from moegrow.quant.words import bits_of, groups_of_columns, length, per_word, zero_words

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that each 4 bits of a word are of


class Awq(Codec):
    """Codes of four bits in AWQ's order, less the zero and times the scale of their group."""

    dtypes = ("I32",)
    roles = ("scale", "zero")
    uses_group_size = True
    is_turned = True

    @classmethod
    def settings(
        cls, spec: TensorSpec, parts: Parts, scheme: Scheme, config: Mapping[str, str]
    ) -> Settings:
        yield "bits", bits_of(length(spec, -1), length(parts["scale"], -1))
        layout = config.get("version", "gemm")
        if layout != "gemm":
            raise ValueError(f"it is packed as for {layout}, which is not decoded")

    def _shape(self) -> Shape:
        each = per_word(self.decoding)
        if each != 8:
            raise ValueError(f"{self.bits} bits are not decoded, only 4")
        columns, words = two_sizes(self.spec)
        groups = groups_of_columns(self.parts, words * each, each)
        if not groups or columns % groups:
            raise ValueError(f"{groups} groups do not fit {columns} columns")
        return words * each, columns

    @property
    def grouped(self) -> tuple[int, int]:
        return self.shape[-1], self.parts["scale"].shape[0]

    def zeros(self) -> Mapping[str, int]:
        return zero_words(self.bits)

    def packing(self) -> Packing:
        return Turned(self.spec.shape, "<u4", _put)

    def matrix(self, read: Read, number: int) -> Matrix:
        words, parts = words_of(self.spec, read), self.parts
        scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
        scale = scale.reshape(parts["scale"].shape)
        zeros = _in_order(words_of(parts["zero"], read))
        each = self.shape[1] // len(scale)

        def stored(first: int, stop: int) -> Floats:
            codes = _in_order(words[:, first // 8 : -(-stop // 8)])
            return codes[:, first % 8 : first % 8 + stop - first]

        def codes(first: int, stop: int) -> Bytes:
            return stored(first, stop).T.astype(np.uint8)

        def rows(first: int, stop: int) -> Floats:
            codes = stored(first, stop)
            grouped = codes.reshape(len(scale), each, -1)
            grouped -= zeros[:, None, first:stop]
            grouped *= scale[:, None, first:stop]
            return np.ascontiguousarray(codes.T)

        def spread(of: Floats) -> Rows:
            return lambda first, stop: np.repeat(of[:, first:stop], each, axis=0).T

        return Matrix(rows, codes, spread(scale), spread(zeros))


def _in_order(words: Words) -> Floats:
    """The codes of words, as float32, each in its column."""
    codes = np.empty((*words.shape, 8), np.float32)
    for place, column in enumerate(ORDER):
        codes[..., column] = (words >> np.uint32(4 * place)) & 15
    return codes.reshape(words.shape[0], -1)


def _put(new: Words, codes: Codes, first: int) -> None:
    """Put codes into words of eight columns."""
    part = new[:, first // 8 : -(-(first + codes.shape[1]) // 8)]
    for place, column in enumerate(ORDER):
        part |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * place)
