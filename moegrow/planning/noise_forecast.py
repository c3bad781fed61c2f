"""Predict the effect of noise on stored weights from their format alone.

No weight is read. Weights are taken for normal, and scales for those that fit the largest weight
of each group to the end of the grid, as the libraries choose them. Everything is in units of σ.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import POWERS, float_of
from moegrow.quant.decoding import Decoding
from moegrow.quant.find_codec import find_codec

_NORMAL = NormalDist()
_QUANTILES = 16  # values of the largest weight of a group that stand for all it can be
_NOISES = 64  # and sizes of the noise
_USUAL = 0.02  # σ of weights, as models are initialised


class Forecast(NamedTuple):
    """What becomes of noise: the share of values that stay as they are, the root mean square of
    what is stored less what was, divided by that of the noise, and how much the mean square of the
    weights grows, divided by that of the noise.

    That is less than the square of `ratio` where a draw rounds: what is at the end of its grid
    moves inwards alone, which makes weights smaller.
    """

    share_unchanged: float
    ratio: float
    growth: float


class _Cell(NamedTuple):
    """A share of the weights that have neighbours on the grid at a distance of `step` σ."""

    share: float
    step: float


def on_floats(dtype: str, amount: float, *, by_draw: bool = False) -> Forecast:
    """What becomes of noise of `amount` σ on weights that are stored as floating-point numbers."""
    return _foretold(tuple(_float_cells(dtype, 1 / _USUAL)), amount, by_draw)


def on_weight(
    spec: TensorSpec,
    decoding: Decoding,
    tensors: Mapping[str, TensorSpec],
    amount: float,
    *,
    by_draw: bool = False,
    is_symmetric: bool = False,
) -> Forecast:
    """What becomes of noise of `amount` σ on a quantised weight, by its format and its shapes.

    Where it has zeros, its scales fit the smallest and the largest weight, unless it
    `is_symmetric`.
    """
    codec = find_codec(spec, decoding, tensors)
    scale, count = codec.parts["scale"], math.prod(codec.shape)
    each = max(1, count // max(1, math.prod(scale.shape)))
    is_power = scale.dtype in POWERS
    has_zero = "zero" in codec.parts and not is_symmetric
    return _on_grid(codec.floats, codec.bits, each, is_power, has_zero, amount, by_draw)


@lru_cache(maxsize=256)
def _on_grid(
    dtype: str, bits: int, each: int, is_power: bool, has_zero: bool, amount: float, by_draw: bool
) -> Forecast:
    """As `on_weight`, of groups of so many values; the grid is whole numbers where no dtype is."""
    cells: list[_Cell] = []
    inwards = at_end = 0.0
    for number in range(_QUANTILES):
        # The largest of n values exceeds x with the probability that not all n are below it.
        chance = ((number + 0.5) / _QUANTILES) ** (1 / each)
        largest = _NORMAL.inv_cdf((1 + chance) / 2 if not has_zero else max(chance, 0.5 + 1e-9))
        if dtype:
            made = float_of(dtype)
            most = made.largest
            scale = most / largest
            if is_power:
                # The exponent of the largest weight becomes that of the largest number.
                scale = 2.0 ** (made.highest - math.floor(math.log2(largest)))
            found = _float_cells(dtype, 1 / scale)
            end, step = most / scale, 2.0 ** (made.highest - made.mantissa) / scale
        else:
            step = 2 * largest / (2**bits - 1)
            found, end = iter([_Cell(1.0, step)]), largest
        cells += [_Cell(cell.share / _QUANTILES, cell.step) for cell in found]
        share = _at_end(largest, end - step / 2, each, has_zero) / _QUANTILES
        inwards, at_end = inwards + share * end, at_end + share
    found_all = _foretold(tuple(cells), amount, by_draw)
    if not by_draw:
        return found_all
    # Of what is at the end, half of the noise is lost: that which goes outwards.
    lost = inwards * math.sqrt(2 / math.pi) / amount + at_end / 2 * found_all.growth
    return found_all._replace(growth=found_all.growth - lost)


def _at_end(largest: float, low: float, each: int, has_zero: bool) -> float:
    """The share of values that are stored as the end of their grid, those from `low` on, in groups
    of so many of which one is the `largest`."""
    if largest < low:
        return 0.0

    def within(size: float) -> float:
        return _NORMAL.cdf(size) if has_zero else 2 * _NORMAL.cdf(size) - 1

    others = (each - 1) * (1 - within(low) / within(largest))
    return (2 if has_zero else 1) * (1 + others) / each


def _float_cells(dtype: str, scale: float) -> Iterator[_Cell]:
    """The weights by the binades of floating-point numbers that are `scale` σ for each 1."""
    made = float_of(dtype)
    top = made.highest
    # Far below σ there are too few weights to count.
    lowest = max(made.least, math.floor(math.log2(1 / scale)) - 24)
    below = 0.0
    for exponent in range(lowest, top + 1):
        above = 1.0 if exponent == top else math.erf(2.0 ** (exponent + 1) * scale / math.sqrt(2))
        if above > below:
            yield _Cell(above - below, 2.0 ** (exponent - made.mantissa) * scale)
        below = above
        if above == 1.0:
            break


def _foretold(cells: tuple[_Cell, ...], amount: float, by_draw: bool) -> Forecast:
    """What becomes of noise on weights that lie on the grid, some of them in each cell."""
    levels = [(number + 0.5) / _NOISES for number in range(_NOISES)]
    sizes = [amount * _NORMAL.inv_cdf((1 + level) / 2) for level in levels]
    mean_square = math.fsum(size * size for size in sizes)
    stay = squares = 0.0
    for share, step in cells:
        if not by_draw:
            # The size of noise from which on a value moves, exactly.
            stay += share * math.erf(step / 2 / amount / math.sqrt(2))
            squares += share * _squares(step, amount)
            continue
        for size in sizes:
            steps, rest = divmod(size / step, 1)
            stay += share * (1 - rest) / _NOISES * (steps == 0)
            # By draw the mean is the noise, and the variance that of one step or none.
            squares += (
                share
                * (size * size + rest * (1 - rest) * step * step)
                * (amount * amount / mean_square)
            )
    ratio = math.sqrt(squares) / amount
    return Forecast(min(1.0, stay), ratio, ratio**2)


def _squares(step: float, amount: float) -> float:
    """The mean square of normal noise that is rounded to multiples of a step."""
    total, steps = 0.0, 1
    while True:
        # (n² - (n-1)²) steps squared for all noise that exceeds n - 1/2 of them.
        beyond = math.erfc((steps - 0.5) * step / amount / math.sqrt(2))
        total += (2 * steps - 1) * step * step * beyond
        if beyond < 1e-12:
            return total
        if steps >= 64:
            return amount * amount + step * step / 12  # so fine a grid rounds like none
        steps += 1
