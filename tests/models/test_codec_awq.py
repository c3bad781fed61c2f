"""The codec of AWQ, held against what was packed and against auto-round."""

import pytest
import quantised
import torch
from stored import SHAPES, plain, same


def words(*shape):
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int64).to(torch.int32)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_decoded_to_what_was_packed(shape):
    torch.manual_seed(5)
    weight = torch.randn(shape)
    codes, scale, zero = quantised.grouped_int4(weight)
    groups = torch.arange(shape[1]) // 16
    expected = ((codes - zero[groups]) * scale.float()[groups]).T
    form = quantised.FORMATS["awq"]
    named = {f"a.{part}": value for part, value in form.compress(weight).items()}
    same(plain(named, [form.config]), expected.contiguous())
    same(plain(named, [form.config], rows=(3, 5)), expected[3:5].contiguous())


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
