"""What is looked up is what rounding each number gives."""

import numpy as np
import pytest
import torch
from alter import save
from stored import DTYPES as NAMES
from stored import bytes_of

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.kernels.cast import Conversion, is_known, looked_up
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import SourceReader
from moegrow.kernels.tensor_bytes import blocks, is_rounded
from moegrow.planning.op import Cast, Perturb
from moegrow.planning.plan import Output, Piece

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int16)


@pytest.mark.parametrize(("old", "new"), [("BF16", "F16"), ("F16", "BF16")])
def test_every_number_that_the_other_dtype_can_hold_is_that_of_torch(old, new):
    numbers = EVERY.view(DTYPES[old])
    numbers = numbers[(numbers.abs() < 65520) | ~numbers.isfinite()]
    found = torch.from_numpy(looked_up("a", bytes_of(numbers), old, new)).view(DTYPES[new])
    expected = numbers.to(DTYPES[new])
    is_number = ~numbers.isnan()
    assert torch.equal(found.view(torch.int16)[is_number], expected.view(torch.int16)[is_number])
    assert found[~is_number].isnan().all()


def test_a_number_that_float16_cannot_hold_is_refused_with_its_name():
    numbers = torch.tensor([1.0, -1e6, float("inf")], dtype=torch.bfloat16)
    with pytest.raises(MoegrowError, match=r"a\.weight holds 999424, which is too large for F16"):
        looked_up("a.weight", bytes_of(numbers), "BF16", "F16")


def test_only_numbers_of_16_bits_as_they_are_stored_are_looked_up():
    assert is_known("BF16", "F16")
    assert is_known("F16", "BF16")
    assert not is_known("F32", "F16")
    assert not is_known("BF16", "F32")
    assert not is_known("F8_E4M3", "F16")


@pytest.mark.parametrize("old", DTYPES)
def test_an_output_is_looked_up_and_with_noise_it_is_not(tmp_path, monkeypatch, old):
    (new,) = {*DTYPES} - {old}
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).to(DTYPES[old])
    (tmp_path / "config.json").write_text("{}")
    save(tmp_path / "model.safetensors", {"old": weights})
    piece = Piece("old", 1, 5, Cast())
    noised = piece._replace(op=Cast(Perturb(Noise("normal", 0.5, 3))))
    with SourceReader(open_checkpoint(tmp_path)) as source:
        outputs = [Output("new", new, (4, 50), (each,)) for each in (piece, noised)]
        plain, drawn = (
            np.concatenate([block.copy() for block in blocks(source, output, Workspace())])
            for output in outputs
        )
        # Loading compiled loops is of no use where numbers are looked up.
        assert [is_rounded(source, output) for output in outputs] == [False, True]
    assert torch.equal(
        torch.from_numpy(plain).view(DTYPES[new]), weights[1:5].to(DTYPES[new]).ravel()
    )
    assert not np.array_equal(plain, drawn)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("source", [torch.float64, torch.float32])
def test_numbers_are_rounded_once_and_to_nearest_even(source, dtype):
    torch.manual_seed(6)
    bits = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    # And those in the middle of two neighbours, with a little more and a little less.
    middle = (torch.arange(0x3F80, 0x4100).to(torch.int32) << 16) + 0x8000
    values = torch.cat([values, middle.view(torch.float32)]).to(source)
    values = torch.cat([values, values * (1 + 2**-40), values * (1 - 2**-40)])
    if dtype == torch.float16:
        values = values[values.abs() < 65504]
    kind = NAMES[source]
    stored = Conversion("a", kind, NAMES[dtype], Workspace()).stored(bytes_of(values))
    found = torch.from_numpy(stored).view(dtype)
    if source == torch.float64 and dtype != torch.float32:
        # torch rounds twice. The nearest, of the two on either side of what it found:
        near = values.to(dtype).view(torch.int16)
        choices = torch.stack([(near + step).view(dtype).double() for step in (-1, 0, 1)])
        distance = (choices - values).abs().nan_to_num(torch.inf)
        finite = values.isfinite() & (values.abs() < 3e38)
        nearest = distance.amin(0)
        assert ((found.double() - values).abs() == nearest)[finite].all()
        middle = finite & ((distance == nearest).sum(0) == 2)
        assert middle.any()
        assert not (found.view(torch.int16)[middle] & 1).any()
    else:
        nan = values.isnan()
        assert torch.equal(found[~nan], values.to(dtype)[~nan])


def test_a_number_that_the_new_dtype_cannot_hold_is_refused():
    values = torch.tensor([1.0, 1e6, float("inf")])
    with pytest.raises(MoegrowError, match=r"a\.weight holds 1e\+06, which is too large for F16"):
        Conversion("a.weight", "F32", "F16", Workspace()).stored(bytes_of(values))
    fine = torch.tensor([1.0, 65504.0, float("inf"), float("nan")])
    stored = Conversion("a", "F32", "F16", Workspace()).stored(bytes_of(fine))
    assert torch.from_numpy(stored).view(torch.float16)[:3].tolist() == fine[:3].tolist()
