"""The codec of fp8 and int8, held against torch, transformers, compressed-tensors and modelopt."""

import pytest
import quantised
import torch
from stored import DTYPES, SHAPES, decoded_as_compressed_tensors, plain, same
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from moegrow.quant.unpack import numbers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["fp8 tensor", "fp8 channel", "fp8 ct blocks", "int8 channel"])
def test_compressed_tensors_decodes_the_same(name, shape):
    decoded_as_compressed_tensors(name, shape)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
@pytest.mark.parametrize("count", [256, 255])
def test_every_value_of_a_small_float_is_torchs(dtype, count):
    codes = torch.arange(256, dtype=torch.uint8)[:count]
    found = torch.from_numpy(numbers(codes.numpy(), DTYPES[dtype]).copy())
    same(found, codes.view(dtype).float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [torch.float32, torch.float8_e8m0fnu])
def test_blocks_of_fp8_are_decoded_as_transformers_does(shape, scale):
    torch.manual_seed(1)
    tensors = quantised.blocks_of_fp8(torch.randn(shape))
    tensors["weight_scale_inv"] = tensors["weight_scale_inv"].to(scale)
    convert = Fp8Dequantize(None)
    expected = convert._dequantize_one(*tensors.values(), output_dtype=torch.float32)
    told = [{"weight_block_size": [8, 8]}]
    named = {f"a.{name}": tensor for name, tensor in tensors.items()}
    same(plain(named, told), expected)
    same(plain(named, told, rows=(3, 7)), expected[3:7])


def test_the_last_blocks_of_fp8_may_be_smaller():
    codes = torch.randn(20, 13).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2)
    wide = scale.repeat_interleave(8, 0)[:20].repeat_interleave(8, 1)[:, :13]
    named = {"a.weight": codes, "a.weight_scale_inv": scale}
    same(plain(named, [{"weight_block_size": [8, 8]}]), codes.float() * wide)


def test_fused_experts_in_blocks_of_fp8_are_decoded_expert_by_expert():
    codes = torch.randn(3, 16, 8).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2, 1)
    expected = codes.float() * scale.repeat_interleave(8, 1)
    named = {"experts.up_proj": codes, "experts.up_proj_scale_inv": scale}
    same(plain(named), expected)
    same(plain(named, rows=(1, 3)), expected[1:])


def test_modelopts_fp8_is_decoded_as_it_does():
    from modelopt.torch.quantization.qtensor import FP8QTensor

    torch.manual_seed(4)
    weight = torch.randn(32, 64)
    found, scale = FP8QTensor.quantize(weight)
    expected = found.dequantize(dtype=torch.float32, scale=scale)
    same(plain({"a.weight": found._quantized_data, "a.weight_scale": scale}), expected)
