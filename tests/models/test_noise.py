"""The keyed draw, held against an implementation of its own and against known numbers."""

import hashlib
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moegrow.growth import Noise
from moegrow.kernels.noise import CHUNK, LANES, Draw, deviation, evens, quantiles

UP = "model.layers.0.mlp.experts.4.up_proj.weight"
FUSED = "model.layers.0.mlp.experts.gate_up_proj"
NORMAL = Draw(Noise("normal", 0.01, 0), UP, 0)

# The first six draws of each key, and four from draw 1,048,576 on.
VECTORS = [
    ("normal", 0, UP, 0,
     ["0x1.3a71fep-3", "0x1.44399p+0", "0x1.774b46p+0", "0x1.93e8d4p+1", "0x1.bc498ap-2",
      "0x1.e2b116p-1"],
     [1.6425518989562988, 0.6415117979049683, 0.7997266054153442, 2.0921976566314697]),
    ("normal", 7, FUSED, 4,
     ["0x1.2c3cf2p+1", "-0x1.8ecdc4p+0", "-0x1.5986d4p-1", "0x1.fdbc1ep-2", "-0x1.2319b8p-6",
      "-0x1.33a5c8p-1"],
     [0.9273600578308105, 0.7766106128692627, -1.3255831003189087, -1.5802230834960938]),
    ("uniform", 0, UP, 0,
     ["0x1.f3d0p-4", "0x1.96dep-1", "0x1.b6f6p-1", "0x1.ff2ep-1", "0x1.57acp-2", "0x1.4ef2p-1"],
     [0.8995208740234375, 0.4788055419921875, 0.5761260986328125, 0.9635772705078125]),
    ("uniform", 7, FUSED, 4,
     ["0x1.f646p-1", "-0x1.c2eep-1", "-0x1.001ep-1", "0x1.8684p-2", "-0x1.d08p-7",
      "-0x1.ceecp-2"],
     [0.6462554931640625, 0.5626068115234375, -0.8150177001953125, -0.8859405517578125]),
]  # fmt: skip


def philox(key, counter):
    """Philox4x64-10 (Salmon et al., 2011) in integers: the four words of one block."""
    word = (1 << 64) - 1
    c = [counter >> shift & word for shift in (0, 64, 128, 192)]
    k = [key & word, key >> 64]
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [b >> 64 ^ c[1] ^ k[0], b & word, a >> 64 ^ c[3] ^ k[1], a & word]
        k = [k[0] + 0x9E3779B97F4A7C15 & word, k[1] + 0xBB67AE8584CAA73B & word]
    return c


def levels(seed, name, row, count):
    """The 16-bit draws of a key, by the words of docs/noise.md alone."""
    text = f"moegrow-noise-1\n{seed}\n{name}\n{row}".encode()
    key = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    words = [word for block in range(count // 16 + 1) for word in philox(key, block + 1)]
    return [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)][:count]


@pytest.mark.parametrize(("kind", "seed", "name", "row", "first", "later"), VECTORS)
def test_known_keys_give_known_draws(kind, seed, name, row, first, later):
    draw = Draw(Noise(kind, 0.01, seed), name, row)
    assert draw.values(0, 6).tolist() == [float.fromhex(value) for value in first]
    assert draw.values(1 << 20, 4).tolist() == later
    assert draw.values(0, 6).dtype == np.float32


@given(st.integers(0, 2**63 - 1), st.text(max_size=30), st.integers(0, 10**6))
def test_draws_are_those_of_philox_written_anew(seed, name, row):
    expected = levels(seed, name, row, 40)
    normal = Draw(Noise("normal", 1, seed), name, row).values(0, 40)
    assert normal.tolist() == [float(quantiles()[level]) for level in expected]
    uniform = Draw(Noise("uniform", 1, seed), name, row).values(0, 40)
    assert uniform.tolist() == [(2 * level - 65535) / 65536 for level in expected]


@given(st.integers(0, 2000), st.integers(0, 500))
def test_draws_do_not_depend_on_where_they_begin(block, count):
    start = 16 * block
    assert np.array_equal(NORMAL.values(0, start + count)[start:], NORMAL.values(start, count))


def test_seed_name_row_and_nothing_else_make_other_draws():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a\n1", 0), (11, "a", 0)]
    drawn = [Draw(Noise("normal", 1, seed), name, row).values(0, 64) for seed, name, row in keys]
    assert len({values.tobytes() for values in drawn}) == len(keys)
    other_amount = Draw(Noise("normal", 2, 0), "a", 0).values(0, 64)
    assert np.array_equal(other_amount, drawn[0])


def test_the_table_is_that_of_normal_quantiles_with_unit_variance():
    table = quantiles().astype(np.float64)
    assert table.shape == (65536,)
    assert np.array_equal(table, -table[::-1])
    assert (np.diff(table) > 0).all()
    assert abs((table**2).mean() - 1) < 1e-7
    assert table[-1] == pytest.approx(4.325, abs=1e-3)
    # The quantile of 0.975 is 1.96, a thousandth more for the rescaling.
    assert table[int(0.975 * 65536)] == pytest.approx(1.95996, rel=1e-3)


def test_the_table_of_uniform_draws_is_evenly_spread_within_one():
    assert evens().dtype == np.float32
    assert evens().tolist() == [(2 * level - 65535) / 65536 for level in range(65536)]


@pytest.mark.parametrize("table", [quantiles, evens])
def test_a_table_cannot_be_written_to(table):
    with pytest.raises(ValueError, match="read-only"):
        table()[0] = 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_draws_go_on_where_the_last_call_ended(counts):
    draw, start = Draw(Noise("normal", 0.01, 0), UP, 0), 0
    for count in counts:
        assert np.array_equal(draw.values(start, count), NORMAL.values(0, 40_000)[start:][:count])
        start += count


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 5000)), max_size=8))
def test_draws_may_be_asked_for_in_any_order(parts):
    draw = Draw(Noise("uniform", 0.01, 0), UP, 0)
    whole = draw.values(0, 14_000)
    for start, count in parts:
        assert np.array_equal(draw.values(start, count), whole[start : start + count])


