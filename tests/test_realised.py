"""What is said of the noise is what the tensors of source and result have."""

import json

import pytest
import tiny
import torch

import moegrow
from moegrow.checkpoint import open_checkpoint
from moegrow.realised import MOST_PIECES, realised


def measured(source, folder, **options):
    plan = moegrow.width(source, **options)
    moegrow.apply(plan, folder)
    return plan, realised(plan, open_checkpoint(source), open_checkpoint(folder))


@pytest.mark.parametrize(
    ("dtype", "noise", "unchanged"),
    [
        (torch.float32, 0.01, (0, 0.001)),
        (torch.bfloat16, 0.01, (0.14, 0.21)),
        (torch.bfloat16, 1e-3, (0.73, 0.82)),
        (torch.float16, 0.05, (0, 0.02)),
    ],
)
def test_the_numbers_are_those_of_the_method(checkpoint, tmp_path, dtype, noise, unchanged):
    _, (found,) = measured(checkpoint(dtype=dtype), tmp_path / "grown", noise=noise)
    assert unchanged[0] <= found.unchanged <= unchanged[1]
    assert found.asked == noise
    low = 0.75 if noise < 0.01 else 0.97
    assert low * noise < found.realised < 1.05 * noise


def test_it_is_measured_on_the_tensors_themselves(checkpoint, tmp_path):
    source = checkpoint(dtype=torch.bfloat16, num_hidden_layers=1)
    plan, (found,) = measured(source, tmp_path / "grown", experts=5, router="copy")
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    noise, wanted, same, entries = 0.0, 0.0, 0, 0
    for output in plan.outputs:
        (piece, *others) = output.pieces
        if piece.noise and not others:
            before, after = old[piece.source].double(), new[output.name].double()
            noise += float((after - before).square().sum())
            wanted += before.numel() * float(before.var(correction=0))
            same += int((after == before).sum())
            entries += before.numel()
    assert found.measured == found.pieces == 3
    assert found.unchanged == pytest.approx(same / entries)
    assert found.realised == pytest.approx((noise / wanted) ** 0.5)


def test_uniform_noise_is_measured_by_its_bound(checkpoint, tmp_path):
    _, (found,) = measured(checkpoint(), tmp_path / "grown", preset="upcycling")
    assert found.kind == "uniform"
    assert 0.0009 < found.realised < 0.0011


def test_many_pieces_are_measured_on_some(checkpoint, tmp_path):
    _, (found,) = measured(checkpoint(), tmp_path / "grown", experts="4x")
    assert found.measured <= MOST_PIECES < found.pieces
    assert 0.0097 < found.realised < 0.0103


def test_growth_without_noise_has_nothing_to_measure(checkpoint, tmp_path):
    assert measured(checkpoint(), tmp_path / "grown", noise=0)[1] == ()


def test_the_summary_and_the_document_say_it(run, checkpoint):
    done = run("width", checkpoint(dtype=torch.bfloat16), "-o", "grown", "--json")
    (line,) = (line for line in done.stderr.splitlines() if "of the entries unchanged" in line)
    assert line.startswith("normal noise of 0.01 sigma became 0.01 in BF16, 1")
    assert json.loads(done.stdout)["noise"][0]["dtype"] == "BF16"
    assert "became" not in run("depth", checkpoint(), "-o", "deep").stderr
