"""The keyed draw, held against an implementation of its own and against known numbers."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moegrow.noise import LANES, Draw, deviation, quantiles
from moegrow.plans import Noise

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


def known_block():
    return np.arange(10_000, dtype=np.float32) * np.float32(0.37) % np.float32(1) - np.float32(0.5)


def test_a_known_block_has_a_known_deviation():
    assert deviation([known_block()]) == float.fromhex("0x1.2795e82af1453p-2")


@pytest.mark.parametrize("seed", range(4))
def test_the_deviation_is_summed_in_4096_lanes_as_documented(seed):
    generator = np.random.default_rng(seed)
    # Of many magnitudes, so that the order of the sums shows in the last bits.
    spread = np.exp(3 * generator.normal(size=100_001))
    block = (generator.normal(0, 0.02, 100_001) * spread).astype(np.float32)
    values = [float(value) - float(block[0]) for value in block]
    sums, squares = [0.0] * 4096, [0.0] * 4096
    for index, value in enumerate(values):
        sums[index % 4096] += value
        squares[index % 4096] += value * value
    total, total_squares, n = math.fsum(sums), math.fsum(squares), len(values)
    assert deviation([block]) == math.sqrt((total_squares - total * total / n) / n)


@given(
    arrays(np.float32, st.integers(1, 20_000), elements=st.floats(-100, 100, width=32)),
    st.floats(-10, 10),
)
def test_the_deviation_is_that_of_numpy(values, shift):
    values = values + np.float32(shift)
    expected = values.astype(np.float64).std()
    assert deviation([values]) == pytest.approx(expected, rel=1e-12, abs=1e-12 * 200)


@pytest.mark.parametrize("size", [1, LANES - 1, LANES, LANES + 1, 5 * LANES, 100_003])
def test_the_deviation_of_normal_values_equals_numpys(size):
    values = np.random.default_rng(size).normal(3, 0.02, size).astype(np.float32)
    assert deviation([values]) == pytest.approx(values.astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_the_deviation_does_not_depend_on_how_blocks_are_cut(cut):
    values = np.random.default_rng(0).normal(1, 2, 10 * LANES + 5).astype(np.float32)
    step = cut * LANES
    blocks = [values[start : start + step] for start in range(0, values.size, step)]
    assert deviation(blocks) == deviation([values])


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3e5, 1e-30])
def test_constant_blocks_deviate_by_exactly_nothing(value):
    assert deviation([np.full(10_001, value, np.float32)]) == 0


def test_nothing_deviates_by_nothing():
    assert deviation([]) == deviation([np.zeros(0, np.float32)]) == 0


@pytest.mark.parametrize(
    ("alpha", "unchanged", "realised"),
    [(1e-4, 0.976, 0.28), (1e-3, 0.775, 0.82), (1e-2, 0.175, 1.01), (5e-2, 0.036, 1.00)],
)
def test_noise_survives_bfloat16_as_the_table_of_the_method_says(alpha, unchanged, realised):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(1 << 19, generator=generator).mul(0.02).bfloat16().float()
    sigma = deviation([old.numpy()])
    drawn = torch.from_numpy(NORMAL.values(0, old.numel()))
    new = (old + drawn * (alpha * sigma)).bfloat16().float()
    assert float((new == old).float().mean()) == pytest.approx(unchanged, abs=0.02)
    assert float((new - old).std() / (alpha * sigma)) == pytest.approx(realised, abs=0.04)
