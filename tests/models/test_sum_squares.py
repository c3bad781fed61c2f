"""Sums of squares: held against exact ones, and the same bits however they are computed."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegrow.kernels import sum_squares
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.sum_squares import STEP, WIDEST, Lanes

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def weights(size, dtype, seed=0, scale=0.02):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator, dtype=torch.float64) * scale).to(DTYPES[dtype])


def stored(values):
    return values.view(torch.uint8).numpy()


def added(values, dtype, width, *, loops=None, block=None):
    found = Lanes(width, Workspace(loops))
    everything = stored(values)
    size = (block or values.numel()) * values.element_size()
    for first in range(0, everything.size, size):
        found.add(everything[first : first + size], dtype)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [7, 1020, WIDEST])
def test_each_lane_is_the_sum_of_its_squares(dtype, width):
    values = weights(2 * STEP + 3, dtype)
    found = added(values, dtype, width)
    for lane in {0, width // 2, width - 1}:
        exact = sum(Fraction(value) ** 2 for value in values[lane::width].double().tolist())
        assert found.sums[lane] == pytest.approx(float(exact), rel=1e-12)
    assert not found.left_out.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [48, 1020, WIDEST])
@pytest.mark.parametrize("size", [1, WIDEST - 1, STEP + 5, 2 * STEP + 5])
def test_sums_are_the_same_bits_compiled_and_in_any_blocks(dtype, width, size):
    compiled = pytest.importorskip("moegrow.kernels.numba_weights", reason="numba is not installed")
    values = weights(size, dtype)
    expected = added(values, dtype, width)
    for loops in (None, compiled):
        for block in (None, width, 5 * width):
            found = added(values, dtype, width, loops=loops, block=block)
            assert found.sums.tobytes() == expected.sums.tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_value_of_16_bits_is_squared_exactly(dtype):
    """Also the smallest, and the largest, compiled and not; with those left out that are none."""
    compiled = pytest.importorskip("moegrow.kernels.numba_weights", reason="numba is not installed")
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    values = every.view(DTYPES[dtype])
    finite = values[values.isfinite()]
    exact = finite.double().square().numpy()
    for loops in (None, compiled):
        for part in range(0, finite.numel(), WIDEST):
            own = finite[part : part + WIDEST]
            found = added(own, dtype, own.numel(), loops=loops)
            assert np.array_equal(found.sums, exact[part : part + WIDEST])
        found = added(values, dtype, 1 << 10, loops=loops)
        assert found.left_out.sum() == values.numel() - finite.numel()
        assert math.fsum(found.sums) == pytest.approx(math.fsum(exact), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(
    bad=st.lists(
        st.tuples(st.integers(0, STEP), st.sampled_from([math.nan, math.inf, -math.inf])),
        min_size=1,
    ),
    width=st.integers(2, 3000),
    rows=st.integers(1, 30),
)
def test_what_is_not_finite_is_left_out_and_counted_in_its_lane(dtype, bad, width, rows):
    compiled = pytest.importorskip("moegrow.kernels.numba_weights", reason="numba is not installed")
    values, block = weights(STEP + 1, dtype), rows * -(-5000 // width) * width
    without = values.clone()
    for place, value in bad:
        values[place], without[place] = value, 0
    expected = added(without, dtype, width)
    counts = np.bincount([place % width for place in {place for place, _ in bad}], minlength=width)
    for loops in (None, compiled):
        found = added(values, dtype, width, loops=loops, block=block)
        assert found.sums.tobytes() == expected.sums.tobytes()
        assert np.array_equal(found.left_out, counts)


def test_values_whose_squares_are_no_float64_are_left_out():
    values = torch.tensor([1.0, 2 * sum_squares.LARGEST, 1e300, -1e300, 3.0], dtype=torch.float64)
    found = added(values, "F64", 2)
    assert (found.sums.tolist(), found.left_out.tolist()) == ([10.0, 0.0], [1, 2])
