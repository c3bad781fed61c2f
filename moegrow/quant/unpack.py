"""Turn stored bytes into values: lookup tables of dtypes, and bit fields of packed words."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.dtypes import DTYPES, FP8, POWERS, numpy_type

Floats = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]  # of 32 bits, and what is packed in them
Pairs = npt.NDArray[np.uint64]  # two float32 for each byte
Read = Callable[[TensorSpec, int, int], Bytes]


def numbers(stored: Bytes, dtype: str) -> Floats:
    """Stored numbers as float32, or float64 where they are that; bytes are powers of two (E8M0)."""
    if dtype in FP8 or dtype in POWERS:
        if stored.size % 2:
            return np.take(float_values(dtype), stored, mode="wrap")
        pairs = np.take(_two_bytes(dtype), stored.view("<u2"), mode="wrap")
        return pairs.view(np.float32)
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return stored.view(numpy_type(dtype)).astype(np.float64 if dtype == "F64" else np.float32)


def companion(spec: TensorSpec, read: Read, number: int, count: int) -> Floats:
    """`count` numbers of a companion, those of matrix `number`."""
    width = nbytes(spec.dtype, (1,))
    return numbers(read(spec, number * count * width, (number + 1) * count * width), spec.dtype)


def words_of(spec: TensorSpec, read: Read) -> Words:
    """All words of a tensor, in its shape."""
    return read(spec, 0, nbytes(spec.dtype, spec.shape)).view("<u4").reshape(spec.shape)


def unpacked(words: Words, bits: int, *, axis: int) -> Words:
    """The whole numbers in words, along an axis of a matrix, the lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    if axis == 0:
        codes = words[:, None, :] >> shifts[None, :, None]
        return (codes & ((1 << bits) - 1)).reshape(-1, words.shape[1])
    codes = words[:, :, None] >> shifts[None, None, :]
    return (codes & ((1 << bits) - 1)).reshape(words.shape[0], -1)


@cache
def float_values(dtype: str) -> npt.NDArray[np.float32]:
    """The values of a float of 8 bits or fewer, by their codes; POWERS of two have no sign."""
    made = DTYPES[dtype].float
    if made is None:
        found = np.ldexp(1.0, np.arange(256) - 127)
        found[255] = math.nan
    else:
        codes = np.arange(1 << made.bits)
        mantissa, exponent = codes & ((1 << made.mantissa) - 1), codes >> made.mantissa
        whole = mantissa + ((exponent > 0) << made.mantissa)
        power = np.maximum(exponent, 1) + made.least - 1 - made.mantissa
        found = np.ldexp(whole.astype(float), power)
        if made.special == "ieee":
            found[made.infinity :] = math.nan
            found[made.infinity] = math.inf
        found = np.concatenate([found, -found])
        found[list(made.nan)] = math.nan
    table = found.astype(np.float32)
    table.setflags(write=False)
    return table


@cache
def _two_bytes(dtype: str) -> Pairs:
    """Two values for each two bytes, as they lie in memory: one look-up for both."""
    return paired(float_values(dtype))


def paired(values: npt.NDArray[np.float32]) -> Pairs:
    """Two values for each pair of codes, the first code in the lower bits."""
    pairs = np.empty((values.size, values.size, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = values[None, :], values[:, None]
    table = pairs.reshape(-1, 2).view(np.uint64).reshape(-1)
    table.setflags(write=False)
    return table
