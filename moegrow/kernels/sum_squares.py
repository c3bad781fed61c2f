"""Sum squares of stored values in float64, always in the same order."""

import numpy as np
import numpy.typing as npt

from moegrow.dtypes import numpy_type
from moegrow.kernels.perturb import Bytes, Workspace, numbers

Floats = npt.NDArray[np.float64]

WIDEST = 1 << 15  # lanes at most
# Values that are squared at a time: few enough for a core's cache, and so many that threads, which
# take turns at Python's lock between two steps of numpy, do not wait for it most of the time.
STEP = 1 << 17
LARGEST = 1e150  # beyond it, squares are no finite float64


class Lanes:
    """Sums of squares: that of value number `i` goes to lane `i % width`, each lane in order.

    Every block that is added but the last has a multiple of `width` values. There are at most
    WIDEST lanes, and more than one unless there is one value alone. `left_out` has for each lane
    how many values were no finite numbers, or too large. The sums are the same however the values
    are cut into blocks, by compiled loops and without them.
    """

    def __init__(self, width: int, workspace: Workspace) -> None:
        self.sums: Floats = np.zeros(width)
        self.left_out = np.zeros(width, np.int64)
        self._workspace = workspace

    def add(self, stored: Bytes, dtype: str) -> None:
        """Count a block of stored values in."""
        before = self.sums.copy()
        compiled = self._workspace.compiled
        if compiled:
            compiled.add_squares(stored, dtype, self.sums)
        else:
            # Some of what is no number signals it already when it is copied.
            with np.errstate(over="ignore", invalid="ignore"):
                self._add(stored, dtype)
        if not np.isfinite(self.sums).all():
            self.sums = before
            with np.errstate(over="ignore", invalid="ignore"):
                self._add(stored, dtype, finite=True)

    def _add(self, stored: Bytes, dtype: str, *, finite: bool = False) -> None:
        width, item = self.sums.size, numpy_type(dtype).itemsize
        size = STEP // width * width * item
        for first in range(0, stored.size, size):
            part = stored[first : first + size]
            # What there is stands above the new squares, as the first row that is added.
            rows = self._workspace.take("squares", np.float64, width + part.size // item)
            rows[:width] = self.sums
            self._square(part, dtype, rows[width:], finite=finite)
            whole = rows.size // width * width
            # Along the first axis numpy adds row after row, never pairwise.
            np.add.reduce(rows[:whole].reshape(-1, width), axis=0, out=self.sums)
            self.sums[: rows.size - whole] += rows[whole:]

    def _square(self, stored: Bytes, dtype: str, squares: Floats, *, finite: bool) -> None:
        """Fill `squares` with those of stored values, or with 0 for what is not finite."""
        is_half = dtype == "BF16"
        found = (
            numbers(stored, dtype, self._workspace) if is_half else stored.view(numpy_type(dtype))
        )
        np.copyto(squares, found)
        if finite:
            (at,) = np.nonzero(~(np.abs(squares) < LARGEST))
            squares[at] = 0
            self.left_out += np.bincount(at % self.sums.size, minlength=self.sums.size)
        np.multiply(squares, squares, out=squares)
