"""Numbers put back where they were: every format, held against its decoder and its library."""

import numpy as np
import pytest
import quantised
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from stored import Stored, plain

from moegrow.quant.codec import REQUANTIZED
from moegrow.quant.detect import find_quantised
from moegrow.quant.find_codec import find_codec

DRAWN = np.random.default_rng(0)


class Making:
    """Numbers with something added, and draws; what was made of them is kept."""

    def __init__(self, add=lambda old, start: 0, level=None):
        self.add, self.level = add, level
        self.old, self.new = {}, {}

    def numbers(self, old, start):
        return old + np.asarray(self.add(old, start), np.float32)

    def levels(self, start, count):
        if self.level is not None:
            return np.full(count, self.level, np.uint16)
        # The same for a position, whatever the bands.
        return np.random.default_rng(7).integers(0, 65536, start + count, np.uint16)[start:]

    def made(self, old, new, start):
        self.old[start], self.new[start] = old.copy(), new.copy()

    def all(self):
        return tuple(
            np.concatenate([part for _, part in sorted(parts.items())])
            for parts in (self.old, self.new)
        )


def put_back(tensors, config, making, rows=None):
    """The tensors with the one weight that they make up remade."""
    stored = Stored(tensors)
    (weight,) = find_quantised(stored, config).weights.values()
    assert not weight.problem
    spec = stored.tensors[weight.values]
    codec = find_codec(spec, weight.decoding, stored.tensors)
    every = 0, spec.shape[0] if spec.shape else 1
    blocks = codec.requantize(stored.read, rows or every, making)
    found = np.concatenate([block.copy() for block in blocks])
    old = tensors[weight.values]
    shape = old.shape if rows is None else (rows[1] - rows[0], *old.shape[1:])
    new = torch.from_numpy(found).view(old.dtype).reshape(shape)
    return tensors | {weight.values: new}


def blocks_e8m0(weight):
    """Blocks of fp8 whose scales are powers of two."""
    found = quantised.blocks_of_fp8(weight)
    scale = found["weight_scale_inv"].to(torch.float8_e8m0fnu)
    return found | {"weight_scale_inv": scale}


