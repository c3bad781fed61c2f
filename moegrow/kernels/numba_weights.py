"""Compiled loops for noise on bf16 and sums of squares, bit for bit as numpy does.

Only this file needs numba, which is an extra: `arithmetic` takes it where it is installed. The
functions hold no lock of Python's while they run, so every thread has a core of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic

from moegrow.kernels.noise import CHUNK, DRAWS_PER_BLOCK, LANES

STEP = LANES  # values at a time, few enough that all that is made of them stays in the first cache
BLOCKS = STEP // DRAWS_PER_BLOCK

# The constants of Philox4x64 (Salmon et al., SC 2011, section 3.3).
ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)

HALF = np.uint32(0x7FFF)  # what is added to the lower half of a float32, with the last bit kept
ONE, UPPER = np.uint32(1), np.uint32(16)
SIZE, DRAWN = np.uint32(0x7FFFFFFF), np.uint32(0xFFFF)  # all but the sign, and the largest draw
LARGEST = np.uint32(0x7F7F)  # the code of the largest bf16 number

SQUARED = 1024  # values that are squared at a time
UNSIGNED = np.uint32(0x7FFF)  # all bits but the sign's, of 16
ZERO, INFINITY = np.uint32(0), np.uint32(0x7F800000)


# Bytes that others read too may be locked against writing. What may be written to is taken as well.
Halves = types.Array(types.uint16, 1, "C", readonly=True)


def _compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function of these arguments, or take it from where an earlier run has left it."""
    signature = types.void(*arguments)

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # there is no folder to leave it in
            return njit(signature, nogil=True)(function)

    return compile_


