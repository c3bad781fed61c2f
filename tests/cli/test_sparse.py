"""Checkpoints of Kimi-K2's shape, made of holes: grown like any other, their scales included."""

import hashlib
import os
from pathlib import Path

import pytest
from benchmarks import sparse

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.families.registry import find_family
from moegrow.families.tensor_names import locator

SMALL = sparse.Shapes(
    layers=6, experts=16, top_k=2, hidden=256, expert_size=128, dense_size=384, heads=2,
    q_rank=64, kv_rank=32, head=64, rotary=32, vocabulary=512,
)  # fmt: skip


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "kimi-k2"
    sparse.kimi_k2(folder, SMALL)
    return folder


def read(checkpoint, spec):
    with (Path(checkpoint.location) / spec.file).open("rb") as file:
        file.seek(spec.start)
        return file.read(spec.stop - spec.start)


def mark(checkpoint):
    """Write something of its own at both ends of every tensor."""
    for spec in checkpoint.tensors.values():
        own = hashlib.sha256(spec.name.encode()).digest()[: spec.stop - spec.start]
        with (Path(checkpoint.location) / spec.file).open("rb+") as file:
            for place in (spec.start, spec.stop - len(own)):
                file.seek(place)
                file.write(own)


def test_the_published_shapes_have_the_published_number_of_tensors(tmp_path):
    folder = tmp_path / "kimi-k2"
    assert sparse.kimi_k2(folder) == 139_644
    files = list(folder.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) > 10**12
    assert sum(os.stat(file).st_blocks * 512 for file in files) < 10**8


def test_weights_and_their_scales_are_grown_together(source, run, tmp_path):
    mark(open_checkpoint(source))
    plan = run("depth", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    assert moegrow.verify(tmp_path / "grown").ok
    old, new = open_checkpoint(source), open_checkpoint(tmp_path / "grown")
    originals = {name: read(old, spec) for name, spec in old.tensors.items()}
    assert len(set(originals.values())) == len(originals)
    locate = locator(find_family("kimi_k2"))
    for name, spec in new.tensors.items():
        place = locate(name)
        if place is None:
            expected = originals[name]
        else:
            expert = "" if place.expert is None else place.expert % SMALL.experts
            begin = f"{place.stack}{place.layer // 2}{place.before}"
            expected = originals[f"{begin}{expert}{place.after}"]
            expected *= 2 if place.role in ("router", "balance_bias") else 1
        assert read(new, spec) == expected
    assert len(new.tensors) == 3 + 2 * (len(old.tensors) - 3 + 5 * SMALL.experts * 6)


def test_noise_on_weights_with_scales_is_refused(source, run):
    done = run("width", source, "--plan", code=1)
    assert "on experts in fp8 with block scales is mostly lost" in done.stderr
    assert "85.6 % of the values stay as they are" in done.stderr
    for way in ("--experts-dtype bf16", "--rounding stochastic", "--noise 0"):
        assert f"\n  {way}  " in done.stderr
