"""The codec of MXFP4 and NVFP4, held against compressed-tensors, transformers and modelopt."""

import pytest
import torch
from stored import SHAPES, decoded_as_compressed_tensors, plain, same
from transformers.integrations.mxfp4 import convert_moe_packed_tensors


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["nvfp4", "mxfp4 ct"])
def test_compressed_tensors_decodes_the_same(name, shape):
    decoded_as_compressed_tensors(name, shape)


def test_every_value_of_fp4_is_that_of_the_libraries():
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    scale = torch.full((16, 1), 127, dtype=torch.uint8)
    found = plain({"a.weight_packed": codes, "a.weight_scale": scale})
    same(found, unpack_fp4_from_uint8(codes, 16, 32, torch.float32))


def test_packed_experts_in_mxfp4_are_decoded_as_transformers_does():
    torch.manual_seed(3)
    blocks = torch.randint(0, 256, (3, 24, 2, 16)).to(torch.uint8)
    scales = torch.randint(90, 160, (3, 24, 2)).to(torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    named = {"e.up_proj_blocks": blocks, "e.up_proj_scales": scales}
    same(plain(named), expected)
    same(plain(named, rows=(1, 2)), expected[1:2])


@pytest.mark.parametrize("shape", SHAPES)
def test_modelopts_nvfp4_is_decoded_as_it_does(shape):
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    torch.manual_seed(4)
    weight = torch.randn(shape)
    quantised_tensor, scale, double = NVFP4QTensor.quantize(weight, 16)
    codes = torch.randint(0, 256, quantised_tensor._quantized_data.shape).to(torch.uint8)
    for data in (quantised_tensor._quantized_data, codes):
        quantised_tensor._quantized_data = data
        expected = quantised_tensor.dequantize(
            dtype=torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16}
        )
        named = {"a.weight": data, "a.weight_scale": scale, "a.weight_scale_2": double}
        # Its table has 0 for the code of -0.
        same(plain(named) + 0, expected)
