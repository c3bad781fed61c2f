"""How much of the noise is left after rounding to the storage type: measured, and foretold.

A value moves only where noise exceeds half of its last place. What does not reach that is lost, and
what does is rounded up to it, so noise that is small beside the storage type turns into another,
sparse one.
"""

import math
from collections.abc import Iterator

import numpy as np

from moegrow.numbers.arithmetic import Bytes, Change, Scratch, exact, numbers
from moegrow.numbers.noise import Draw, quantiles
from moegrow.planning.realised import Realised, add_all, kind_of
from moegrow.plans import Noise, Piece, Plan
from moegrow.source.header import nbytes

SAMPLE = 8192  # values that are looked at, the first of each noised piece
UNIFORM_RMS = 1 / math.sqrt(3)  # of values that are evenly spread within ±1
SIGMA = 0.02  # of the weights on which noise is foretold, as models are initialised


def note(scratch: Scratch, name: str, made: Change, start: int, stored: Bytes, new: Bytes) -> None:
    """Count what a change has made of a piece of an output, if these are its first values."""
    if start or not made.piece.noise or not made.amount:
        return
    add_all(scratch.realised, {kind_of(name): measure(made, stored, new, scratch)})


def warnings(plan: Plan) -> Iterator[str]:
    """A sentence for each dtype in which most of a plan's noise on weights will be lost."""
    asked = {
        (output.dtype, piece.noise.amount)
        for output in plan.outputs
        for piece in output.pieces
        if piece.noise and piece.noise.kind != "uniform" and piece.noise.amount
    }
    for dtype, amount in sorted(asked):
        found = foretell(dtype, amount)
        if found.is_swallowed:
            yield (
                f"noise of {amount:g} sigma is mostly lost in {dtype}:"
                f" {found.share_unchanged:.0%} of the values will stay as they are"
            )


def measure(made: Change, stored: Bytes, new: Bytes, scratch: Scratch) -> Realised:
    """Compare the first values of a piece with noise with what they have become."""
    assert made.piece.noise
    count = min(SAMPLE * nbytes(made.dtype, (1,)), stored.size)
    plain = made.piece._replace(noise=None)
    old, new = stored[:count], new[:count]
    if not plain.is_copy:
        without = np.empty_like(old)
        Change(made.dtype, plain, None, 0.0, scratch).apply(old, 0, without)
        old = without
    before = numbers(old, made.dtype, scratch).astype(np.float64)
    # Values that are no finite numbers stay as they are, and do not count.
    with np.errstate(invalid="ignore"):
        difference = numbers(new, made.dtype, scratch) - before
    difference = difference[np.isfinite(difference)]
    rms = UNIFORM_RMS if made.piece.noise.kind == "uniform" else 1.0
    asked = made.amount * rms * float(made.piece.scale)
    return Realised(
        difference.size,
        int(np.count_nonzero(difference == 0)),
        difference.size * asked**2,
        float(np.sum(difference * difference)),
    )


def foretell(dtype: str, amount: float) -> Realised:
    """What becomes of normal noise of `amount` σ in a dtype, on weights that are normal themselves.

    It depends little on σ, since floating-point numbers are as dense around all powers of two.
    """
    scratch, noise = Scratch(), Noise("normal", amount, 0)
    # Values of the table in an order that has nothing to do with that in which they are drawn.
    weights = np.random.Generator(np.random.Philox(0)).permutation(quantiles())[:SAMPLE]
    stored, new = np.empty((2, nbytes(dtype, weights.shape)), np.uint8)
    plain = Change(dtype, Piece("", 0, 1), None, 0.0, scratch)
    plain.store((weights * np.float32(SIGMA)).astype(exact(dtype)), stored)
    made = Change(dtype, Piece("", 0, 1, noise), Draw(noise, "", 0), amount * SIGMA, scratch)
    made.apply(stored, 0, new)
    return measure(made, stored, new, scratch)
