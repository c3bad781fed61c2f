"""What is said of noise after rounding, held against the files and against torch."""

import subprocess
from fractions import Fraction

import alter
import numpy as np
import pytest
import terminals
import tiny
import torch
from conftest import MOEGROW

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.families.read_layout import read_layout
from moegrow.growth import Noise
from moegrow.kernels.measure_noise import SAMPLE, measure, note
from moegrow.kernels.noise import CHUNK, Draw
from moegrow.kernels.perturb import Change, Workspace
from moegrow.planning import quantised_noise
from moegrow.planning.noise_forecast import on_floats
from moegrow.planning.noise_stats import NoiseStats, kind_of
from moegrow.planning.plan import Piece

EXPERT = "model.layers.*.mlp.experts.*.up_proj.weight"


def grown(source, tmp_path, **settings):
    plan = moegrow.width(source, **settings)
    return plan, moegrow.apply(plan, tmp_path / "grown", threads=2)


def by_hand(plan, source, folder, kind, amount):
    """The share unchanged and the ratio of all copies of a kind, by torch from the files."""
    old, new = tiny.tensors(source), tiny.tensors(folder)
    unchanged = values = found = asked = 0
    for output in plan.outputs:
        if kind_of(output.name) != kind:
            continue
        row = 0
        for piece in output.pieces:
            size = piece.stop - piece.start
            if piece.noise:
                before = old[piece.source][piece.start : piece.stop].double()
                after = new[output.name][row : row + size].double()
                values += before.numel()
                unchanged += int((before == after).sum())
                found += float(((after - before) ** 2).sum())
                asked += before.numel() * float(amount * before.std(correction=0)) ** 2
            row += size
    return unchanged / values, (found / asked) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("qwen3_moe", EXPERT),
        ("qwen3_moe", "model.layers.*.mlp.gate.weight"),
        ("gpt_oss", "model.layers.*.mlp.experts.down_proj"),
    ],
)
def test_what_is_measured_is_what_stands_in_the_files(checkpoint, tmp_path, dtype, family, kind):
    source = checkpoint(family, dtype=dtype)
    plan, written = grown(source, tmp_path, noise=0.01)
    measured = written.moved.realised[kind]
    share, ratio = by_hand(plan, source, tmp_path / "grown", kind, 0.01)
    assert measured.share_unchanged == pytest.approx(share, abs=1e-12)
    assert measured.ratio == pytest.approx(ratio, rel=1e-5)
    again = moegrow.verify(tmp_path / "grown").realised[kind]
    assert (again.values, again.unchanged) == (measured.values, measured.unchanged)
    assert again.ratio == pytest.approx(measured.ratio)


@pytest.mark.parametrize("family", ["granitemoe", "llama4_text", "dbrx"])
def test_joined_scaled_and_uniform_pieces_are_measured_too(checkpoint, tmp_path, family):
    plan, written = grown(checkpoint(family, dtype=torch.bfloat16), tmp_path, noise=0.05)
    noised = {
        kind_of(output.name)
        for output in plan.outputs
        if any(piece.noise and piece.noise.amount for piece in output.pieces)
    }
    assert noised == written.moved.realised.keys()
    for realised in written.moved.realised.values():
        assert realised.values > 0
        assert realised.ratio == pytest.approx(1, abs=0.2)


def test_uniform_noise_is_compared_with_its_own_size(checkpoint, tmp_path):
    _, written = grown(checkpoint("qwen3_moe"), tmp_path, preset="upcycling")
    ratio = written.moved.realised["model.layers.*.mlp.gate.weight"].ratio
    assert ratio == pytest.approx(1, abs=0.15)


def test_nothing_is_said_where_there_is_no_noise(checkpoint, tmp_path):
    _, written = grown(checkpoint("qwen3_moe"), tmp_path, noise=0, router="copy")
    assert written.moved.realised == {}


def test_only_the_first_values_of_a_piece_are_counted():
    noise = Noise("normal", 0.01, 0)
    old = torch.randn(2 * CHUNK).to(torch.bfloat16).view(torch.uint8).numpy().copy()
    new, workspace = np.empty_like(old), Workspace()
    made = Change("BF16", Piece("", 0, 1, noise), Draw(noise, "a", 0), 0.01, workspace)
    made.apply(old, 0, new)
    note(workspace, "a.1.b", made, CHUNK, old, new)
    assert workspace.realised == {}
    note(workspace, "a.1.b", made, 0, old, new)
    note(workspace, "a.2.b", made, 0, old[:100], new[:100])
    assert workspace.realised["a.*.b"].values == SAMPLE + 50


