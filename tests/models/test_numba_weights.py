"""The compiled loops make the same bytes as those of numpy, whatever the values are."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import moegrow
from moegrow.growth import Noise
from moegrow.kernels import perturb
from moegrow.kernels.noise import CHUNK, DRAWS_PER_BLOCK, LANES, Draw
from moegrow.kernels.perturb import Change, Workspace, compiled_loops, deviation
from moegrow.planning.plan import Piece

compiled = pytest.importorskip("moegrow.kernels.numba_weights", reason="numba is not installed")

PIECE = Piece("old", 0, 1, Noise("normal", 0.01, 3))
SIZES = (1, 15, 16, 17, LANES - 1, LANES, LANES + 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5)


def weights(size, seed=0, scale=0.02, shift=0.0):
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale + shift
    return values.to(torch.bfloat16).view(torch.uint8).numpy().copy()


def noised(old, loops, *, amount=1e-3, start=0, draw=None):
    draw = draw or Draw(PIECE.noise, "model.layers.0.mlp.experts.9.up_proj.weight", 0)
    before, new = old.copy(), np.zeros_like(old)
    Change("BF16", PIECE, draw, amount, Workspace(loops)).apply(old, start, new)
    assert np.array_equal(old, before)  # others read the same bytes
    return new


@pytest.fixture
def called(monkeypatch):
    """The names of the compiled functions, as they are called."""
    names = []
    for name in ("add_noise", "add_noise_by_draw", "add_sums"):
        function = getattr(compiled, name)

        def counted(*arguments, name=name, function=function):
            names.append(name)
            function(*arguments)

        monkeypatch.setattr(compiled, name, counted)
    return names


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, DRAWS_PER_BLOCK, 5 * CHUNK, DRAWS_PER_BLOCK * (1 << 40)])
def test_noise_is_the_same(called, size, start):
    old = weights(size)
    assert np.array_equal(noised(old, compiled, start=start), noised(old, None, start=start))
    assert called == ["add_noise"]


def by_draw(old, loops, *, amount, start=0):
    name = "model.layers.0.mlp.experts.9.up_proj.weight"
    draws = Draw(PIECE.noise, name, 0), Draw(PIECE.noise, name, 0, "rounding")
    new = np.zeros_like(old)
    made = Change("BF16", PIECE, draws[0], amount, Workspace(loops), draws[1])
    made.apply(old.copy(), start, new)
    return new


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 5 * CHUNK])
@pytest.mark.parametrize("amount", [1e-6, 1e-3])
def test_rounding_by_a_draw_is_the_same(called, size, start, amount):
    old = weights(size)
    found = by_draw(old, compiled, amount=amount, start=start)
    assert np.array_equal(found, by_draw(old, None, amount=amount, start=start))
    assert called == ["add_noise_by_draw"]


def test_every_finite_value_of_16_bits_is_rounded_by_a_draw_alike(called):
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    finite = every[every.view(torch.bfloat16).isfinite()].view(torch.uint8).numpy().copy()
    for amount in (1e-3, 1e30, 1e37):
        found = by_draw(finite, compiled, amount=amount)
        assert np.array_equal(found, by_draw(finite, None, amount=amount))
        assert np.isfinite(torch.from_numpy(found).view(torch.bfloat16).float().numpy()).all()
    assert called == ["add_noise_by_draw"] * 3


def test_bytes_that_may_not_be_written_are_read(called):
    """Those fetched from far away are kept for others, and locked."""
    old = weights(LANES)
    old.flags.writeable = False
    assert np.array_equal(noised(old, compiled), noised(old, None))
    deviations = [deviation(iter([old]), "BF16", Workspace(loops)) for loops in (compiled, None)]
    assert deviations[0] == deviations[1]
    assert called == ["add_noise", "add_sums"]


def test_draws_that_begin_within_a_block_are_those_of_numpy(called):
    old = weights(1000)
    assert np.array_equal(noised(old, compiled, start=3), noised(old, None, start=3))
    assert not called


def test_every_value_of_16_bits_is_rounded_alike(called):
    """All of them are drawn against, also infinities; noise goes to values that are numbers."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    old = every[~every.view(torch.bfloat16).isnan()].view(torch.uint8).numpy()
    for amount in (1e-30, 1e-3, 1.0, 1e37):
        assert np.array_equal(
            noised(old, compiled, amount=amount), noised(old, None, amount=amount)
        )
    assert len(called) == 4


