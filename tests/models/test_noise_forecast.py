"""What is foretold of noise, held against noise that is drawn and rounded."""

import numpy as np
import pytest
import torch
from test_dequantize import Stored
from test_requantize import FORMS, Making, parts, put_back

from moegrow.checkpoint.header import nbytes
from moegrow.growth import Noise
from moegrow.kernels.measure_noise import SAMPLE, measure
from moegrow.kernels.noise import Draw, quantiles
from moegrow.kernels.perturb import Change, Workspace, exact
from moegrow.planning.noise_forecast import on_floats, on_weight
from moegrow.planning.plan import Piece
from moegrow.quant.detect import find_quantised


@pytest.mark.parametrize(
    ("amount", "unchanged", "ratio"),
    [(1e-6, 1.0, 0.03), (1e-4, 0.976, 0.28), (1e-3, 0.775, 0.82), (1e-2, 0.175, 1.01),
     (5e-2, 0.036, 1.00)],
)  # fmt: skip
def test_bfloat16_is_foretold_as_the_method_has_measured_it(amount, unchanged, ratio):
    found = on_floats("BF16", amount)
    assert found.share_unchanged == pytest.approx(unchanged, abs=2e-3)
    assert found.ratio == pytest.approx(ratio, abs=0.01)


def drawn_on(dtype, amount):
    """What becomes of noise that is drawn on normal weights of σ 0.02."""
    workspace, noise = Workspace(), Noise("normal", amount, 0)
    # Values of the table in an order that has nothing to do with that in which they are drawn.
    weights = np.random.Generator(np.random.Philox(0)).permutation(quantiles())[:SAMPLE]
    stored, new = np.empty((2, nbytes(dtype, weights.shape)), np.uint8)
    plain = Change(dtype, Piece("", 0, 1), None, 0.0, workspace)
    plain.store((weights * np.float32(0.02)).astype(exact(dtype)), stored)
    made = Change(dtype, Piece("", 0, 1, noise), Draw(noise, "", 0), amount * 0.02, workspace)
    made.apply(stored, 0, new)
    return measure(made, stored, new, workspace)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("amount", [1e-6, 1e-3, 0.02, 0.5])
def test_plain_floats_are_foretold_as_by_drawing_on_them(dtype, amount):
    found, drawn = on_floats(dtype, amount), drawn_on(dtype, amount)
    assert found.share_unchanged == pytest.approx(drawn.share_unchanged, abs=0.02)
    assert found.ratio == pytest.approx(drawn.ratio, abs=0.05)


def foretold(tensors, config, amount, *, by_draw):
    stored = Stored(tensors)
    (weight,) = find_quantised(stored, config).weights.values()
    spec = stored.tensors[weight.values]
    return on_weight(
        spec, weight.decoding, stored.tensors, amount,
        by_draw=by_draw, is_symmetric=weight.is_symmetric,
    )  # fmt: skip


@pytest.mark.parametrize(("amount", "unchanged", "ratio"), [(0.01, 0.85, 0.68), (0.05, 0.46, 1.05)])
def test_fp8_in_blocks_is_foretold_as_the_method_has_measured_it(amount, unchanged, ratio):
    tensors = {
        "a.weight": torch.zeros(256, 256).to(torch.float8_e4m3fn),
        "a.weight_scale_inv": torch.ones(2, 2),
    }
    config = [{"weight_block_size": [128, 128]}]
    found = foretold(tensors, config, amount, by_draw=False)
    assert found.share_unchanged == pytest.approx(unchanged, abs=0.01)
    assert found.ratio == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("amount", [0.01, 0.1])
@pytest.mark.parametrize("by_draw", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_quantised_weights_are_foretold_as_by_drawing_on_them(name, by_draw, amount):
    """Weights that the library of the format has quantised, enough to tell within some percent."""
    tensors, config = parts(name, (256, 512))
    count = 256 * 512
    noise = np.random.default_rng(5).normal(0, amount * 0.02, count).astype(np.float32)
    making = Making(
        lambda old, start: noise[start : start + old.size], level=None if by_draw else 32767
    )
    put_back(tensors, config, making)
    old, new = making.all()
    moved = (new.astype(np.float64) - old) / old.std()
    found = foretold(tensors, config, amount, by_draw=by_draw)
    unchanged = float((moved == 0).mean())
    assert found.share_unchanged == pytest.approx(unchanged, abs=0.02 + 0.1 * (1 - unchanged))
    ratio = float(np.sqrt((moved**2).mean())) / amount
    assert found.ratio == pytest.approx(ratio, rel=0.12, abs=0.03)
    if by_draw:
        old, new = old.astype(np.float64), new.astype(np.float64)
        growth = ((new**2).mean() - (old**2).mean()) / old.var()
        assert found.growth * amount**2 == pytest.approx(growth, rel=0.1, abs=4e-3)
