"""Stored numbers decoded as the libraries that define the formats decode them, bit for bit."""

import numpy as np
import pytest
import quantised
import torch
from compressed_tensors.compressors import BaseCompressor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from moegrow.checkpoint.header import TensorSpec
from moegrow.errors import MoegrowError
from moegrow.kernels.cast import Conversion
from moegrow.kernels.perturb import Workspace
from moegrow.quant.detect import find_quantised
from moegrow.quant.find_codec import find_decoder
from moegrow.quant.unpack import numbers

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip


def bytes_of(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


class Stored:
    """Tensors as a checkpoint has them, in memory."""

    def __init__(self, tensors):
        self._bytes = {name: bytes_of(tensor) for name, tensor in tensors.items()}
        self.tensors = {
            name: TensorSpec(name, "", DTYPES[tensor.dtype], tuple(tensor.shape), 0, 0)
            for name, tensor in tensors.items()
        }

    def read(self, spec, start, stop):
        return self._bytes[spec.name][start:stop].copy()


def plain(tensors, config=(), rows=None):
    """The one weight that the tensors make up, decoded to float32."""
    stored = Stored(tensors)
    (weight,) = find_quantised(stored, config).weights.values()
    assert not weight.problem
    codec = find_decoder(stored.tensors[weight.values], weight.decoding, stored.tensors)
    blocks = codec.dequantize(stored.read, rows or (0, weight.shape[0]))
    found = np.concatenate([block.copy() for block in blocks])
    height = weight.shape[0] if rows is None else rows[1] - rows[0]
    return torch.from_numpy(found).reshape(height, *weight.shape[1:])


def same(found, expected):
    """Equal bit for bit, any NaN for any."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    nan = torch.isnan(expected.float())
    assert torch.equal(torch.isnan(found.float()), nan)
    assert torch.equal(found[~nan].view(torch.int32), expected[~nan].contiguous().view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
@pytest.mark.parametrize("count", [256, 255])
def test_every_value_of_a_small_float_is_torchs(dtype, count):
    codes = torch.arange(256, dtype=torch.uint8)[:count]
    found = torch.from_numpy(numbers(codes.numpy(), DTYPES[dtype]).copy())
    same(found, codes.view(dtype).float())


def test_every_value_of_fp4_is_that_of_the_libraries():
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    scale = torch.full((16, 1), 127, dtype=torch.uint8)
    found = plain({"a.weight_packed": codes, "a.weight_scale": scale})
    same(found, unpack_fp4_from_uint8(codes, 16, 32, torch.float32))


SHAPES = [(64, 64), (96, 32), (16, 160)]


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


CT = [name for name, form in quantised.FORMATS.items() if "config_groups" in form.config]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CT)
def test_the_formats_of_compressed_tensors_are_decoded_as_it_does(name, shape):
    torch.manual_seed(2)
    form = quantised.FORMATS[name]
    weight = torch.randn(shape)
    tensors = {part: value.detach() for part, value in form.compress(weight).items()}
    group = form.config["config_groups"]["group_0"]
    compressor = BaseCompressor.get_value_from_registry(group["format"])
    from compressed_tensors.quantization import QuantizationScheme

    expected = compressor.decompress(dict(tensors), QuantizationScheme(**group))["weight"]
    found = plain({f"a.{part}": value for part, value in tensors.items()}, [form.config])
    if expected.dtype == torch.bfloat16:
        rounded = Conversion("a", "F32", "BF16", Workspace()).stored(bytes_of(found))
        assert torch.equal(torch.from_numpy(rounded), torch.from_numpy(bytes_of(expected)))
    else:
        same(found, expected.detach())
    assert (found - weight).norm() < 0.2 * weight.norm()


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


def test_modelopts_fp8_is_decoded_as_it_does():
    from modelopt.torch.quantization.qtensor import FP8QTensor

    torch.manual_seed(4)
    weight = torch.randn(32, 64)
    found, scale = FP8QTensor.quantize(weight)
    expected = found.dequantize(dtype=torch.float32, scale=scale)
    same(plain({"a.weight": found._quantized_data, "a.weight_scale": scale}), expected)


@pytest.mark.parametrize("name", ["gptq", "awq"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gptq_and_awq_are_decoded_to_what_was_packed(name, shape):
    torch.manual_seed(5)
    weight = torch.randn(shape)
    codes, scale, zero = quantised.grouped_int4(weight)
    groups = torch.arange(shape[1]) // 16
    expected = ((codes - zero[groups]) * scale.float()[groups]).T
    form = quantised.FORMATS[name]
    named = {f"a.{part}": value for part, value in form.compress(weight).items()}
    same(plain(named, [form.config]), expected.contiguous())
    same(plain(named, [form.config], rows=(3, 5)), expected[3:5].contiguous())


def words(*shape):
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int64).to(torch.int32)


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
    kind = DTYPES[source]
    stored = Conversion("a", kind, DTYPES[dtype], Workspace()).stored(bytes_of(values))
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
