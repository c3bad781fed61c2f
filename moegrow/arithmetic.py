"""What noise, a scale and a shift do to values, from stored bytes to stored bytes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.noise import CHUNK, LEVELS, Draw, Floats
from moegrow.plans import Piece

Bytes = npt.NDArray[np.uint8]

_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
}


class Scratch:
    """Buffers of one thread, which stay in its core's cache from chunk to chunk."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, Any], Floats] = {}

    def take(self, use: str, kind: Any, size: int) -> Floats:
        """`size` values of a type for one use, with whatever the last use has left in them."""
        key = use, kind
        if key not in self._buffers:
            self._buffers[key] = np.empty(max(CHUNK, LEVELS), kind)
        return self._buffers[key][:size]


def exact(dtype: str) -> Any:
    """The type that a dtype's values are computed in."""
    if dtype.startswith("I"):
        return np.int64
    return np.float64 if dtype == "F64" else np.float32


def numbers(stored: Bytes, dtype: str, scratch: Scratch) -> Floats:
    """At most CHUNK stored values in the type they are computed in, to be used and written to."""
    found = stored.view(_STORED[dtype])
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        wide = scratch.take("numbers", np.uint32, found.size)
        np.copyto(wide, found)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    values = scratch.take("numbers", exact(dtype), found.size)
    np.copyto(values, found)
    return values


class Change:
    """What one piece does to its values: ``(x + a·ε) · scale + shift``, a being `amount`.

    Sums and products are separate float32 operations (float64 for F64), so no platform fuses
    them; what is stored is rounded once more, to nearest even, to the storage type.
    """

    def __init__(
        self, dtype: str, piece: Piece, draw: Draw | None, amount: float, scratch: Scratch
    ) -> None:
        self._dtype = dtype
        self._piece = piece
        self._draw = draw
        self._scratch = scratch
        # Noise around a value that is no number has been refused with sigma.
        self._keeps = piece.noise is not None and piece.noise.kind == "finite"
        self._is_finite = piece.noise is not None and piece.noise.kind == "normal"
        number = exact(dtype)
        if draw is not None and number(amount):
            # Every value that the noise can take; each is one product, as if it were drawn first.
            self._table = draw.table.astype(number, copy=False) * number(amount)
        else:
            self._draw = None

    def apply(self, stored: Bytes, start: int, new: Bytes) -> None:
        """Change the stored values, the first of which is number `start` of the piece."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._apply(stored, start, new)

    def _apply(self, stored: Bytes, start: int, new: Bytes) -> None:
        width = _STORED[self._dtype].itemsize
        for first in range(0, stored.size, CHUNK * width):
            part = slice(first, first + CHUNK * width)
            values = numbers(stored[part], self._dtype, self._scratch)
            kept = ~np.isfinite(values) if self._keeps else None
            if self._draw is not None:
                noise = self._scratch.take("noise", values.dtype.type, values.size)
                levels = self._draw.levels(start + first // width, values.size)
                # Levels never leave the table; to say what to do if they did saves a copy.
                np.take(self._table, levels, out=noise, mode="wrap")
                np.add(values, noise, out=values)
            self._scale(values)
            self._store(values, new[part])
            if kept is not None:
                kind = _STORED[self._dtype]
                new[part].view(kind)[kept] = stored[part].view(kind)[kept]

    def _scale(self, values: Floats) -> None:
        """Multiply by a fraction and add another; 1/m is one division, so it is rounded once."""
        number, piece = values.dtype.type, self._piece
        if not piece.scale:
            values[:] = number(float(piece.shift))
            return
        if piece.scale.numerator != 1:
            np.multiply(values, number(piece.scale.numerator), out=values)
        if piece.scale.denominator != 1:
            np.divide(values, number(piece.scale.denominator), out=values)
        if piece.shift:
            np.add(values, number(float(piece.shift)), out=values)

    def _store(self, values: Floats, new: Bytes) -> None:
        """Round values to the storage type, to nearest even; `values` are spent."""
        stored = new.view(_STORED[self._dtype])
        if self._dtype != "BF16":
            with np.errstate(over="ignore"):
                np.copyto(stored, values, casting="same_kind")
            return
        bits = values.view(np.uint32)
        odd = self._scratch.take("odd", np.uint32, values.size)
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
