"""The bytes of an output tensor, computed block after block."""

import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from alter import save
from hypothesis import given
from hypothesis import strategies as st

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.kernels import tensor_bytes
from moegrow.kernels.noise import Draw, deviation
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import SourceReader, rechunked
from moegrow.kernels.tensor_bytes import blocks
from moegrow.planning.op import Fill, Perturb
from moegrow.planning.plan import Output, Piece

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
NOISE = Noise("normal", 0.01, 3)


@pytest.fixture
def made(tmp_path):
    """What an output of pieces of one tensor `old` is made of, as a tensor."""

    def made(old, *pieces, name="new", axis=0, first=0):
        (tmp_path / "config.json").write_text("{}")
        save(tmp_path / "model.safetensors", {"before": torch.ones(3), "old": old})
        store = open_checkpoint(tmp_path)
        spec = store.tensors["old"]
        if first:  # columns of another piece in front, which are cut off again
            pieces = (Piece("old", 0, 1),) * first + pieces
        shape = list(spec.shape)
        if shape:
            shape[axis] = sum(piece.stop - piece.start for piece in pieces)
        output = Output(name, spec.dtype, tuple(shape), pieces, axis)
        with SourceReader(store) as source:
            content = b"".join(block.tobytes() for block in blocks(source, output, Workspace()))
        assert len(content) == output.nbytes
        if not content:
            return torch.empty(output.shape, dtype=old.dtype)
        new = torch.frombuffer(bytearray(content), dtype=old.dtype).view(output.shape)
        return new.narrow(axis, first, output.rows - first) if first else new

    return made


def weights(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.02).to(dtype)


def test_rows_are_copied_in_the_order_of_the_pieces(made):
    old = weights(4, 5)
    new = made(old, Piece("old", 2, 4), Piece("old", 0, 1), Piece("old", 2, 3))
    assert torch.equal(new, old[[2, 3, 0, 2]])


def test_a_tensor_without_dimensions_or_rows_is_copied(made):
    assert made(torch.tensor(2.5), Piece("old", 0, 1)).tolist() == 2.5
    assert made(torch.ones(0, 3), Piece("old", 0, 0)).numel() == 0


def test_a_scale_of_nothing_gives_zeros_of_any_dtype(made):
    for old in (weights(4, 5), torch.full((4, 2), float("nan")), torch.ones(4, dtype=torch.int64)):
        assert not made(old, Piece("old", 1, 3, Fill())).any()


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 3), Fraction(3, 2)])
def test_a_scale_is_rounded_once_to_the_storage_type(made, dtype, scale):
    old = weights(64, 65, dtype=dtype)
    new = made(old, Piece("old", 0, 64, Perturb(scale=scale)))
    wide = old.to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(new, (wide * scale.numerator / scale.denominator).to(dtype))


def test_ties_are_rounded_to_even_in_bfloat16(made):
    old = torch.tensor([[1 + n / 128] for n in range(128)], dtype=torch.bfloat16)
    new = made(old, Piece("old", 0, 128, Perturb(scale=Fraction(3, 2)))).view(torch.int16)
    for (bits,), n in zip(new.tolist(), range(128), strict=True):
        # 1.5 (1 + n/128) in units of the last place, which is twice as large from 2 on.
        exact = Fraction(3 * (128 + n), 2)
        unit, base = (1, 0x3F80 - 128) if exact < 256 else (2, 0x4000 - 128)
        assert bits == base + round(exact / unit)  # Python rounds halves to even


@pytest.mark.parametrize("name", DTYPES)
def test_noise_is_the_documented_sum_rounded_to_the_storage_type(made, name):
    old = weights(6, 1000, dtype=DTYPES[name])
    new = made(old, Piece("old", 0, 2), Piece("old", 4, 6, Perturb(NOISE)))
    exact = np.float64 if name == "F64" else np.float32
    block = old[4:6].to(torch.float64).numpy().astype(exact)
    sigma = deviation([block.ravel()])
    draws = Draw(NOISE, "new", 2).values(0, block.size).astype(exact).reshape(block.shape)
    expected = torch.from_numpy(block + draws * exact(0.01 * sigma)).to(DTYPES[name])
    assert torch.equal(new[2:], expected)
    assert torch.equal(new[:2], old[:2])
    assert not torch.equal(new[2:], old[4:6])


def test_noise_comes_before_the_scale(made):
    old = weights(2, 100)
    noisy = made(old, Piece("old", 0, 2, Perturb(NOISE)))
    assert torch.equal(made(old, Piece("old", 0, 2, Perturb(NOISE, Fraction(1, 2)))), noisy / 2)


def test_sigma_is_that_of_the_copied_rows_alone(made):
    old = weights(2, 1000)
    old[0] *= 1000
    moved = made(old, Piece("old", 1, 2, Perturb(NOISE))) - old[1]
    assert float(moved.std()) == pytest.approx(0.01 * float(old[1].std()), rel=0.1)


def test_uniform_noise_stays_within_its_bounds_whatever_sigma(made):
    old = weights(2, 5000, dtype=torch.float64) * 1000
    moved = (made(old, Piece("old", 0, 2, Perturb(Noise("uniform", 1e-3, 0)))) - old).abs().max()
    assert 0.99e-3 < moved <= 1e-3


