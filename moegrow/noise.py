"""The keyed draw: noise that depends on seed, tensor name and row alone (docs/noise.md)."""

import hashlib
import math
from collections.abc import Iterable
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.errors import MoegrowError
from moegrow.plans import Noise

Floats = npt.NDArray[Any]

LEVELS = 1 << 16
DRAWS_PER_BLOCK = 16  # one Philox block is four 64-bit words of four 16-bit draws each
LANES = 4096

# SHA-256 of the little-endian bytes of `quantiles()`: what another machine must also compute.
TABLE_DIGEST = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"


@cache
def quantiles() -> npt.NDArray[np.float32]:
    """The 65,536 values a draw can take: normal quantiles at (i + ½)/65536, of unit variance.

    Computed rather than stored; the digest makes sure that every platform computes the same.
    """
    inverse = NormalDist().inv_cdf
    half = [inverse((level + 0.5) / LEVELS) for level in range(LEVELS // 2, LEVELS)]
    deviation = math.sqrt(math.fsum(value * value for value in half) / len(half))
    upper = np.array([value / deviation for value in half], dtype=np.float32)
    table = np.concatenate([-upper[::-1], upper])
    digest = hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()
    if digest != TABLE_DIGEST:
        raise MoegrowError(
            "this platform computes another table of normal quantiles than docs/noise.md has,"
            " so its noise would not be reproducible",
            "please report it, with the platform and the version of Python",
        )
    table.setflags(write=False)
    return table


class Draw:
    """An endless sequence of draws for one block of rows of one tensor.

    The key is the first 16 bytes of SHA-256 over "moegrow-noise-1", the seed, the tensor's name
    and its first row, so any part of any tensor can be drawn by anyone, in any order.
    """

    def __init__(self, noise: Noise, name: str, row: int) -> None:
        text = f"moegrow-noise-1\n{noise.seed}\n{name}\n{row}"
        self._key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        self._kind = noise.kind

    def values(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """Draws `start` to `start + count`, as float32.

        Normal draws have mean 0 and variance 1; uniform ones lie within ±1.
        """
        block, before = divmod(start, DRAWS_PER_BLOCK)
        generator = np.random.Philox(key=self._key, counter=block)
        words = generator.random_raw(-(-(before + count) // 4))
        draws = words.astype("<u8", copy=False).view("<u2")[before : before + count]
        if self._kind == "uniform":
            centred = draws.astype(np.float32) - np.float32((LEVELS - 1) / 2)
            return centred * np.float32(1 / (LEVELS / 2))
        normal: npt.NDArray[np.float32] = np.take(quantiles(), draws)
        return normal


def deviation(blocks: Iterable[Floats]) -> float:
    """The standard deviation (divided by n) of all values of the blocks, in float64.

    The same on every platform, however the values are cut into blocks: value `i` goes to lane
    `i % 4096`, each lane is summed in order, and the lanes are added exactly. Values are taken
    relative to the first, so that constant values give exactly 0.
    """
    count = 0
    first = np.float64(0)
    sums = np.zeros(LANES)
    squares = np.zeros(LANES)
    rest = np.zeros(0)
    for block in blocks:
        values = block.astype(np.float64).ravel()
        if not count and values.size:
            first = values[0]
        count += values.size
        values = np.concatenate([rest, values - first])
        whole = values.size - values.size % LANES
        if whole:
            lanes = values[:whole].reshape(-1, LANES)
            sums = _add_in_order(sums, lanes)
            squares = _add_in_order(squares, lanes * lanes)
        rest = values[whole:]
    if not count:
        return 0.0
    sums[: rest.size] += rest
    squares[: rest.size] += rest * rest
    total, total_squares = math.fsum(sums), math.fsum(squares)
    return math.sqrt(max(total_squares - total * total / count, 0.0) / count)


def _add_in_order(start: Floats, rows: Floats) -> Floats:
    """`start` plus each row, one after another: never pairwise, so the rounding is defined."""
    total: Floats = np.add.reduce(np.vstack([start, rows]), axis=0)
    return total
