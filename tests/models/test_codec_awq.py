"""The codec of AWQ, held against what was packed and against auto-round."""

import pytest
import quantised
import torch
from stored import SHAPES, decoded_as_packed, plain, same, words


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_decoded_to_what_was_packed(shape):
    decoded_as_packed("awq", shape)


@pytest.mark.parametrize("scale", [torch.float16, torch.float32])
def test_awq_is_decoded_as_autoround_does(scale):
    from auto_round.export.export_to_awq.utils import dequantize_gemm

    torch.manual_seed(8)
    columns, rows, group = 128, 64, 32
    codes, zeros = words(columns, rows // 8), words(columns // group, rows // 8)
    scales = torch.rand(columns // group, rows).to(scale)
    expected = dequantize_gemm(codes, zeros, scales, 4, group).T.contiguous()
    named = {"a.qweight": codes, "a.qzeros": zeros, "a.scales": scales}
    config = [quantised.FORMATS["awq"].config | {"group_size": group}]
    same(plain(named, config).to(scale).float(), expected.float())
