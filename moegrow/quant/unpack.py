"""The numbers that stored bytes stand for: tables looked up, and words taken apart."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import TensorSpec, nbytes

Floats = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]  # of 32 bits, and what is packed in them
Read = Callable[[TensorSpec, int, int], Bytes]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that each 4 bits of a word are of

# The values of FP4 (e2m1), by their bits.
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def numbers(stored: Bytes, dtype: str) -> Floats:
    """Stored numbers as float32, or float64 where they are that; bytes are powers of two (E8M0)."""
    if dtype in _TABLES:
        if stored.size % 2:
            return np.take(_single(dtype), stored, mode="wrap")
        pairs = np.take(_double(dtype), stored.view("<u2"), mode="wrap")
        return pairs.view(np.float32)
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    found = stored.view({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}[dtype])
    return found.astype(np.float64 if dtype == "F64" else np.float32)


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


def in_order(words: Words) -> Floats:
    """The numbers of AWQ's words, as float32, each in its column."""
    codes = np.empty((*words.shape, 8), np.float32)
    for place, column in enumerate(AWQ_ORDER):
        codes[..., column] = (words >> np.uint32(4 * place)) & 15
    return codes.reshape(words.shape[0], -1)


# Bits of exponent and of mantissa, and whether the largest exponent is for infinity and NaN.
_TABLES = {"F8_E4M3": (4, 3, False), "F8_E5M2": (5, 2, True), "F8_E8M0": (8, 0, False),
           "U8": (8, 0, False)}  # fmt: skip


@cache
def _single(dtype: str) -> npt.NDArray[np.float32]:
    """The values that a byte of a dtype can be, by its bits."""
    exponent_bits, mantissa_bits, has_infinity = _TABLES[dtype]
    codes = np.arange(256)
    if exponent_bits == 8:
        found = np.ldexp(1.0, codes - 127)
        found[255] = math.nan
    else:
        mantissa = codes & ((1 << mantissa_bits) - 1)
        exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
        bias = (1 << (exponent_bits - 1)) - 1
        whole = mantissa + ((exponent > 0) << mantissa_bits)
        found = np.ldexp(whole.astype(float), np.maximum(exponent, 1) - bias - mantissa_bits)
        top = exponent == (1 << exponent_bits) - 1
        if has_infinity:
            found[top] = np.where(mantissa[top] == 0, math.inf, math.nan)
        else:
            found[top & (mantissa == (1 << mantissa_bits) - 1)] = math.nan
        found = np.where(codes >> 7, -found, found)
    table = found.astype(np.float32)
    table.setflags(write=False)
    return table


@cache
def _double(dtype: str) -> npt.NDArray[np.uint64]:
    """Two values for each two bytes, as they lie in memory: one look-up for both."""
    single = _single(dtype)
    pairs = np.empty((256, 256, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = single[None, :], single[:, None]
    table = pairs.reshape(-1, 2).view(np.uint64).reshape(-1)
    table.setflags(write=False)
    return table


@cache
def nibbles(table: str) -> npt.NDArray[np.uint64]:
    """The two values in the halves of a byte, the lower first."""
    if table == "FP4":
        one = np.array([*FP4, *(-value for value in FP4)], np.float32)
    else:
        one = np.arange(16, dtype=np.float32) - 8
    pairs = np.empty((16, 16, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = one[None, :], one[:, None]
    return pairs.reshape(-1, 2).view(np.uint64).reshape(-1)