def gptq_8(weight):
    """GPTQ with 8 bits and groups in the order of activations."""
    inputs = weight.T.reshape(-1, 16, weight.shape[0])
    scale = (inputs.abs().amax(1) / 127).to(torch.float16)
    codes = (inputs / scale.float()[:, None] + 128).round().clamp(0, 255).reshape(weight.T.shape)
    words = codes.to(torch.int64).reshape(-1, 4, weight.shape[0])
    bits = (words << (8 * torch.arange(4))[:, None]).sum(1)
    zeros = torch.full((len(scale), weight.shape[0] // 4), 0x7F7F7F7F)
    return {
        "qweight": torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32),
        "qzeros": zeros.to(torch.int32),
        "scales": scale,
        "g_idx": (torch.arange(len(codes)) // 16).flip(0).to(torch.int32),
    }


MORE = {
    "fp8 blocks of powers of two": (blocks_e8m0, quantised.FORMATS["fp8 blocks"].config),
    "gptq 8": (gptq_8, quantised.FORMATS["gptq"].config | {"bits": 8, "sym": True}),
    "int8 packed": (
        quantised.compressed(
            "pack-quantized", num_bits=8, type="int", strategy="group", group_size=32
        ),
        quantised.ct_config(
            "pack-quantized", num_bits=8, type="int", strategy="group", group_size=32
        ),
    ),
    "int8 with zero points": (
        quantised.compressed(
            "int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False
        ),
        quantised.ct_config(
            "int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False
        ),
    ),
}
FORMS = {name: (form.compress, form.config) for name, form in quantised.FORMATS.items()} | MORE
SHAPES = [(64, 64), (96, 32), (16, 160)]


def parts(name, shape, seed=3):
    compress, config = FORMS[name]
    torch.manual_seed(seed)
    found = compress(torch.randn(shape) * 0.02)
    return {f"a.{part}": tensor.detach() for part, tensor in found.items()}, [config]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMS)
def test_numbers_that_stay_leave_every_byte_as_it_is(name, shape):
    tensors, config = parts(name, shape)
    for level in (0, 65535):
        making = Making(level=level)
        new = put_back(tensors, config, making)
        for part, tensor in tensors.items():
            old_bytes = tensor.contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(new[part].contiguous().reshape(-1).view(torch.uint8), old_bytes)
        old, same = making.all()
        assert np.array_equal(old, plain(tensors, config).numpy().ravel())
        assert np.array_equal(old, same)


@pytest.mark.parametrize("name", FORMS)
def test_every_code_there_is_stays_where_its_number_does(name):
    tensors, config = parts(name, (64, 128))
    values = next(part for part in tensors if part.endswith(("qweight", "packed", "a.weight")))
    generator = torch.Generator().manual_seed(5)
    size = tensors[values].element_size() * tensors[values].numel()
    codes = torch.randint(0, 256, (size,), generator=generator).to(torch.uint8)
    tensors[values] = codes.view(tensors[values].dtype).reshape(tensors[values].shape)
    new = put_back(tensors, config, Making(level=65535))
    assert torch.equal(new[values].view(torch.uint8), tensors[values].view(torch.uint8))


def neighbours(tensors, config, wanted):
    """For numbers, the nearest below and above that any codes of their scales stand for."""
    values = next(part for part in tensors if part.endswith(("qweight", "packed", "a.weight")))
    found = []
    for code in range(256):
        byte = code if tensors[values].dtype not in (torch.int32, torch.uint8) else None
        if byte is None and code > 15 and not _is_8(config):
            break
        fill = code if byte is not None or _is_8(config) else code * 17
        same = torch.full((tensors[values].element_size() * tensors[values].numel(),), fill)
        as_stored = same.to(torch.uint8).view(tensors[values].dtype)
        every = tensors | {values: as_stored.reshape(tensors[values].shape)}
        found.append(plain(every, config).numpy().ravel().astype(np.float64))
    grid = np.stack(found)
    grid[~np.isfinite(grid)] = np.inf
    below = np.where(grid <= wanted, grid, -np.inf).max(0)
    above = np.where((grid >= wanted) & np.isfinite(grid), grid, np.inf).min(0)
    return below, above


def _is_8(config):
    return any(table.get("bits") == 8 or "'num_bits': 8" in str(table) for table in config)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_stored_is_a_neighbour_of_the_number_and_the_nearer_more_often(name):
    tensors, config = parts(name, (32, 64))
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 0.004, 32 * 64).astype(np.float32)
    making = Making(lambda old, start: noise[start : start + old.size])
    new = put_back(tensors, config, making)
    old, made = making.all()
    assert np.array_equal(plain(new, config).numpy().ravel(), made)
    wanted = (old + noise).astype(np.float64)
    below, above = neighbours(tensors, config, wanted)
    # Products of codes and scales are rounded to float32, by 2**-24 of them.
    slack = np.abs(wanted) * 2.0**-22
    inside = np.isfinite(below) & np.isfinite(above)
    assert inside.mean() > 0.9
    is_low, is_high = (np.abs(made - side) <= slack for side in (below, above))
    assert (is_low | is_high)[inside].all()
    # Beyond the ends of the grid, the end.
    assert (is_high | np.isfinite(below))[~inside].all()
    assert (is_low | np.isfinite(above))[~inside].all()
    between = inside & (above > below)
    chance = np.full(wanted.size, 0.5)
    chance[between] = ((wanted - below)[between]) / (above - below)[between]
    far = np.abs(chance - 0.5) > 0.3
    assert np.mean(is_high[far] == (chance[far] > 0.5)) > 0.8


@pytest.mark.parametrize("name", FORMS)
def test_the_mean_over_all_draws_is_the_number_itself(name):
    """Over every 256th draw: a side has its share to within one, and nothing is by chance."""
    tensors, config = parts(name, (16, 64))
    noise = np.random.default_rng(2).normal(0, 0.0005, 16 * 64).astype(np.float32)
    total = np.zeros(16 * 64)
    spread = np.zeros((2, 16 * 64)) + np.array([[np.inf], [-np.inf]])
    levels = range(128, 65536, 256)
    for level in levels:
        making = Making(lambda old, start: noise[start : start + old.size], level=level)
        put_back(tensors, config, making)
        old, made = making.all()
        total += made
        spread[0], spread[1] = np.minimum(spread[0], made), np.maximum(spread[1], made)
    wanted = (old + noise).astype(np.float64)
    # Not where the grid ends, beyond which the mean is its end.
    inside = (spread[0] <= wanted) & (wanted <= spread[1])
    assert inside.mean() > 0.9
    step = spread[1] - spread[0]
    error = np.abs(total / len(levels) - wanted)[inside]
    assert (error <= step[inside] / len(levels) + np.abs(wanted[inside]) * 2.0**-22).all()
    moved = np.abs(noise)[inside]
    assert error.mean() < 0.05 * moved.mean()


CT = [name for name, (_, config) in FORMS.items() if "config_groups" in config]


