"""What is looked up is what rounding each number gives."""

import numpy as np
import pytest
import torch
from alter import save
from test_dequantize import bytes_of

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.kernels.cast import is_known, looked_up
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import Source
from moegrow.kernels.tensor_bytes import blocks, is_rounded
from moegrow.planning.plan import Output, Piece
from moegrow.quant.decoding import AS_IT_IS, Decoding

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
    assert is_known(AS_IT_IS, "BF16", "F16")
    assert is_known(AS_IT_IS, "F16", "BF16")
    assert not is_known(AS_IT_IS, "F32", "F16")
    assert not is_known(AS_IT_IS, "BF16", "F32")
    assert not is_known(AS_IT_IS, "F8_E4M3", "F16")
    assert not is_known(None, "BF16", "F16")
    assert not is_known(Decoding("scaled", (("scale", "s"),)), "BF16", "F16")


@pytest.mark.parametrize("old", DTYPES)
def test_an_output_is_looked_up_and_with_noise_it_is_not(tmp_path, monkeypatch, old):
    (new,) = {*DTYPES} - {old}
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).to(DTYPES[old])
    (tmp_path / "config.json").write_text("{}")
    save(tmp_path / "model.safetensors", {"old": weights})
    piece = Piece("old", 1, 5, decoding=AS_IT_IS)
    noised = piece._replace(noise=Noise("normal", 0.5, 3))
    with Source(open_checkpoint(tmp_path)) as source:
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
