"""Numbers on the grid of a storage type: one of the two neighbours, and on average the number."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moegrow.quant.stochastic_rounding import FLOATS, NEAREST, WholeGrid
from moegrow.quant.unpack import float_values

TORCH = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
EVERY = np.arange(65536, dtype=np.uint16)


def values_of(name, codes):
    """What codes stand for, by torch, or by the values of FP4 that the library has."""
    if name == "F4":
        return float_values("F4").astype(float)[codes]
    kind = torch.uint8 if name.startswith("F8") else torch.int16
    stored = torch.from_numpy(np.ascontiguousarray(codes).astype(np.int32)).to(kind)
    return stored.view(TORCH[name]).double().numpy()


def every_code(name):
    codes = np.arange(1 << (FLOATS[name].bits + 1))
    return codes, values_of(name, codes)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("level", [0, NEAREST, 65535])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_what_is_on_the_grid_stays_whatever_is_drawn(name, level, precision):
    codes, values = every_code(name)
    finite = np.isfinite(values)
    levels = np.full(codes.size, level, np.uint16)[finite]
    found = FLOATS[name].codes(values[finite].astype(precision), levels)
    assert np.array_equal(found, codes[finite])


@pytest.mark.parametrize("name", FLOATS)
def test_the_largest_number_is_that_of_the_type_and_nothing_is_beyond_it(name):
    grid = FLOATS[name]
    largest = 6.0 if name == "F4" else torch.finfo(TORCH[name]).max
    assert grid.largest == largest
    beyond = np.array([largest, largest, 3.4e38, np.inf], np.float32)
    beyond[1] = np.nextafter(beyond[0], np.float32(np.inf))
    for level in (0, 65535):
        levels = np.full(beyond.size, level, np.uint16)
        assert (values_of(name, grid.codes(beyond, levels)) == largest).all()
        assert (values_of(name, grid.codes(-beyond, levels)) == -largest).all()


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("name", FLOATS)
def test_the_chance_of_a_neighbour_is_how_near_it_is(name, precision):
    """Over all draws that there are, so that nothing of this is by chance."""
    _, values = every_code(name)
    on_grid = np.unique(values[np.isfinite(values)])
    generator = np.random.default_rng(4)
    at = generator.integers(0, on_grid.size - 1, 40)
    low, high = on_grid[at], on_grid[at + 1]
    wanted = (low + (high - low) * generator.random(40)).astype(precision)
    for value, below, above in zip(wanted, low, high, strict=True):
        found = values_of(name, FLOATS[name].codes(np.full(65536, value), EVERY))
        assert set(np.unique(found)) <= {below, above}
        exact = (Fraction(float(value)) - Fraction(below)) / (Fraction(above) - Fraction(below))
        share = Fraction(int((found == above).sum()), 65536)
        # Draws are 65536, so that a share can be off by half of one of them.
        assert abs(share - exact) <= Fraction(1, 131072)


def test_bfloat16_is_unbiased_exactly():
    """Of float32 it leaves out 16 bits, as many as a draw has."""
    values = np.random.default_rng(1).normal(0, 0.02, 300).astype(np.float32)
    for value in values:
        codes = FLOATS["BF16"].codes(np.full(65536, value), EVERY)
        found, counts = np.unique(values_of("BF16", codes), return_counts=True)
        pairs = zip(map(Fraction, found.tolist()), counts.tolist(), strict=True)
        assert sum(each * count for each, count in pairs) / 65536 == Fraction(float(value))


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_the_draw_in_the_middle_rounds_as_torch_does_but_for_ties(name):
    values = np.random.default_rng(2).normal(0, 1, 5000).astype(np.float32)
    found = FLOATS[name].codes(values, np.full(values.size, NEAREST, np.uint16))
    expected = torch.from_numpy(values).to(TORCH[name]).double().numpy()
    # The middle draw is half of one draw from the middle: 2**-17 of a step.
    assert np.mean(values_of(name, found) != expected) < 1e-3


@given(st.floats(-300, 300, width=32), st.integers(0, 65535), st.integers(-128, 127) | st.none())
def test_whole_numbers_go_up_or_down_and_end_at_the_ends(value, level, zero):
    grid = WholeGrid(-128, 127, 5)
    zeros = None if zero is None else np.array([zero], np.float32)
    values, levels = np.array([value], np.float32), np.array([level], np.uint16)
    found = int(grid.codes(values, levels, zeros)[0]) - 5
    exact = min(max(Fraction(float(values[0])) + (zero or 0), -128), 127)
    assert found in (int(np.floor(float(exact))), int(np.ceil(float(exact))))
    part = exact - (exact.numerator // exact.denominator)
    expected = Fraction(2 * level + 1, 131072) < part
    assert found == exact.numerator // exact.denominator + expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FLOATS)
def test_no_number_is_a_failure(name):
    odd = np.array([np.nan, -np.nan, np.inf, -0.0, 0.0, 1e-45], np.float32)
    for precision in (np.float32, np.float64):
        found = FLOATS[name].codes(odd.astype(precision), np.full(6, 65535, np.uint16))
        assert values_of(name, found[2:3]) == FLOATS[name].largest
        assert np.signbit(values_of(name, found[3:4]))