@intrinsic
def _upper_product(context: Any, a: Any, b: Any) -> Any:
    """The upper 64 of the 128 bits of a product, one instruction that numba has no name for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@_compiled(types.uint64, types.uint64, types.uint64, types.uint64[:, ::1])
def _draw(low, high, block, words):  # type: ignore[no-untyped-def]
    """Fill rows of four words with Philox blocks, from number `block` on."""
    for row in range(words.shape[0]):
        a, b, c, d = block + uint64(row + 1), uint64(0), uint64(0), uint64(0)
        key_0, key_1 = low, high
        for _ in range(ROUNDS):
            upper_0, lower_0 = _upper_product(MULTIPLIER_0, a), MULTIPLIER_0 * a
            upper_1, lower_1 = _upper_product(MULTIPLIER_1, c), MULTIPLIER_1 * c
            a, b, c, d = upper_1 ^ b ^ key_0, lower_1, upper_0 ^ d ^ key_1, lower_0
            key_0 += WEYL_0
            key_1 += WEYL_1
        words[row, 0], words[row, 1], words[row, 2], words[row, 3] = a, b, c, d


@_compiled(Halves, types.uint64, types.uint64, types.uint64, types.float32[::1], types.uint16[::1])
def add_noise(stored, low, high, block, table, new):  # type: ignore[no-untyped-def]
    """Add values of a table to bf16 ones, and round to nearest even.

    The draws are those of the key with these lower and upper 64 bits, from Philox block number
    `block` on. Each loop does one thing, so that the compiler can do it to several values at once.
    """
    words = np.empty((BLOCKS, 4), np.uint64)
    levels = words.reshape(-1).view(np.uint16)
    bits = np.empty(STEP, np.uint32)
    values = bits.view(np.float32)
    for first in range(0, stored.size, STEP):
        old, result = stored[first : first + STEP], new[first : first + STEP]
        _draw(low, high, block + uint64(first // DRAWS_PER_BLOCK), words)
        for i in range(old.size):
            bits[i] = np.uint32(old[i]) << UPPER
        for i in range(old.size):
            values[i] += table[levels[i]]
        for i in range(old.size):
            result[i] = np.uint16((bits[i] + HALF + ((bits[i] >> UPPER) & ONE)) >> UPPER)


@_compiled(
    Halves, types.uint64, types.uint64, types.uint64, types.uint64, types.uint64,
    types.float32[::1], types.uint16[::1],
)  # fmt: skip
def add_noise_by_draw(stored, low, high, side_low, side_high, block, table, new):  # type: ignore[no-untyped-def]
    """As `add_noise`, but rounded to the side that draws of another key decide."""
    words, sides = np.empty((BLOCKS, 4), np.uint64), np.empty((BLOCKS, 4), np.uint64)
    levels, drawn = words.reshape(-1).view(np.uint16), sides.reshape(-1).view(np.uint16)
    bits = np.empty(STEP, np.uint32)
    values = bits.view(np.float32)
    for first in range(0, stored.size, STEP):
        old, result = stored[first : first + STEP], new[first : first + STEP]
        at = block + uint64(first // DRAWS_PER_BLOCK)
        _draw(low, high, at, words)
        _draw(side_low, side_high, at, sides)
        for i in range(old.size):
            bits[i] = np.uint32(old[i]) << UPPER
        for i in range(old.size):
            values[i] += table[levels[i]]
        for i in range(old.size):
            size = ((bits[i] & SIZE) + (DRAWN - np.uint32(drawn[i]))) >> UPPER
            result[i] = np.uint16(min(size, LARGEST) | ((bits[i] & ~SIZE) >> UPPER))


@_compiled(Halves, types.float32, types.float64[::1], types.float64[::1])
def add_sums(stored, zero, sums, squares):  # type: ignore[no-untyped-def]
    """Add bf16 values less `zero`, and their squares, to the lanes of `noise.Deviation`."""
    lanes, lanes_of_squares = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    bits = np.empty(LANES, np.uint32)
    values = bits.view(np.float32)
    for chunk in range(0, stored.size, CHUNK):
        lanes[:] = 0
        lanes_of_squares[:] = 0
        for first in range(chunk, min(chunk + CHUNK, stored.size), LANES):
            row = stored[first : first + LANES]
            for i in range(row.size):
                bits[i] = np.uint32(row[i]) << UPPER
            for i in range(row.size):
                values[i] -= zero
            for i in range(row.size):
                lanes[i] += values[i]
            for i in range(row.size):
                lanes_of_squares[i] += values[i] * values[i]
        for i in range(LANES):
            sums[i] += lanes[i]
        for i in range(LANES):
            squares[i] += lanes_of_squares[i]


@_compiled(Halves, types.uint32, types.uint32, types.float64, types.float64[::1])
def _add_squares_of_16_bits(stored, shift, infinity, scale, sums):  # type: ignore[no-untyped-def]
    """Add squares to the lanes of `lanes.Lanes`, of 16-bit floats that are float32 when shifted.

    That is, `scale` times a float32, and not finite where the shifted bits reach `infinity`.
    """
    bits = np.empty(SQUARED, np.uint32)
    values = bits.view(np.float32)
    for first in range(0, stored.size, sums.size):
        row = stored[first : first + sums.size]
        for begin in range(0, row.size, SQUARED):
            part, lanes = row[begin : begin + SQUARED], sums[begin : begin + SQUARED]
            for i in range(part.size):
                bits[i] = (np.uint32(part[i]) & UNSIGNED) << shift
            for i in range(part.size):
                bits[i] |= INFINITY if bits[i] >= infinity else ZERO
            for i in range(part.size):
                value = np.float64(values[i]) * scale
                lanes[i] += value * value


def _add_squares(stored, sums):  # type: ignore[no-untyped-def]
    for first in range(0, stored.size, sums.size):
        row = stored[first : first + sums.size]
        for i in range(row.size):
            value = np.float64(row[i])
            sums[i] += value * value


_add_squares_of_f32, _add_squares_of_f64 = (
    _compiled(types.Array(kind, 1, "C", readonly=True), types.float64[::1])(_add_squares)
    for kind in (types.float32, types.float64)
)


def add_squares(stored: npt.NDArray[np.uint8], dtype: str, sums: npt.NDArray[np.float64]) -> None:
    """Add the squares of stored values to the sums of `lanes.Lanes`, in its order."""
    if dtype == "BF16":
        _add_squares_of_16_bits(stored.view(np.uint16), UPPER, INFINITY, 1.0, sums)
    elif dtype == "F16":
        # What is as large as can be in float16 is not in float32, whose exponents go further.
        shifted = np.uint32(0x7C00 << 13)
        _add_squares_of_16_bits(stored.view(np.uint16), np.uint32(13), shifted, 2.0**112, sums)
    elif dtype == "F32":
        _add_squares_of_f32(stored.view(np.float32), sums)
    else:
        _add_squares_of_f64(stored.view(np.float64), sums)