def test_constant_rows_take_no_normal_noise(made):
    old = torch.full((2, 100), 0.1)
    assert torch.equal(made(old, Piece("old", 0, 2, Perturb(NOISE))), old)


@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_noise_around_a_value_that_is_no_number_is_refused(made, odd):
    """Sigma would be no number either, and a single value would spoil the whole copy."""
    old = weights(2, 100)
    old[1, 7] = odd
    with pytest.raises(MoegrowError, match="old"):
        made(old, Piece("old", 0, 2, Perturb(NOISE)))


def test_the_draw_depends_on_the_outputs_name_and_row(made):
    old = weights(1, 100)
    noisy, plain = Piece("old", 0, 1, Perturb(NOISE)), Piece("old", 0, 1)
    first = made(old, noisy)
    assert torch.equal(made(old, noisy), first)
    assert not torch.equal(made(old, noisy, name="other"), first)
    assert not torch.equal(made(old, plain, noisy)[1:], first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1000, 4096, 1 << 30])
def test_bytes_do_not_depend_on_the_size_of_blocks(made, monkeypatch, dtype, size):
    # More values than are summed at a time.
    old = weights(4, 40_001, dtype=dtype)
    pieces = (
        Piece("old", 0, 3), Piece("old", 1, 4, Perturb(NOISE)), Piece("old", 0, 2, Fill()),
        Piece("old", 0, 4, Perturb(NOISE, Fraction(1, 3))),
        Piece("old", 0, 4, Perturb(shift=Fraction(1, 7))),
        Piece("old", 1, 4, Fill(Fraction(1, 7))),
    )  # fmt: skip
    whole = made(old, *pieces)
    monkeypatch.setattr(tensor_bytes, "READ", size)
    assert torch.equal(made(old, *pieces), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [100, 4096, 1 << 30])
def test_joined_bytes_do_not_depend_on_the_size_of_blocks(made, monkeypatch, dtype, size):
    old = weights(700, 300, dtype=dtype)
    pieces = (
        Piece("old", 0, 300), Piece("old", 10, 290, Perturb(NOISE)), Piece("old", 0, 2, Fill()),
        Piece("old", 7, 8, Perturb(NOISE, Fraction(1, 3))),
    )  # fmt: skip
    whole = made(old, *pieces, axis=1)
    assert torch.equal(whole[:, :300], old)
    # The values of a piece are numbered row by row: those of a copy of its own columns alone.
    apart = made(
        old[:, 10:290].contiguous(), Piece("old", 0, 280, Perturb(NOISE)), axis=1, first=300
    )
    assert torch.equal(whole[:, 300:580], apart)
    monkeypatch.setattr(tensor_bytes, "READ", size)
    assert torch.equal(made(old, *pieces, axis=1), whole)


@given(st.lists(st.binary(max_size=50), max_size=9), st.integers(1, 70))
def test_bytes_are_dealt_out_anew_in_equal_parts(parts, size):
    def reused():
        # As they come from a source: each is valid until the next is asked for.
        buffer = np.empty(50, np.uint8)
        for part in parts:
            buffer[: len(part)] = np.frombuffer(part, np.uint8)
            yield buffer[: len(part)]

    found = [chunk.tobytes() for chunk in rechunked(reused(), size)]
    assert b"".join(found) == b"".join(parts)
    assert all(len(chunk) == size for chunk in found[:-1])
    assert not found or 0 < len(found[-1]) <= size


def test_short_reads_are_completed(made, monkeypatch):
    old = weights(4, 100)
    expected = made(old, Piece("old", 0, 4), Piece("old", 0, 4, Perturb(NOISE)))
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda f, views, at: preadv(f, [views[0][:7]], at))
    assert torch.equal(made(old, Piece("old", 0, 4), Piece("old", 0, 4, Perturb(NOISE))), expected)


def test_special_values_pass_through_a_scale_in_bfloat16(made):
    odd = [0.0, -0.0, float("inf"), -float("inf"), 1e-40, 3.38e38]
    old = torch.tensor([odd], dtype=torch.bfloat16)
    new = made(old, Piece("old", 0, 1, Perturb(scale=Fraction(1, 2))))
    assert torch.equal(new.view(torch.int16), (old / 2).view(torch.int16))


def test_a_source_that_became_shorter_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save(tmp_path / "model.safetensors", {"old": weights(4, 100)})
    store = open_checkpoint(tmp_path)
    output = Output("new", "F32", (4, 100), (Piece("old", 0, 4),))
    with SourceReader(store) as source:
        source.file("model.safetensors")
        (tmp_path / "model.safetensors").write_bytes(b"short")
        with pytest.raises(MoegrowError, match="ends before the end of old"):
            list(blocks(source, output, Workspace()))


def test_a_source_of_another_size_than_its_header_said_is_not_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save(tmp_path / "model.safetensors", {"old": weights(4, 100)})
    store = open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(MoegrowError, match="and has 5"), SourceReader(store) as source:
        source.file("model.safetensors")


def test_files_are_closed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save(tmp_path / "model.safetensors", {"old": weights(4)})
    with SourceReader(open_checkpoint(tmp_path)) as source:
        descriptor = source.file("model.safetensors")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pread(descriptor, 1, 0)
