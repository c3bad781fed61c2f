"""Cast values to another dtype with one rounding: to nearest even, or stochastic."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import nbytes
from moegrow.dtypes import numpy_type
from moegrow.errors import MoegrowError, Parameter
from moegrow.kernels.noise import CHUNK, Draw
from moegrow.kernels.perturb import Bytes, Change, Workspace, code_loops
from moegrow.planning.op import UNCHANGED
from moegrow.quant import unpack
from moegrow.quant.stochastic_rounding import FLOATS, Levels


class Conversion:
    """From float32 or float64, which `kind` names, to the dtype of a tensor called `name`."""

    def __init__(self, name: str, kind: str, dtype: str, workspace: Workspace) -> None:
        self._name = name
        self._kind = numpy_type(kind)
        self._dtype = dtype
        self._workspace = workspace
        # What is rounded to bfloat16 is float32.
        self._rounding = Change(dtype, UNCHANGED, None, 0.0, workspace)

    def stored(self, values: Bytes, side: Draw | None = None, start: int = 0) -> Bytes:
        """The bytes of the values in the new dtype.

        They are rounded to nearest even, or as `side` draws it, the first of them being value
        `start`. Raises MoegrowError where a number is too large: it would become infinite.
        """
        found = values.view(self._kind)
        if self._kind.name == "float32" and self._dtype == "F32":
            return values
        new = np.empty(nbytes(self._dtype, (found.size,)), np.uint8)
        width = nbytes(self._dtype, (1,))
        loops = code_loops(self._workspace) if self._kind.itemsize == 4 else None
        if loops and side is None and self._dtype == "BF16":
            loops.rounded(np.ascontiguousarray(found), new.view("<u2"))
            return new
        if loops and side is None and self._dtype == "F16":
            is_plain = np.ones(1, np.uint32)
            loops.rounded_to_half(np.ascontiguousarray(found), new.view("<u2"), is_plain)
            if is_plain[0]:
                return new
        for first in range(0, found.size, CHUNK):
            part = found[first : first + CHUNK]
            target = new[first * width : first * width + part.size * width]
            if side is not None and self._dtype in FLOATS:
                self._draw(part, side.levels(start + first, part.size), target)
                continue
            if self._dtype == "BF16":
                narrow = _to_odd(part) if self._kind.itemsize == 8 else part.copy()
                self._rounding.store(narrow, target)
                continue
            narrowed = target.view(numpy_type(self._dtype))
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(narrowed, part, casting="same_kind")
            self._check(part, narrowed)
        return new

    def _draw(self, values: npt.NDArray[Any], levels: Levels, new: Bytes) -> None:
        """Round values as the draws decide."""
        kept = ~np.isfinite(values)
        if self._dtype == "F16" or kept.any():
            nearest = self.stored(values.view(np.uint8))  # which checks how large they are
        found = new.view("<u2")
        found[:] = FLOATS[self._dtype].codes(values, levels)
        if kept.any():
            found[kept] = nearest.view("<u2")[kept]

    def _check(self, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> None:
        infinite = np.isinf(after)
        if infinite.any() and np.isfinite(before[infinite]).any():
            worst = np.abs(before[infinite & np.isfinite(before)]).max()
            raise MoegrowError(
                f"{self._name} holds {worst:g}, which is too large for {self._dtype}",
                "use " + Parameter("dtype", "bf16") + ", which has the range of float32",
            )


def _to_odd(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float64 as float32 whose last bit is set where it is not exact.

    So that rounding it once more, to fewer bits, rounds as if it were done once.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
        wide = narrow.astype(np.float64)
        # Towards zero where it was rounded away, and then the last bit.
        away = np.abs(wide) > np.abs(values)
        bits = narrow.view(np.uint32)
        bits[away] -= 1
        bits[(wide != values) & ~np.isnan(values)] |= 1
    return narrow


SIZE, INFINITY = np.uint16(0x7FFF), np.uint16(0x7C00)  # of float16: all but the sign, and infinity


def is_known(old: str, new: str) -> bool:
    """Whether stored numbers of one dtype are looked up in another."""
    return {old, new} == {"F16", "BF16"}


def looked_up(name: str, stored: Bytes, old: str, new: str) -> Bytes:
    """What `Conversion.stored` makes of the numbers of a tensor, and raises of them."""
    found = np.take(_table(old, new), stored.view("<u2"), mode="wrap")
    if new == "F16" and (found & SIZE).max(initial=0) >= INFINITY:
        numbers = unpack.numbers(stored, old).view(np.uint8)
        return Conversion(name, "F32", new, Workspace()).stored(numbers)
    return found.view(np.uint8)


@cache
def _table(old: str, new: str) -> npt.NDArray[np.uint16]:
    """What each number becomes, by its code; too large ones become infinite."""
    every = np.arange(1 << 16, dtype="<u2")
    numbers = unpack.numbers(every.view(np.uint8), old)
    if new == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            return numbers.astype("<f2").view("<u2")
    return Conversion("", "F32", new, Workspace()).stored(numbers.view(np.uint8)).view("<u2")
