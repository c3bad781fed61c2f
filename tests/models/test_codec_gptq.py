"""The codec of GPTQ, held against what was packed and against auto-round."""

import pytest
import quantised
import torch
from stored import SHAPES, decoded_as_packed, plain, same, words

from moegrow.errors import MoegrowError


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_decoded_to_what_was_packed(shape):
    decoded_as_packed("gptq", shape)


@pytest.mark.parametrize("is_permuted", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_is_decoded_as_autoround_does(bits, is_permuted):
    """Random words, so that every code and every zero is met: one past the largest too."""
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    torch.manual_seed(7)
    columns, rows, group = 128, 64, 32
    theirs = QuantLinear(bits, group, columns, rows, bias=False, g_idx=True)
    each, groups = 32 // bits, columns // group
    theirs.qweight, theirs.qzeros = words(columns // each, rows), words(groups, rows // each)
    theirs.scales = torch.rand(groups, rows)
    order = torch.randperm(columns) if is_permuted else torch.arange(columns)
    theirs.g_idx = (order // group).to(torch.int32)
    expected = theirs(torch.eye(columns)).T.contiguous()
    named = {f"a.{part}": getattr(theirs, part) for part in ("qweight", "qzeros", "scales")}
    named["a.g_idx"] = theirs.g_idx
    config = [quantised.FORMATS["gptq"].config | {"bits": bits, "desc_act": is_permuted}]
    # What is 0 may be -0 there, in a sum with others that are 0.
    same(plain(named, config) + 0, expected + 0)
    theirs.scales = theirs.scales.half()
    half = theirs(torch.eye(columns)).T.contiguous()
    found = plain(named | {"a.scales": theirs.scales}, config)
    same(found.half().float() + 0, half + 0)


def test_gptq_follows_the_order_of_activations():
    weight = torch.randn(8, 32)
    named = {f"a.{part}": value for part, value in quantised.gptq(weight).items()}
    config = [quantised.FORMATS["gptq"].config]
    before = plain(named, config)
    named["a.g_idx"] = named["a.g_idx"].flip(0)
    scale = named["a.scales"].float()
    codes, _, zero = quantised.grouped_int4(weight)
    groups = named["a.g_idx"].long()
    expected = ((codes - zero[groups]) * scale[groups]).T.contiguous()
    same(plain(named, config), expected)
    assert not torch.equal(before, expected)
    named["a.g_idx"] = torch.full((32,), 2, dtype=torch.int32)
    with pytest.raises(MoegrowError, match=r"names groups 2 to 2, and a\.scales has 2"):
        plain(named, config)