def test_many_draws_have_the_moments_of_a_normal_and_of_a_uniform_distribution():
    n = 1 << 20
    normal = NORMAL.values(0, n).astype(np.float64)
    assert abs(normal.mean()) < 5 / math.sqrt(n)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((normal**4).mean() - 3) < 0.06
    uniform = Draw(Noise("uniform", 1e-3, 0), UP, 0).values(0, n).astype(np.float64)
    assert abs(uniform.mean()) < 5 / math.sqrt(3 * n)
    assert abs(uniform.var() - 1 / 3) < 2e-3
    assert -1 < uniform.min() < -0.999
    assert 0.999 < uniform.max() < 1


def chunks(values):
    return [values[start : start + CHUNK] for start in range(0, values.size, CHUNK)]


def known_block():
    return np.arange(10_000, dtype=np.float32) * np.float32(0.37) % np.float32(1) - np.float32(0.5)


def test_a_known_block_has_a_known_deviation():
    assert deviation([known_block()]) == float.fromhex("0x1.2795e82b45ceep-2")
    wide = known_block().astype(np.float64)
    assert deviation([wide]) == float.fromhex("0x1.2795e82af1454p-2")


def round32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def documented(values, rounded):
    """The deviation by the words of docs/noise.md alone; `rounded` is that of the values."""
    count = len(values)
    first = values[:256]
    zero = rounded(math.fsum(first) / len(first))
    sums, squares = [0.0] * 4096, [0.0] * 4096
    for start in range(0, count, 65536):
        chunk = values[start : start + 65536]
        for lane in range(min(4096, len(chunk))):
            lane_sum = lane_squares = 0.0
            for value in chunk[lane::4096]:
                y = rounded(value - zero)
                lane_sum = rounded(lane_sum + y)
                lane_squares = rounded(lane_squares + rounded(y * y))
            sums[lane] += lane_sum
            squares[lane] += lane_squares
    total, total_squares = math.fsum(sums), math.fsum(squares)
    return math.sqrt(max(total_squares - total * total / count, 0) / count)