@pytest.mark.parametrize("name", CT)
def test_compressed_tensors_reads_what_was_put_back(name):
    tensors, config = parts(name, (64, 64))
    noise = np.random.default_rng(3).normal(0, 0.002, 64 * 64).astype(np.float32)
    making = Making(lambda old, start: noise[start : start + old.size])
    new = put_back(tensors, config, making)
    group = config[0]["config_groups"]["group_0"]
    compressor = BaseCompressor.get_value_from_registry(group["format"])
    state = {part.removeprefix("a."): tensor.clone() for part, tensor in new.items()}
    expected = compressor.decompress(state, QuantizationScheme(**group))["weight"].detach()
    made = torch.from_numpy(making.all()[1]).reshape(64, 64)
    assert torch.equal(made.to(expected.dtype), expected)
    assert not torch.equal(made, plain(tensors, config))


@pytest.mark.parametrize("name", ["fp8 blocks", "fp8 channel", "int4", "nvfp4", "mxfp4 ct"])
def test_some_rows_are_put_back_as_in_the_whole(name):
    tensors, config = parts(name, (64, 64))
    noise = np.random.default_rng(3).normal(0, 0.002, 64 * 64).astype(np.float32)
    whole = put_back(
        tensors, config, Making(lambda old, start: noise[start : start + old.size], level=9)
    )
    after = noise[8 * 64 :]
    rows = put_back(
        tensors, config, Making(lambda old, start: after[start : start + old.size], level=9),
        rows=(8, 41),
    )  # fmt: skip
    values = "a.weight_packed" if "a.weight_packed" in tensors else "a.weight"
    assert torch.equal(rows[values].view(torch.uint8), whole[values][8:41].view(torch.uint8))


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_rows_across_others_are_refused(name):
    tensors, config = parts(name, (64, 64))
    with pytest.raises(ValueError, match="rows 0 to 1 lie across others"):
        put_back(tensors, config, Making(), rows=(0, 1))


@pytest.mark.parametrize("shape", [(3, 24, 2, 16), (2, 200, 6, 16)])
def test_packed_experts_are_put_back_each_on_its_own(shape):
    """As gpt-oss stores them: turned, and in bands where an expert is large."""
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    scales = torch.randint(118, 121, shape[:-1], generator=generator).to(torch.uint8)
    tensors = {"e.up_proj_blocks": blocks, "e.up_proj_scales": scales}
    old = plain(tensors)
    noise = np.random.default_rng(1).normal(0, 0.001, old.numel()).astype(np.float32)
    making = Making(lambda block, start: noise[start : start + block.size])
    new = put_back(tensors, [], making)
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    found = convert_moe_packed_tensors(new["e.up_proj_blocks"], scales, dtype=torch.float32)
    assert np.array_equal(found.numpy().ravel(), making.all()[1])
    assert np.array_equal(old.numpy().ravel(), making.all()[0])
    one = put_back(
        tensors, [], Making(lambda block, start: noise[start : start + block.size]), rows=(0, 1)
    )
    assert torch.equal(one["e.up_proj_blocks"], new["e.up_proj_blocks"][:1])
    moved = (found - old).abs()
    assert 0 < (moved > 0).float().mean() < 0.9


def test_large_weights_are_put_back_in_bands_with_the_same_bytes(monkeypatch):
    tensors, config = parts("fp8 blocks", (512, 256))
    assert REQUANTIZED < 512 * 256
    noise = np.random.default_rng(1).normal(0, 0.001, 512 * 256).astype(np.float32)

    def done():
        making = Making(lambda old, start: noise[start : start + old.size])
        return put_back(tensors, config, making)["a.weight"].view(torch.uint8)

    at_once = done()
    monkeypatch.setattr("moegrow.quant.codec.REQUANTIZED", 1024)
    assert torch.equal(done(), at_once)


def test_what_is_no_number_and_what_has_no_scale_stays():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(16, 16)
    scale = torch.ones(16, 1)
    scale[3:5] = 0
    scale[7], scale[8] = torch.nan, torch.inf
    tensors = {"a.weight": codes, "a.weight_scale": scale}
    with np.errstate(invalid="ignore"):
        new = put_back(tensors, [], Making(lambda old, start: 0.3, level=0))["a.weight"]
    nan = codes.float().isnan()
    assert torch.equal(new.view(torch.uint8)[nan], codes.view(torch.uint8)[nan])
    for row in (3, 4, 7, 8):
        assert torch.equal(new[row].view(torch.uint8), codes[row].view(torch.uint8))
    assert not torch.equal(new[1].view(torch.uint8), codes[1].view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_beyond_the_largest_number_comes_the_largest_and_never_what_is_none(dtype):
    largest = torch.finfo(dtype).max
    codes = torch.full((4, 16), largest).to(dtype)
    codes[2:] = -codes[2:].float()
    tensors = {"a.weight": codes, "a.weight_scale": torch.tensor(1.0)}
    for level in (0, 65535):
        making = Making(lambda old, start: np.sign(old) * 0.2 * largest, level=level)
        new = put_back(tensors, [], making)["a.weight"].float()
        assert torch.equal(new, codes.float())