def test_the_scale_that_compensates_is_no_noise():
    noise = Noise("normal", 0.01, 0)
    old = torch.randn(SAMPLE).view(torch.uint8).numpy().copy()
    piece = Piece("", 0, 1, noise, Fraction(1, 2))
    new, workspace = np.empty_like(old), Workspace()
    made = Change("F32", piece, Draw(noise, "a", 0), 0.01, workspace)
    made.apply(old, 0, new)
    assert measure(made, old, new, workspace).ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("amount", [1e-4, 1e-3, 1e-2, 5e-2])
def test_what_is_foretold_is_what_torch_finds(dtype, amount):
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
    generator = torch.Generator().manual_seed(1)
    weights = (torch.randn(1 << 18, generator=generator) * 0.02).to(kind)
    asked = torch.randn(weights.shape, generator=generator) * amount * 0.02
    moved = (weights.float() + asked).to(kind)
    found = on_floats(dtype, amount)
    assert found.share_unchanged == pytest.approx(
        float((moved == weights).double().mean()), abs=0.02
    )
    ratio = float((moved.double() - weights.double()).std() / (amount * 0.02))
    assert found.ratio == pytest.approx(ratio, rel=0.06)


def test_a_person_is_warned_of_noise_that_will_be_lost_and_sees_that_it_was(
    run, checkpoint, tmp_path
):
    source = checkpoint("qwen3_moe", dtype=torch.bfloat16)
    said = run("width", source, "--noise", "1e-4", "-o", tmp_path / "lost").stderr
    assert "noise of 0.0001 sigma is mostly lost in BF16: 98% of the values will stay" in said
    shown = [line.split() for line in said.splitlines() if line.startswith(EXPERT)]
    assert len(shown) == 1
    _, share, percent, ratio = shown[0]
    assert percent == "%"
    assert float(share) > 90
    assert float(ratio) < 0.6
    assert f"{EXPERT} " in run("verify", "--noise", tmp_path / "lost").stderr
    assert EXPERT not in run("verify", tmp_path / "lost").stderr
    assert "the noise was mostly lost in all of these" in said
    assert "--rounding stochastic keeps it" in said
    kept = run("width", source, "--noise", "0.01", "-o", tmp_path / "kept").stderr
    assert "lost" not in kept


def test_a_log_has_names_of_any_length_and_so_has_a_narrow_terminal(checkpoint, tmp_path):
    source = checkpoint("minimax_m3_vl", dtype=torch.bfloat16)
    kind = "language_model.model.layers.*.block_sparse_moe.experts.*.w1.weight"
    command = [*MOEGROW, "width", source, "-o"]
    done = subprocess.run([*command, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert f"\n{kind} " in done.stderr
    said = terminals.printed(*command, tmp_path / "b", columns=60, stream="stderr")
    assert "realised" in said
    assert "…" not in said


def test_noise_that_is_not_there_is_said_to_be_none(run, checkpoint, tmp_path):
    run("depth", checkpoint(), "-o", "deep", "-q")
    assert "no noise: the plan asks for none" in run("verify", "deep", "--noise").stderr
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for tensor in tensors.values():
            tensor.zero_()
    run("width", source, "-o", "wide", "-q")
    assert (
        "no noise: all values of what was copied are the same"
        in run("verify", "wide", "--noise").stderr
    )
    source.rename(tmp_path / "moved")
    assert "no noise is shown: the source is gone" in run("verify", "wide", "--noise").stderr


def test_noise_that_is_kept_is_no_reason_for_a_warning(checkpoint):
    for source, noise in [
        (checkpoint("qwen3_moe", dtype=torch.bfloat16), 0.01), (checkpoint("qwen3_moe"), 1e-5),
    ]:  # fmt: skip
        layout = read_layout(open_checkpoint(source))
        assert [*quantised_noise.warnings(moegrow.width(source, noise=noise), layout)] == []


def test_nothing_found_is_no_share_of_anything():
    assert NoiseStats().share_unchanged == NoiseStats().ratio == 0