@given(
    key=st.integers(0, (1 << 128) - 1),
    block=st.integers(0, (1 << 60) - 1),
    size=st.integers(1, 100),
)
@example(key=(1 << 128) - 1, block=(1 << 60) - 1, size=16)
def test_any_key_gives_the_same_noise(key, block, size):
    draw, other = Draw(PIECE.noise, "a", 0), Draw(PIECE.noise, "a", 0)
    draw.key = other.key = key
    old, start = weights(size, scale=1e-3), block * DRAWS_PER_BLOCK
    assert np.array_equal(
        noised(old, compiled, start=start, draw=draw), noised(old, None, start=start, draw=other)
    )


@pytest.mark.parametrize("size", [*SIZES, 17 * CHUNK + 3 * LANES])
@pytest.mark.parametrize("shift", [0.0, 3.0, -1e6])
@pytest.mark.parametrize("step", [CHUNK, 3 * CHUNK, 1 << 30])
def test_the_deviation_is_the_same(called, size, shift, step):
    old = weights(size, shift=shift)
    blocks = [old[first : first + 2 * step] for first in range(0, old.size, 2 * step)]
    found = deviation(iter(blocks), "BF16", Workspace(compiled))
    assert found == deviation(iter(blocks), "BF16", Workspace())
    assert called == ["add_sums"] * len(blocks)


@pytest.mark.parametrize("odd", ["nan", "inf", "-inf", "1e38"])
@pytest.mark.parametrize("place", [0, 300, CHUNK + 7])
def test_values_without_a_deviation_have_none_here_either(odd, place):
    values = torch.zeros(2 * CHUNK, dtype=torch.bfloat16)
    values[place] = float(odd)
    old = values.view(torch.uint8).numpy()
    assert np.isnan(deviation(iter([old]), "BF16", Workspace(compiled)))


@pytest.mark.parametrize("fused", [False, True])
def test_a_checkpoint_is_grown_to_the_same_bytes(checkpoint, tmp_path, monkeypatch, called, fused):
    source = checkpoint("gpt_oss" if fused else "qwen3_moe", dtype=torch.bfloat16)
    plan = moegrow.width(moegrow.depth(source), noise=0.01)
    moegrow.apply(plan, tmp_path / "without")
    assert not called
    monkeypatch.setattr(perturb, "WORTH_LOADING", 0)
    moegrow.apply(plan, tmp_path / "with", threads=3)
    assert set(called) == ({"add_sums", "add_noise"})
    called.clear()
    for folder in ("without", "with"):
        assert moegrow.verify(tmp_path / folder).ok
        assert set(called) == ({"add_sums", "add_noise"})
    with_, without = tiny.tensors(tmp_path / "with"), tiny.tensors(tmp_path / "without")
    assert with_.keys() == without.keys()
    assert all(tiny.same_bytes(with_[name], without[name]) for name in without)


def test_small_growth_does_not_load_them():
    assert compiled_loops(perturb.WORTH_LOADING - 1) is None
    assert compiled_loops(perturb.WORTH_LOADING) is compiled


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_without_numba_there_are_none():
    found = run(
        "import sys; sys.modules['numba'] = None\n"
        "from moegrow.kernels.perturb import compiled_loops; print(compiled_loops(1 << 40))"
    )
    assert found == "None\n"


def test_where_nothing_can_be_kept_they_are_compiled_anew():
    found = run(
        "from moegrow.kernels.perturb import compiled_loops; loops = compiled_loops(1 << 40)\n"
        "print(loops.__name__, loops.add_noise.stats.cache_path)",
        NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator",  # which has none for a file
    )
    assert found == "moegrow.kernels.numba_weights None\n"
