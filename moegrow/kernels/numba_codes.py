"""Compiled loops that dequantize codes to bf16, bit for bit as numpy does.

They need numba, like `numba_weights`, and hold no lock of Python's while they run. The codecs call
them, in `fused`.
"""

import numpy as np
from numba import types

from moegrow.kernels.numba_weights import HALF, ONE, SIZE, UPPER, _compiled

QUIET = np.uint16(0x7FC0)  # what any NaN becomes
STRIP = 64  # rows that are turned at a time, in tiles
TILE = 16

# From float32 to float16, whose numbers have 13 bits less and whose exponents begin 112 later.
HALVED = 1024  # values at a time
SHORTER, ROUNDING, BIAS = np.uint32(13), np.uint32(0xFFF), np.uint32(112 << 23)
SIGN = np.uint32(0x8000)
SMALLEST_HALF = np.uint32(113 << 23)  # 2⁻¹⁴: below it, numbers are multiples of 2⁻²⁴
SUBNORMAL = np.float32(0.5)  # and so are all float32 from here on to 1
SUBNORMAL_BITS = np.uint32(126 << 23)
TOO_LARGE = np.uint32(0x477FF000)  # 65520, which is rounded to infinity

Codes = types.Array(types.uint8, 2, "C", readonly=True)
Pairs = types.Array(types.uint64, 1, "C", readonly=True)
Values = types.Array(types.float32, 1, "C", readonly=True)
Grid = types.Array(types.float32, 2, "C", readonly=True)
Rounded = types.uint16[:, ::1]


@_compiled(types.float32[::1], types.uint32[::1], types.uint16[::1])
def _round(numbers, bits, new):  # type: ignore[no-untyped-def]
    """Round float32 numbers, whose bits are `bits`, to bf16, to nearest even."""
    is_odd = False
    for i in range(new.size):
        new[i] = np.uint16((bits[i] + HALF + ((bits[i] >> UPPER) & ONE)) >> UPPER)
        is_odd |= numbers[i] != numbers[i]
    if is_odd:
        for i in range(new.size):
            if numbers[i] != numbers[i]:
                new[i] = QUIET


@_compiled(Values, types.uint16[::1])
def rounded(numbers, new):  # type: ignore[no-untyped-def]
    """Round float32 numbers to bf16, to nearest even."""
    bits = numbers.view(np.uint32)
    is_odd = False
    for i in range(new.size):
        new[i] = np.uint16((bits[i] + HALF + ((bits[i] >> UPPER) & ONE)) >> UPPER)
        is_odd |= numbers[i] != numbers[i]
    if is_odd:
        for i in range(new.size):
            if numbers[i] != numbers[i]:
                new[i] = QUIET


@_compiled(Values, types.uint16[::1], types.uint32[::1])
def rounded_to_half(numbers, new, is_plain):  # type: ignore[no-untyped-def]
    """Round float32 numbers to float16, to nearest even.

    `is_plain[0]` becomes 0 where some become infinite, or are no numbers: of those nothing is said.
    """
    bits = numbers.view(np.uint32)
    largest = np.uint32(0)
    part = np.empty(HALVED, np.float32)
    shifted = part.view(np.uint32)
    for first in range(0, new.size, HALVED):
        old, made = bits[first : first + HALVED], new[first : first + HALVED]
        # Where float16 has no more exponents: what is added leaves as many bits as there are.
        for i in range(old.size):
            shifted[i] = old[i] & SIZE
        for i in range(old.size):
            part[i] += SUBNORMAL
        for i in range(old.size):
            size = old[i] & SIZE
            largest = max(largest, size)
            normal = (size + ROUNDING + ((size >> SHORTER) & ONE) - BIAS) >> SHORTER
            small = shifted[i] - SUBNORMAL_BITS
            found = normal if size >= SMALLEST_HALF else small
            made[i] = np.uint16(found | ((old[i] >> UPPER) & SIGN))
    if largest >= TOO_LARGE:
        is_plain[0] = 0


@_compiled(Codes, Values, Grid, types.int64, types.int64, types.int64, Rounded)
def in_blocks(codes, values, scales, first, height, width, new):  # type: ignore[no-untyped-def]
    """Codes of a byte, each of which is one of `values`, times the scale of their block.

    The codes are those of rows `first` and further; blocks are of `height` × `width`. What all
    codes become under a scale is worked out once for each block.
    """
    bits = np.empty(256, np.uint32)
    numbers = bits.view(np.float32)
    tables = np.empty((scales.shape[1], 256), np.uint16)
    done = -1
    for row in range(new.shape[0]):
        block = (first + row) // height
        if block != done:
            for group in range(scales.shape[1]):
                for code in range(256):
                    numbers[code] = values[code] * scales[block, group]
                _round(numbers, bits, tables[group])
            done = block
        for group in range(scales.shape[1]):
            table = tables[group]
            its = codes[row, group * width : (group + 1) * width]
            made = new[row, group * width : (group + 1) * width]
            for i in range(its.size):
                made[i] = table[its[i]]


@_compiled(
    types.Array(types.uint8, 1, "C", readonly=True), Pairs,
    types.Array(types.float32, 1, "C", readonly=True),
    types.Array(types.float32, 1, "C", readonly=True),
    types.uint64[::1], types.uint16[::1],
)  # fmt: skip
def _row(codes, pairs, scales, zeros, wide, new):  # type: ignore[no-untyped-def]
    """One row of codes of 4 bits, two in a byte, less the zero and times the scale of a group."""
    numbers, bits = wide.view(np.float32), wide.view(np.uint32)
    width = new.size // scales.size
    for i in range(codes.size):
        wide[i] = pairs[codes[i]]
    for group in range(scales.size):
        scale, zero = scales[group], zeros[group]
        part = numbers[group * width : (group + 1) * width]
        for i in range(part.size):
            part[i] = (part[i] - zero) * scale
    _round(numbers, bits, new)


@_compiled(Codes, Pairs, Grid, Grid, Rounded)
def in_groups(codes, pairs, scales, zeros, new):  # type: ignore[no-untyped-def]
    """Codes of 4 bits, two in a byte, less the zero and times the scale of their group.

    `pairs` has the two numbers for each byte; the matrices have a row for each row of codes.
    """
    wide = np.empty(codes.shape[1], np.uint64)
    for row in range(new.shape[0]):
        _row(codes[row], pairs, scales[row], zeros[row], wide, new[row])


@_compiled(Codes, Pairs, Grid, Grid, types.int64, types.int64, Rounded)
def in_groups_turned(codes, pairs, scales, zeros, low, high, new):  # type: ignore[no-untyped-def]
    """As `in_groups`, for the groups from `low` to `high`, with rows and columns exchanged."""
    width = 2 * codes.shape[1] // scales.shape[1]
    count = (high - low) * width
    strip = np.empty((STRIP, count), np.uint16)
    wide = np.empty(count // 2, np.uint64)
    for first in range(0, codes.shape[0], STRIP):
        rows = min(STRIP, codes.shape[0] - first)
        for row in range(rows):
            at = first + row
            _row(
                codes[at, low * width // 2 : high * width // 2], pairs,
                scales[at, low:high], zeros[at, low:high], wide, strip[row],
            )  # fmt: skip
        for tile in range(0, count, TILE):
            for start in range(0, rows, TILE):
                for column in range(tile, min(tile + TILE, count)):
                    line = new[column, first + start : first + min(start + TILE, rows)]
                    for row in range(line.size):
                        line[row] = strip[start + row, column]
