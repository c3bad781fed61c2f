"""What changes do to stored values, bit for bit."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moegrow.growth import Noise
from moegrow.kernels.noise import CHUNK, Draw
from moegrow.kernels.perturb import Change, Workspace, exact, numbers
from moegrow.planning.plan import Piece

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
NORMAL, UNIFORM = Noise("normal", 0.01, 3), Noise("uniform", 0.01, 3)


def stored(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().copy()


def changed(tensor, piece, *, draw=None, amount=0.0, start=0, dtype=None):
    """The bits of a tensor that a piece has changed."""
    dtype = dtype or next(name for name, other in TORCH.items() if other == tensor.dtype)
    old = stored(tensor)
    before, new = old.copy(), np.empty_like(old)
    Change(dtype, piece, draw, amount, Workspace()).apply(old, start, new)
    assert np.array_equal(old, before)  # others read the same bytes
    return torch.from_numpy(new).view(tensor.dtype)


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def every_half(dtype):
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [Fraction(1, 3), Fraction(2, 3), Fraction(3, 2), Fraction(5)])
def test_every_value_of_16_bits_is_scaled_and_rounded_as_torch_does(dtype, scale):
    old = every_half(dtype)
    new = changed(old, Piece("x", 0, 1, scale=scale))
    expected = (old.float() * scale.numerator / scale.denominator).to(dtype)
    assert torch.equal(new.isnan(), expected.isnan())
    assert torch.equal(bits(new)[~new.isnan()], bits(expected)[~new.isnan()])


def test_what_is_not_a_number_becomes_the_same_in_bfloat16():
    old = every_half(torch.bfloat16)
    nan = old.isnan()
    for draw, piece in (
        (None, Piece("x", 0, 1, scale=Fraction(1, 3))),
        (Draw(UNIFORM, "x", 0), Piece("x", 0, 1, UNIFORM)),
    ):
        new = changed(old, piece, draw=draw, amount=0.01)
        assert set(bits(new)[nan].tolist()) == {0x7FC0}
        assert torch.equal(new.isnan(), nan)


@pytest.mark.parametrize("dtype", TORCH)
def test_stored_values_are_read_exactly(dtype):
    if dtype in FLOATS:
        old = torch.randn(1000, dtype=torch.float64).to(TORCH[dtype])
    else:
        old = torch.randint(-30_000, 30_000, (1000,)).to(TORCH[dtype])
    found = numbers(stored(old), dtype, Workspace())
    assert found.dtype == exact(dtype)
    assert found.tolist() == old.tolist()


@pytest.mark.parametrize("dtype", ["I64", "I32", "I16"])
def test_whole_numbers_are_scaled_and_shifted_exactly(dtype):
    old = torch.arange(-1000, 1000).to(TORCH[dtype])
    new = changed(old, Piece("x", 0, 1, scale=Fraction(3), shift=Fraction(7)))
    assert torch.equal(new, old * 3 + 7)
    constant = changed(old, Piece("x", 0, 1, scale=Fraction(0), shift=Fraction(5)))
    assert set(constant.tolist()) == {5}


def test_a_table_of_large_numbers_is_not_rounded():
    old = torch.tensor([2**53 + 1, -(2**53) - 1])
    assert changed(old, Piece("x", 0, 1, shift=Fraction(2))).tolist() == [2**53 + 3, 1 - 2**53]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("noise", [NORMAL, UNIFORM])
def test_noise_is_a_product_added_before_scale_and_shift(dtype, noise):
    wide = np.float64 if dtype == "F64" else np.float32
    old = torch.linspace(-1, 1, CHUNK + 77, dtype=torch.float64).to(TORCH[dtype])
    draw = Draw(noise, "x", 0)
    piece = Piece("x", 0, 1, noise, Fraction(2, 3), Fraction(1, 8))
    new = changed(old, piece, draw=draw, amount=0.017)
    values = old.double().numpy().astype(wide)
    values = values + Draw(noise, "x", 0).values(0, old.numel()).astype(wide) * wide(0.017)
    values = values * wide(2) / wide(3) + wide(0.125)
    assert torch.equal(new, torch.from_numpy(values).to(TORCH[dtype]))


@given(st.integers(0, 3000), st.lists(st.integers(1, 400), max_size=6), st.sampled_from(FLOATS))
def test_a_part_is_changed_as_it_is_within_the_whole(start, sizes, dtype):
    old = torch.linspace(-1, 1, 6000).to(TORCH[dtype])
    piece = Piece("x", 0, 1, NORMAL, Fraction(1, 3))
    draw = Draw(NORMAL, "x", 0)
    whole = changed(old, piece, draw=Draw(NORMAL, "x", 0), amount=0.1)
    for size in sizes:
        part = changed(old[start:][:size], piece, draw=draw, amount=0.1, start=start)
        assert torch.equal(part, whole[start:][:size])
        start += size


def test_noise_that_is_nothing_leaves_every_bit():
    old = torch.tensor([0.0, -0.0, 1e-45, 1.0])
    new = changed(old, Piece("x", 0, 1, NORMAL), draw=Draw(NORMAL, "x", 0), amount=0.0)
    assert torch.equal(bits(new), bits(old))
    # What is too small for float32 is nothing, too.
    new = changed(old, Piece("x", 0, 1, NORMAL), draw=Draw(NORMAL, "x", 0), amount=1e-60)
    assert torch.equal(bits(new), bits(old))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_too_large_for_their_type_become_infinite_without_a_word(dtype):
    most = torch.finfo(TORCH[dtype]).max
    old = torch.tensor([most, -most, 1.0], dtype=TORCH[dtype])
    new = changed(old, Piece("x", 0, 1, scale=Fraction(2)))
    assert new.tolist() == [float("inf"), -float("inf"), 2.0]


def test_a_buffer_of_one_use_is_not_that_of_another():
    workspace = Workspace()
    first, second = workspace.take("a", np.float32, 10), workspace.take("b", np.float32, 10)
    first[:], second[:] = 1, 2
    assert set(first) == {1}
    assert np.shares_memory(workspace.take("a", np.float32, 5), first)
