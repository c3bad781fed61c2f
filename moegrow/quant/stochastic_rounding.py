"""Round values up or down to a quantised grid by a keyed draw, without bias.

The chance of a side is how near it is, so the mean of what is stored is the number itself
(docs/noise.md).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moegrow.dtypes import FP8, float_of

Floats = npt.NDArray[Any]
Levels = npt.NDArray[np.uint16]  # draws from 0 to 65535
Codes = npt.NDArray[Any]  # what is stored for a number, as whole numbers

STEP = 1 << 13  # values at a time, few enough that all that is made of them stays in the cache
NEAREST = 32767  # a draw that rounds to the nearer side


class FloatGrid(NamedTuple):
    """Floating-point numbers of a sign and `bits` more, `mantissa` of them for the mantissa.

    `least` is the smallest exponent, `top` the code of the largest number.
    """

    bits: int
    mantissa: int
    least: int
    top: int
    largest: float

    def codes(self, values: Floats, levels: Levels) -> Codes:
        """The codes of float32 or float64 values, each rounded as its draw decides.

        What is beyond the largest number becomes that; for NaN there is no code, and any may come.
        """
        flat, drawn = values.reshape(-1), levels.reshape(-1)
        is_half = self == FLOATS["BF16"] and values.dtype == np.float32
        found = np.empty(flat.size, np.int32)
        for first in range(0, flat.size, STEP):
            part = slice(first, first + STEP)
            found[part] = (_halved if is_half else self._codes)(flat[part], drawn[part])
        return found.reshape(values.shape)

    def _codes(self, values: Floats, levels: Levels) -> Codes:
        size = np.fmin(np.abs(values), values.dtype.type(self.largest))
        exponent = _exponents(size)
        np.maximum(exponent, self.least, out=exponent)
        steps = _scaled(size, self.mantissa - exponent)
        whole = np.floor(steps)
        found = whole.astype(np.int32)
        found += _is_up(steps, whole, levels)
        np.subtract(exponent, self.least, out=exponent)
        np.left_shift(exponent, self.mantissa, out=exponent)
        found += exponent
        found |= np.signbit(values).astype(np.int32) << self.bits
        return found


class WholeGrid(NamedTuple):
    """Whole numbers from `lowest` to `highest`; the code of 0 is `shift`."""

    lowest: int
    highest: int
    shift: int = 0

    def codes(self, values: Floats, levels: Levels, zeros: Floats | None = None) -> Codes:
        """The codes of values that are counted from `zeros`, each rounded as its draw decides.

        What is beyond the ends of the grid becomes the end.
        """
        base = np.float32(0) if zeros is None else zeros
        low, high = self.lowest - base, self.highest - base
        within = np.fmin(np.fmax(values, low), high)
        whole = np.floor(within)
        up = _is_up(within, whole, levels)
        if zeros is not None:
            whole += zeros
        found = whole.astype(np.int32)
        found += up
        found += self.shift
        return found


Grid = FloatGrid | WholeGrid


def _grid(dtype: str) -> FloatGrid:
    made = float_of(dtype)
    return FloatGrid(made.bits, made.mantissa, made.least, made.top, made.largest)


FLOATS = {dtype: _grid(dtype) for dtype in ("BF16", "F16", *FP8, "F4")}


def _halved(values: Floats, levels: Levels) -> Codes:
    """The upper halves of float32 values, one more where the lower half exceeds the draw."""
    bits = values.view(np.uint32)
    found = bits & np.uint32(0x7FFFFFFF)
    # A draw d is exceeded by a lower half where adding 65535 - d carries.
    found += levels ^ np.uint16(0xFFFF)
    found >>= 16
    np.minimum(found, FLOATS["BF16"].top, out=found)
    found |= bits >> 16 & np.uint32(0x8000)
    return found


def _exponents(size: Floats) -> npt.NDArray[np.int32]:
    """The exponents of numbers from 0 up that are finite; small where a number is subnormal."""
    if size.dtype == np.float32:
        return (size.view(np.int32) >> 23) - np.int32(127)
    return ((size.view(np.int64) >> 52) - 1023).astype(np.int32)


def _scaled(size: Floats, exponent: npt.NDArray[np.int32]) -> Floats:
    """Numbers times powers of two."""
    if size.dtype != np.float32:
        return np.ldexp(size, exponent)
    exponent += 127
    exponent <<= 23
    return size * exponent.view(np.float32)


def _is_up(values: Floats, whole: Floats, levels: Levels) -> npt.NDArray[np.bool_]:
    """Whether what numbers exceed the whole ones below them by, in 65536ths, exceeds the draw."""
    rest = values - whole
    rest *= 65536
    # Between two draws, so that neither 0 nor what arithmetic in float32 leaves of it is one more.
    rest -= 0.5
    return rest > levels
