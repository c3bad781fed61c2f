"""Measure how much of the noise survives rounding to the stored dtype.

A value moves only where noise exceeds half of its last place. What does not reach that is lost, and
what does is rounded up to it, so noise that is small beside the storage type turns into another,
sparse one.
"""

import math

import numpy as np

from moegrow.checkpoint.header import nbytes
from moegrow.kernels.perturb import Bytes, Change, Workspace, numbers
from moegrow.planning.noise_stats import NoiseStats, add_all, kind_of
from moegrow.planning.op import Perturb

SAMPLE = 8192  # values that are looked at, the first of each noised piece
UNIFORM_RMS = 1 / math.sqrt(3)  # of values that are evenly spread within ±1


def note(
    workspace: Workspace, name: str, made: Change, start: int, stored: Bytes, new: Bytes
) -> None:
    """Count what a change has made of a piece of an output, if these are its first values."""
    if start or not made.perturb.noise or not made.amount:
        return
    add_all(workspace.realised, {kind_of(name): measure(made, stored, new, workspace)})


def measure(made: Change, stored: Bytes, new: Bytes, workspace: Workspace) -> NoiseStats:
    """Compare the first values of a piece with noise with what they have become."""
    noise, scale, shift = made.perturb.noise, made.perturb.scale, made.perturb.shift
    assert noise
    count = min(SAMPLE * nbytes(made.dtype, (1,)), stored.size)
    old, new = stored[:count], new[:count]
    if scale != 1 or shift:
        without = np.empty_like(old)
        Change(made.dtype, Perturb(None, scale, shift), None, 0.0, workspace).apply(old, 0, without)
        old = without
    before = numbers(old, made.dtype, workspace).astype(np.float64)
    # Values that are no finite numbers stay as they are, and do not count.
    with np.errstate(invalid="ignore"):
        difference = numbers(new, made.dtype, workspace) - before
    difference = difference[np.isfinite(difference)]
    rms = UNIFORM_RMS if noise.kind == "uniform" else 1.0
    asked = made.amount * rms * float(scale)
    return NoiseStats(
        difference.size,
        int(np.count_nonzero(difference == 0)),
        difference.size * asked**2,
        float(np.sum(difference * difference)),
        noise.is_rounded_by_draw,
    )
