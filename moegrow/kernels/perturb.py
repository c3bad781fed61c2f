"""Add noise, scale and shift to stored values, from stored bytes to stored bytes."""

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.dtypes import numpy_type
from moegrow.kernels.noise import (  # fmt: skip
    CHUNK,
    DRAWS_PER_BLOCK,
    FIRST,
    LEVELS,
    Deviation,
    Draw,
    Floats,
    finite_deviation,
)
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.op import Perturb
from moegrow.quant.stochastic_rounding import FLOATS

Bytes = npt.NDArray[np.uint8]

# Bytes of noised weights from which on loading the compiled loops takes less than they spare.
WORTH_LOADING = 256 << 20


class Workspace:
    """What one thread computes with.

    Buffers, which stay in its core's cache from chunk to chunk, the compiled loops, if any, what
    was found of noise in each kind of tensor, and the `still` tensors: those with a piece that
    should take noise and has no deviation.
    """

    def __init__(self, compiled: ModuleType | None = None) -> None:
        self.compiled = compiled
        self.realised: dict[str, NoiseStats] = {}
        self.still: set[str] = set()
        self._buffers: dict[tuple[str, Any], Floats] = {}

    def take(self, use: str, kind: Any, size: int) -> Floats:
        """`size` values of a type for one use, with whatever the last use has left in them."""
        key = use, kind
        if key not in self._buffers or self._buffers[key].size < size:
            self._buffers[key] = np.empty(max(CHUNK, LEVELS, size), kind)
        return self._buffers[key][:size]


def compiled_loops(count: int, worth: int | None = None) -> ModuleType | None:
    """The module `compiled`, where it can be loaded and is worth it for `count` bytes.

    It is from `worth` bytes on, WORTH_LOADING unless given.
    """
    if count < (WORTH_LOADING if worth is None else worth) or sys.byteorder != "little":
        return None
    try:
        from moegrow.kernels import numba_weights
    except ImportError:  # numba is not installed, or is not for this numpy
        return None
    return numba_weights


def code_loops(workspace: Workspace) -> ModuleType | None:
    """The loops from codes to bf16 weights, where a run has loaded those for noise."""
    if workspace.compiled is None:
        return None
    from moegrow.kernels import numba_codes

    return numba_codes


def exact(dtype: str) -> Any:
    """The type that a dtype's values are computed in."""
    if dtype.startswith("I"):
        return np.int64
    return np.float64 if dtype == "F64" else np.float32


def numbers(stored: Bytes, dtype: str, workspace: Workspace) -> Floats:
    """Stored values in the type they are computed in, to be used and written to."""
    found = stored.view(numpy_type(dtype))
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        wide = workspace.take("numbers", np.uint32, found.size)
        np.copyto(wide, found)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    values = workspace.take("numbers", exact(dtype), found.size)
    np.copyto(values, found)
    return values


def deviation(blocks: Iterable[Bytes], dtype: str, workspace: Workspace) -> float:
    """The standard deviation of stored values, as `noise.Deviation` has it.

    Every block but the last holds a multiple of CHUNK values.
    """
    width = numpy_type(dtype).itemsize
    found = Deviation()
    for block in blocks:
        if workspace.compiled and dtype == "BF16":
            if not found.count:
                found.begin(numbers(block[: FIRST * width], dtype, workspace))
            zero = np.float32(found.zero)
            workspace.compiled.add_sums(block.view(np.uint16), zero, found.sums, found.squares)
            found.count += block.size // width
            continue
        for values in _chunks(block, dtype, workspace):
            found.add(values)
    return found.value


def deviation_of_finite(blocks: Iterable[Bytes], dtype: str, workspace: Workspace) -> float:
    """As `deviation`, of finite values alone, as `noise.finite_deviation` has it."""
    return finite_deviation(
        values for block in blocks for values in _chunks(block, dtype, workspace)
    )


def _chunks(block: Bytes, dtype: str, workspace: Workspace) -> Iterator[Floats]:
    size = CHUNK * numpy_type(dtype).itemsize
    for first in range(0, block.size, size):
        yield numbers(block[first : first + size], dtype, workspace)


