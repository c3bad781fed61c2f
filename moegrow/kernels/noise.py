"""Draw keyed noise from seed, tensor name and row (docs/noise.md)."""

import hashlib
import math
from collections.abc import Iterable
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.errors import MoegrowError
from moegrow.growth import Noise

Floats = npt.NDArray[Any]

LEVELS = 1 << 16
DRAWS_PER_BLOCK = 16  # one Philox block is four 64-bit words of four 16-bit draws each
LANES = 4096
CHUNK = 16 * LANES  # values that are summed in their own precision
FIRST = 256  # values whose mean the others are taken relative to

# SHA-256 of the little-endian bytes of `quantiles()`: what another machine must also compute.
TABLE_DIGEST = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"


@cache
def quantiles() -> npt.NDArray[np.float32]:
    """The 65,536 values a normal draw can take: quantiles at (i + ½)/65536, of unit variance.

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


@cache
def evens() -> npt.NDArray[np.float32]:
    """The 65,536 values a uniform draw can take, evenly spread within ±1."""
    centred = np.arange(LEVELS, dtype=np.float32) - np.float32((LEVELS - 1) / 2)
    table = centred * np.float32(1 / (LEVELS / 2))
    table.setflags(write=False)
    return table


class Draw:
    """An endless sequence of draws for one block of rows of one tensor.

    The key is the first 16 bytes of SHA-256 over "moegrow-noise-1", the seed, the tensor's name
    and its first row, so any part of any tensor can be drawn by anyone, in any order. What else
    than noise is drawn for, its `use`, stands in the place of that word. `table` holds the values
    that a draw can take.
    """

    def __init__(self, noise: Noise, name: str, row: int, use: str = "noise") -> None:
        text = f"moegrow-{use}-1\n{noise.seed}\n{name}\n{row}"
        self.table = evens() if noise.kind == "uniform" else quantiles()
        self.key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        self._generator: np.random.Philox | None = None
        self._next = 0

    def levels(self, start: int, count: int) -> npt.NDArray[np.uint16]:
        """Draws `start` to `start + count`, as positions in the table."""
        block, before = divmod(start, DRAWS_PER_BLOCK)
        if self._generator is None or start != self._next or before:
            self._generator = np.random.Philox(key=self.key, counter=block)
        blocks = -(-(before + count) // DRAWS_PER_BLOCK)
        # Whole blocks are drawn, so that the next call goes on where this one ends.
        words = self._generator.random_raw(blocks * DRAWS_PER_BLOCK // 4)
        self._next = (block + blocks) * DRAWS_PER_BLOCK
        return words.astype("<u8", copy=False).view("<u2")[before : before + count]

    def values(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """Draws `start` to `start + count`, as float32.

        Normal draws have mean 0 and variance 1; uniform ones lie within ±1.
        """
        drawn: npt.NDArray[np.float32] = np.take(self.table, self.levels(start, count))
        return drawn


class Deviation:
    """The standard deviation (divided by n) of values that are added in their order.

    Every chunk that is added has CHUNK values but the last, which may have fewer; they are float64
    or float32. The same on every platform: values are taken relative to the mean of the first 256,
    value `i` goes to lane `i % 4096`, each lane of a chunk is summed in order and in the precision
    of the values, the lanes of the chunks in float64, and the lanes are added exactly.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums, self.squares = np.zeros(LANES), np.zeros(LANES)
        self.zero = 0.0  # what values are taken relative to
        self._buffer: Floats = np.zeros(0)

    def begin(self, values: Floats) -> None:
        """Take the first values, or a beginning of them with at least 256, for the zero."""
        self.zero = float(values.dtype.type(_mean(values[:FIRST])))

    def add(self, values: Floats) -> None:
        """Count some values in, which are not changed."""
        if self.count % CHUNK or values.size > CHUNK:
            raise ValueError("every chunk but the last has CHUNK values")
        size = -(-values.size // LANES) * LANES
        if not self.count:
            self.begin(values)
            self._buffer = np.empty(size, values.dtype)
        buffer = self._buffer[:size]
        buffer[values.size :] = 0
        lanes = buffer.reshape(-1, LANES)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(values, values.dtype.type(self.zero), out=buffer[: values.size])
            # Along the first axis numpy adds row after row, never pairwise.
            self.sums += np.add.reduce(lanes, axis=0)
            np.multiply(lanes, lanes, out=lanes)
            self.squares += np.add.reduce(lanes, axis=0)
        self.count += values.size

    @property
    def value(self) -> float:
        """The deviation of all values so far; exactly 0 where they are equal, or there are none.

        Where a value is no number, or its square none, neither is the deviation.
        """
        if not self.count:
            return 0.0
        if not np.isfinite(self.squares).all():
            return math.nan
        total, total_squares = math.fsum(self.sums.tolist()), math.fsum(self.squares.tolist())
        return math.sqrt(max(total_squares - total * total / self.count, 0.0) / self.count)


def deviation(chunks: Iterable[Floats]) -> float:
    """The standard deviation of all values of the chunks, each of CHUNK values but the last."""
    found = Deviation()
    for values in chunks:
        found.add(values)
    return found.value


def finite_deviation(chunks: Iterable[Floats]) -> float:
    """As `deviation`, of those values alone that are finite, and all in float64.

    For values of which some are not, or whose squares are too large for their own precision.
    Those that are not finite have no part in any sum, nor in the number of values.
    """
    count = 0
    zero: float | None = None
    sums, squares = np.zeros(LANES), np.zeros(LANES)
    for values in chunks:
        wide = values.astype(np.float64)
        finite = np.isfinite(wide)
        if zero is None:
            first = wide[:FIRST][finite[:FIRST]]
            zero = _mean(first) if first.size else 0.0
        padded = np.zeros(-(-wide.size // LANES) * LANES)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(wide, zero, out=padded[: wide.size], where=finite)
            lanes = padded.reshape(-1, LANES)
            sums += np.add.reduce(lanes, axis=0)
            squares += np.add.reduce(lanes * lanes, axis=0)
        count += int(np.count_nonzero(finite))
    if not np.isfinite(squares).all():
        return math.nan
    total, total_squares = math.fsum(sums.tolist()), math.fsum(squares.tolist())
    return math.sqrt(max(total_squares - total * total / max(1, count), 0.0) / max(1, count))


def _mean(values: Floats) -> float:
    """The mean of some values, exact but for one rounding of the sum and one of the quotient."""
    if not np.isfinite(values).all():
        return math.nan
    try:
        return math.fsum(values.tolist()) / max(1, values.size)
    except OverflowError:
        return math.nan
