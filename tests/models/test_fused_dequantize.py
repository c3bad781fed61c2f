"""bf16 weights made straight from codes: the same bytes as by decoding and rounding, one by one."""

import numpy as np
import pytest
import quantised
import torch
from quantised import FORMATS
from test_dequantize import Stored, bytes_of

from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.kernels import fused_dequantize
from moegrow.kernels.cast import Conversion
from moegrow.kernels.noise import Draw
from moegrow.kernels.perturb import Workspace
from moegrow.quant.dequantize import decoded
from moegrow.quant.detect import find_quantised

compiled = pytest.importorskip("moegrow.kernels.numba_weights")


def made(tensors, config=(), rows=None):
    """The one weight that the tensors make up as bf16: by numpy alone, and straight."""
    stored = Stored({f"a.{part}": tensor for part, tensor in tensors.items()})
    (weight,) = find_quantised(stored, config).weights.values()
    assert not weight.problem
    of = stored.tensors[weight.values], weight.decoding, stored.tensors, stored.read
    rows = rows or (0, weight.shape[0])
    conversion = Conversion("a", "F32", "BF16", Workspace())
    blocks = [conversion.stored(block.view(np.uint8)) for block in decoded(*of, rows)]
    loops = fused_dequantize.loops(Workspace(compiled))
    found = fused_dequantize.weights(loops, *of, rows)
    if found is None:
        return np.concatenate(blocks), None
    return np.concatenate(blocks), np.concatenate([block.copy() for block in found])


FAST = ["fp8 blocks", "fp8 tensor", "fp8 channel", "fp8 ct blocks", "int8 channel", "int4",
        "int4 with zero points", "nvfp4", "mxfp4 ct", "modelopt fp8", "modelopt nvfp4"]  # fmt: skip


@pytest.mark.parametrize("rows", [None, (8, 24)])
@pytest.mark.parametrize("shape", [(64, 1024), (96, 544), (512, 2560)])
@pytest.mark.parametrize("name", FAST)
def test_weights_are_the_same_straight_and_by_way_of_numbers(name, shape, rows):
    torch.manual_seed(1)
    form = FORMATS[name]
    tensors = form.compress(torch.randn(shape))
    slow, fast = made(tensors, [form.config], rows)
    # Small blocks are left to numpy.
    assert (fast is None) == (name in ("fp8 blocks", "fp8 ct blocks"))
    assert fast is None or np.array_equal(slow, fast)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_code_in_blocks_of_odd_sizes(dtype):
    """Blocks at the edges are smaller, codes are NaN and infinity too, scales are of any size."""
    torch.manual_seed(2)
    codes = torch.randint(0, 256, (150, 321), dtype=torch.uint8).view(dtype)
    scale = torch.randn(3, 6) * 10.0 ** torch.randint(-38, 38, (3, 6))
    scale[0, 1], scale[1, 2], scale[2, 0] = float("nan"), float("inf"), 0
    config = [{"weight_block_size": [64, 64]}]
    slow, fast = made({"weight": codes, "weight_scale_inv": scale}, config)
    assert np.array_equal(slow, fast)
    slow, fast = made({"weight": codes, "weight_scale_inv": scale}, config, (63, 129))
    assert np.array_equal(slow, fast)


@pytest.mark.parametrize("rows", [64, 80, 200])
@pytest.mark.parametrize("scales", [(0, 256), (118, 130)])
def test_packed_experts_are_turned_on_the_way(rows, scales):
    torch.manual_seed(3)
    blocks = torch.randint(0, 256, (3, rows, 5, 16)).to(torch.uint8)
    scales = torch.randint(*scales, (3, rows, 5)).to(torch.uint8)
    named = {"up_proj_blocks": blocks, "up_proj_scales": scales}
    for part in (None, (1, 2)):
        slow, fast = made(named, rows=part)
        assert np.array_equal(slow, fast)


def test_a_large_matrix_is_made_in_bands(monkeypatch):
    monkeypatch.setattr(fused_dequantize, "BAND", 1 << 10)
    for name in ("int4", "fp8 channel"):
        slow, fast = made(FORMATS[name].compress(torch.randn(64, 1024)), [FORMATS[name].config])
        assert np.array_equal(slow, fast)
    blocks = torch.randint(0, 256, (2, 48, 5, 16)).to(torch.uint8)
    scales = torch.randint(118, 130, (2, 48, 5)).to(torch.uint8)
    slow, fast = made({"up_proj_blocks": blocks, "up_proj_scales": scales})
    assert np.array_equal(slow, fast)


def test_scales_of_every_value_of_a_byte_for_gptq_are_left_to_numpy():
    form = FORMATS["gptq"]
    _, fast = made(quantised.gptq(torch.randn(64, 64)), [form.config])
    assert fast is None


def test_numbers_are_rounded_as_numpy_rounds_them():
    bits = torch.randint(-(2**31), 2**31, (300_000,), dtype=torch.int64).to(torch.int32)
    values = torch.cat([bits.view(torch.float32), torch.tensor([float("nan"), float("-inf")])])
    for some in (values, values[values.isfinite()]):
        slow, fast = (
            Conversion("a", "F32", "BF16", workspace).stored(bytes_of(some))
            for workspace in (Workspace(), Workspace(compiled))
        )
        assert np.array_equal(slow, fast)


def test_numbers_are_rounded_to_float16_as_numpy_rounds_them():
    generator = torch.Generator().manual_seed(4)
    bits = torch.randint(-(2**31), 2**31, (300_000,), generator=generator, dtype=torch.int64)
    # All numbers of fewer bits, those in the middle of two of float16, and both their neighbours.
    short = torch.arange(-(2**18), 2**18) << 13
    middle = short + 0x1000
    bits = torch.cat([bits, short, middle, middle - 1, middle + 1]).to(torch.int32)
    values = bits.view(torch.float32)
    small = values[values.abs() < 65520]
    assert len(small) > 1e6
    infinite = values[(values.abs() < 65520) | values.isinf() | values.isnan()]
    for some in (small, infinite):
        slow, fast = (
            Conversion("a", "F32", "F16", workspace).stored(bytes_of(some))
            for workspace in (Workspace(), Workspace(compiled))
        )
        assert np.array_equal(slow, fast)
    assert torch.equal(torch.from_numpy(slow).view(torch.float16).isinf(), infinite.isinf())


def test_what_float16_cannot_hold_is_refused_with_the_loops_too():
    for fine, bad in ((65519.996, 65520.0), (-65519.996, -65520.0)):
        conversion = Conversion("a", "F32", "F16", Workspace(compiled))
        stored = conversion.stored(bytes_of(torch.tensor([0.0, fine])))
        assert torch.from_numpy(stored).view(torch.float16).abs().tolist() == [0, 65504]
        with pytest.raises(MoegrowError, match="which is too large for F16"):
            conversion.stored(bytes_of(torch.tensor([0.0, bad])))


def test_numbers_are_rounded_as_a_draw_decides_with_and_without_the_loops():
    values = bytes_of(torch.randn(70_000))
    side = Draw(Noise("normal", 0.01, 7, "stochastic"), "a", 0, "rounding")
    plain, slow, fast = (
        Conversion("a", "F32", "BF16", workspace).stored(values, drawn)
        for workspace, drawn in [
            (Workspace(), None),
            (Workspace(), side),
            (Workspace(compiled), side),
        ]
    )
    assert np.array_equal(slow, fast)
    assert not np.array_equal(slow, plain)