@pytest.mark.parametrize(
    ("dtype", "rounded"), [(np.float32, round32), (np.float64, float)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("size", [1, 3, 255, 257, LANES + 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5001])
def test_the_deviation_is_summed_in_lanes_and_chunks_as_documented(size, dtype, rounded):
    generator = np.random.default_rng(size)
    # Of many magnitudes and off centre, so that the order of the sums shows in the last bits.
    spread = np.exp(3 * generator.normal(size=size))
    values = (0.01 + generator.normal(0, 0.02, size) * spread).astype(dtype)
    assert deviation(chunks(values)) == documented(values.tolist(), rounded)


@given(
    arrays(np.float32, st.integers(1, 20_000), elements=st.floats(-100, 100, width=32)),
    st.floats(-10, 10),
)
def test_the_deviation_is_that_of_numpy(values, shift):
    values = values + np.float32(shift)
    wide = values.astype(np.float64)
    assert abs(deviation([values]) ** 2 - wide.var()) <= error_bound(wide)
    # In float64, where the sums of squares lose the fewest digits that matter.
    assert deviation([wide]) == pytest.approx(wide.std(), rel=1e-12, abs=1e-12 * 200)


def error_bound(values):
    """How far the variance may be off where float32 is used, for values that are float32.

    With u = 2**-24, values are off by u when the mean m of the first has been subtracted. Squares
    are off by 2 u for that and u of their own, sums of 16 of them by 15 u more: the mean square by
    18 u. The mean, likewise, is off by 16 u times the mean of the absolute values, which is not
    more than the root of the mean square. What is smaller than the smallest float32 is lost.
    """
    mean_square = np.square(values - values[:256].mean()).mean()
    mean = abs(values.mean() - values[:256].mean())
    return 2**-24 * (18 * mean_square + 2 * 16 * mean * math.sqrt(mean_square)) * 1.01 + 2**-149


@pytest.mark.parametrize("size", [1, LANES - 1, LANES, LANES + 1, 5 * LANES, 100_003, 300_000])
def test_the_deviation_of_normal_values_equals_numpys(size):
    values = np.random.default_rng(size).normal(3, 0.02, size).astype(np.float32)
    wide = values.astype(np.float64)
    # The mean of the first is near that of all, so only the 18 u of the squares are left, halved
    # by the root: 9 u, and 1 more for the rest.
    assert deviation(chunks(values)) == pytest.approx(wide.std(), rel=10 * 2**-24)
    assert deviation(chunks(wide)) == pytest.approx(wide.std(), rel=1e-12)


@pytest.mark.parametrize("sizes", [(1, 1), (LANES, LANES), (CHUNK - 1, 1), (CHUNK + 1,)])
def test_chunks_of_another_size_are_refused(sizes):
    with pytest.raises(ValueError, match="every chunk but the last"):
        deviation([np.ones(size, np.float32) for size in sizes])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3, 49, 255, 10_001, CHUNK + 1])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.9, -3.3e5, 1e-30, 3e38])
def test_constant_blocks_deviate_by_exactly_nothing(value, size, dtype):
    assert deviation(chunks(np.full(size, value, dtype))) == 0


def test_nothing_deviates_by_nothing():
    assert deviation([]) == deviation([np.zeros(0, np.float32)]) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", [0, 255, 256, LANES, CHUNK + 7])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_makes_the_deviation_none(odd, place, dtype):
    values = np.random.default_rng(0).normal(0, 1, CHUNK + 8).astype(dtype)
    values[place] = odd
    assert math.isnan(deviation(chunks(values)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("dtype", "large", "too_large"), [(np.float32, 1e18, 2e19), (np.float64, 1e153, 2e154)]
)
def test_values_with_squares_that_are_no_numbers_make_the_deviation_none(dtype, large, too_large):
    assert deviation([np.array([-large, large], dtype)]) == pytest.approx(large, rel=1e-6)
    assert math.isnan(deviation([np.array([-too_large, too_large], dtype)]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("times", [1, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_numbers_have_no_deviation_and_are_no_failure(dtype, times):
    most = np.finfo(dtype).max
    assert math.isnan(deviation([np.repeat(np.array([-most, most], dtype), times)]))


def test_deviations_vanish_below_what_the_documentation_says():
    values = np.array([-1, 1], np.float32)
    assert deviation([values * np.float32(1e-21)]) == pytest.approx(1e-21, rel=1e-2)
    assert deviation([values * np.float32(1e-23)]) == 0
    assert deviation([values.astype(np.float64) * 1e-100]) == pytest.approx(1e-100)


@pytest.mark.parametrize(
    ("alpha", "unchanged", "realised"),
    [(1e-4, 0.976, 0.28), (1e-3, 0.775, 0.82), (1e-2, 0.175, 1.01), (5e-2, 0.036, 1.00)],
)
def test_noise_survives_bfloat16_as_the_table_of_the_method_says(alpha, unchanged, realised):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(1 << 19, generator=generator).mul(0.02).bfloat16().float()
    sigma = deviation(chunks(old.numpy()))
    drawn = torch.from_numpy(NORMAL.values(0, old.numel()))
    new = (old + drawn * (alpha * sigma)).bfloat16().float()
    assert float((new == old).float().mean()) == pytest.approx(unchanged, abs=0.02)
    assert float((new - old).std() / (alpha * sigma)) == pytest.approx(realised, abs=0.04)
