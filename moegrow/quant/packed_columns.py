"""Matrices that are packed into words along a column or a row, with their columns as rows."""

import math
from collections.abc import Mapping

import numpy as np

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.errors import MoegrowError
from moegrow.quant.decoding import Decoding
from moegrow.quant.scaled import Matrix, Rows
from moegrow.quant.unpack import Bytes, Floats, Read, companion, in_order, unpacked, words_of


def gptq(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Whole numbers packed along the inputs, minus a zero and times a scale of their group."""
    bits = decoding.setting("bits")
    words = words_of(spec, read)
    scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
    scale = scale.reshape(parts["scale"].shape)
    zeros = unpacked(words_of(parts["zero"], read), bits, axis=1)[:, : shape[0]]
    zeros = zeros.astype(np.float32) + decoding.setting("zero_shift")
    groups = read(parts["group"], 0, nbytes("I32", parts["group"].shape)).view("<i4")
    if groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < len(scale):
        raise MoegrowError(
            f"{parts['group'].name} names groups {groups.min()} to {groups.max()}, and"
            f" {parts['scale'].name} has {len(scale)}",
            "one of them is damaged; copies need no decoding: --noise 0",
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


def awq(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Four bits each, packed along the outputs in AWQ's order, minus a zero and times a scale."""
    words = words_of(spec, read)
    scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
    scale = scale.reshape(parts["scale"].shape)
    zeros = in_order(words_of(parts["zero"], read))
    each = shape[1] // len(scale)

    def rows(first: int, stop: int) -> Floats:
        part = slice(first // 8, -(-stop // 8))
        codes = in_order(words[:, part])[:, first % 8 : first % 8 + stop - first]
        grouped = codes.reshape(len(scale), each, -1)
        grouped -= zeros[:, None, first:stop]
        grouped *= scale[:, None, first:stop]
        return np.ascontiguousarray(codes.T)

    def stored(first: int, stop: int) -> Bytes:
        part = in_order(words[:, first // 8 : -(-stop // 8)])
        return part[:, first % 8 : first % 8 + stop - first].T.astype(np.uint8)

    def spread(of: Floats) -> Rows:
        return lambda first, stop: np.repeat(of[:, first:stop], each, axis=0).T

    return Matrix(rows, stored, spread(scale), spread(zeros))