class Change:
    """What one piece does to its values: ``(x + a·ε) · scale + shift``, a being `amount`.

    Sums and products are separate float32 operations (float64 for F64), so no platform fuses
    them; what is stored is rounded once more, to the storage type: to nearest even, or as `side`
    draws it.
    """

    def __init__(
        self, dtype: str, perturb: Perturb, draw: Draw | None, amount: float, workspace: Workspace,
        side: Draw | None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.perturb = perturb
        self.amount = amount
        self._draw = draw
        self._side = side if dtype in FLOATS else None
        self._workspace = workspace
        # Noise around a value that is no number has been refused with sigma.
        self._keeps = perturb.noise is not None and perturb.noise.kind == "finite"
        self._is_finite = perturb.noise is not None and perturb.noise.kind == "normal"
        number = exact(dtype)
        if draw is not None and number(amount):
            # Every value that the noise can take; each is one product, as if it were drawn first.
            self._table = draw.table.astype(number, copy=False) * number(amount)
        else:
            self._draw = None

    def apply(self, stored: Bytes, start: int, new: Bytes) -> None:
        """Change the stored values, the first of which is number `start` of the piece."""
        if self._is_noise_alone and not start % DRAWS_PER_BLOCK and self._workspace.compiled:
            self._add_noise(self._workspace.compiled, stored, start, new)
            return
        with np.errstate(over="ignore", invalid="ignore"):
            self._apply(stored, start, new)

    @property
    def _is_noise_alone(self) -> bool:
        """Whether noise is all that is done, to bf16 values that are all numbers."""
        is_drawn = self._draw is not None and self._is_finite and self.dtype == "BF16"
        return is_drawn and self.perturb.scale == 1 and not self.perturb.shift

    def _add_noise(self, compiled: ModuleType, stored: Bytes, start: int, new: Bytes) -> None:
        assert self._draw
        upper, lower = divmod(self._draw.key, 1 << 64)
        key: tuple[int, ...] = lower, upper
        old, block = stored.view(np.uint16), start // DRAWS_PER_BLOCK
        loop = compiled.add_noise
        if self._side is not None:
            upper, lower = divmod(self._side.key, 1 << 64)
            key, loop = (*key, lower, upper), compiled.add_noise_by_draw
        numbers = map(np.uint64, (*key, block))
        loop(old, *numbers, self._table, new.view(np.uint16))

    def _apply(self, stored: Bytes, start: int, new: Bytes) -> None:
        width = numpy_type(self.dtype).itemsize
        for first in range(0, stored.size, CHUNK * width):
            part = slice(first, first + CHUNK * width)
            values = numbers(stored[part], self.dtype, self._workspace)
            kept = ~np.isfinite(values) if self._keeps else None
            if self._draw is not None:
                noise = self._workspace.take("noise", values.dtype.type, values.size)
                levels = self._draw.levels(start + first // width, values.size)
                # Levels never leave the table; to say what to do if they did saves a copy.
                np.take(self._table, levels, out=noise, mode="wrap")
                np.add(values, noise, out=values)
            self._scale(values)
            if self._side is None:
                self.store(values, new[part])
            else:
                levels = self._side.levels(start + first // width, values.size)
                codes = new[part].view(f"<u{width}")
                codes[:] = FLOATS[self.dtype].codes(values, levels)
            if kept is not None:
                kind = numpy_type(self.dtype)
                new[part].view(kind)[kept] = stored[part].view(kind)[kept]

    def _scale(self, values: Floats) -> None:
        """Multiply by a fraction and add another; 1/m is one division, so it is rounded once."""
        number = values.dtype.type
        scale, shift = self.perturb.scale, self.perturb.shift
        if not scale:
            values[:] = number(float(shift))
            return
        if scale.numerator != 1:
            np.multiply(values, number(scale.numerator), out=values)
        if scale.denominator != 1:
            np.divide(values, number(scale.denominator), out=values)
        if shift:
            np.add(values, number(float(shift)), out=values)

    def store(self, values: Floats, new: Bytes) -> None:
        """Round values to the storage type, to nearest even; `values` are spent."""
        stored = new.view(numpy_type(self.dtype))
        if self.dtype != "BF16":
            with np.errstate(over="ignore"):
                np.copyto(stored, values, casting="same_kind")
            return
        bits = values.view(np.uint32)
        odd = self._workspace.take("odd", np.uint32, values.size)
        # Half of the last place that stays, and a bit more where that place is odd.
        np.right_shift(bits, 16, out=odd)
        np.bitwise_and(odd, 1, out=odd)
        np.add(odd, 0x7FFF, out=odd)
        if not self._is_finite:
            nan = np.isnan(values)
            bits[nan], odd[nan] = 0x7FC00000, 0
        np.add(bits, odd, out=bits)
        np.right_shift(bits, 16, out=bits)
        np.copyto(stored, bits, casting="unsafe")
