"""What became of the noise in the storage type: measured on the result that was written."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint import Checkpoint
from moegrow.header import nbytes
from moegrow.plans import ONE, ZERO, Noise, Output, Piece, Plan
from moegrow.stream import Source, piece_range

MOST_PIECES = 16  # of each noise, evenly spread: enough for three digits
LARGEST = 4 << 20  # bytes of a piece that are looked at, its first ones

# An output, one of its pieces with noise, and the row of the output where that begins.
Place = tuple[Output, Piece, int]


@dataclass(frozen=True)
class Realised:
    """One noise as it was asked for and as it is found, in one dtype.

    `asked` and `realised` are relative to the σ of what is copied for normal noise, and the
    bound itself for uniform noise. `unchanged` is the share of entries that rounding left as
    they were. `measured` of all `pieces` were looked at.
    """

    kind: str
    dtype: str
    asked: float
    realised: float
    unchanged: float
    measured: int
    pieces: int

    def __str__(self) -> str:
        unit = " sigma" if self.kind == "normal" else ""
        return (
            f"{self.kind} noise of {self.asked:g}{unit} became {self.realised:.2g} in {self.dtype},"
            f" {self.unchanged:.1%} of the entries unchanged"
            f" (measured on {self.measured} of {self.pieces} pieces)"
        )

    def table(self) -> dict[str, Any]:
        return asdict(self)


def realised(plan: Plan, origin: Checkpoint, written: Checkpoint) -> tuple[Realised, ...]:
    """Each noise of a plan, held against what `written` has in the place of what `origin` has.

    Both are read, a bounded number of pieces of each. Pieces that are also scaled, or joined
    along a later axis, are left out: others have the same noise.
    """
    places: dict[tuple[str, str, float], list[Place]] = defaultdict(list)
    for output in plan.outputs:
        row = 0
        for piece in output.pieces:
            if piece.noise and not output.axis and (piece.scale, piece.shift) == (ONE, ZERO):
                key = piece.noise.kind, output.dtype, piece.noise.amount
                places[key].append((output, piece, row))
            row += piece.stop - piece.start
    with Source(origin) as old, Source(written) as new:
        return tuple(
            _measured(old, new, kind, dtype, amount, found)
            for (kind, dtype, amount), found in sorted(places.items())
        )


def _measured(
    old: Source, new: Source, kind: str, dtype: str, amount: float, places: list[Place]
) -> Realised:
    step = -(-len(places) // MOST_PIECES)
    chosen = places[::step]
    noise = wanted = 0.0
    unchanged = entries = 0
    for output, piece, row in chosen:
        before, after = _values(old, new, output, piece, row)
        difference = after - before
        noise += float(np.square(difference).sum())
        spread = float(before.var()) if before.size else 0.0
        wanted += before.size * (spread if kind == "normal" else 1 / 3)
        unchanged += int((difference == 0).sum())
        entries += before.size
    found = math.sqrt(noise / wanted) if wanted else 0.0
    share = unchanged / entries if entries else 1.0
    return Realised(kind, dtype, amount, found, share, len(chosen), len(places))


def _values(
    old: Source, new: Source, output: Output, piece: Piece, row: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The entries of a piece before and after, as many as are looked at."""
    there = Piece(output.name, row, row + piece.stop - piece.start)
    found = []
    for source, rows in ((old, piece), (new, there)):
        spec = source.spec(rows.source)
        start, stop = piece_range(spec, rows)
        width = nbytes(output.dtype, (1,))
        stored = np.empty(min(stop - start, LARGEST // width * width), np.uint8)
        source.read_into(spec.file, start, stored.data)
        found.append(_numbers(stored, output.dtype))
    finite = np.isfinite(found[0]) & np.isfinite(found[1])
    return found[0][finite], found[1][finite]


def _numbers(stored: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float64]:
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def is_drawn(plan: Plan) -> bool:
    """Whether a plan has noise at all, by its growth."""
    noises: tuple[Noise | None, ...] = plan.growth.weight_noise + plan.growth.router_noise
    return any(noises)
