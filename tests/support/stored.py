"""Quantised weights in memory, as a checkpoint has them, and their numbers by moegrow."""

import numpy as np
import quantised
import torch
from compressed_tensors.compressors import BaseCompressor

from moegrow.checkpoint.header import TensorSpec
from moegrow.kernels.cast import Conversion
from moegrow.kernels.perturb import Workspace
from moegrow.quant.detect import find_quantised
from moegrow.quant.find_codec import find_decoder

SHAPES = [(64, 64), (96, 32), (16, 160)]


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


def words(*shape):
    """Random words of 32 bits, so that every code is met."""
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int64).to(torch.int32)


def decoded_as_packed(name, shape):
    """Assert that int4 words along one axis have the numbers that were packed into them."""
    torch.manual_seed(5)
    weight = torch.randn(shape)
    codes, scale, zero = quantised.grouped_int4(weight)
    groups = torch.arange(shape[1]) // 16
    expected = ((codes - zero[groups]) * scale.float()[groups]).T
    form = quantised.FORMATS[name]
    named = {f"a.{part}": value for part, value in form.compress(weight).items()}
    same(plain(named, [form.config]), expected.contiguous())
    same(plain(named, [form.config], rows=(3, 5)), expected[3:5].contiguous())


def decoded_as_compressed_tensors(name, shape):
    """Assert that a format of compressed-tensors has the numbers that the library gives it."""
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
