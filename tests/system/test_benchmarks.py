"""The benchmark compares what is equal: its source is a checkpoint, and its peers grow it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from benchmarks import dequantise, peers, synthetic

import moegrow

FOLDER = Path(peers.__file__).parent
SMALL = synthetic.Shapes(
    layers=2, experts=4, top_k=2, hidden=64, expert_size=32, heads=4, kv_heads=2, head=16,
    vocabulary=128,
)  # fmt: skip


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SHARD", 60_000)
    synthetic.make(tmp_path / "source", SMALL)
    return tmp_path / "source"


def test_the_source_loads_and_its_weights_have_the_deviation_of_new_models(source):
    tiny.load(source)
    tensors = tiny.tensors(source)
    assert len(list(source.glob("*.safetensors"))) > 1
    assert sum(tensor.nbytes for tensor in tensors.values()) == SMALL.nbytes
    assert float(tensors["lm_head.weight"].float().std()) == pytest.approx(
        synthetic.SIGMA, rel=0.05
    )
    assert bool((tensors["model.norm.weight"] == 1).all())


def test_the_bytes_of_results_are_those_that_moegrow_plans(source):
    deeper, wider = moegrow.depth(source), moegrow.width(source)
    assert SMALL.grown(deeper=True, wider=False) == deeper.nbytes
    assert SMALL.grown(deeper=False, wider=True) == wider.nbytes
    assert SMALL.grown(deeper=True, wider=True) == moegrow.width(deeper).nbytes


def test_a_size_gives_the_nearest_number_of_layers():
    assert synthetic.of_size(1) == synthetic.Shapes(1)
    assert synthetic.of_size(synthetic.Shapes(5).nbytes + 10**8) == synthetic.Shapes(5)


def test_load_repeat_save_makes_the_checkpoint_that_depth_makes(source, tmp_path):
    command = [sys.executable, FOLDER / "peers.py", "transformers", source, tmp_path / "theirs"]
    subprocess.run(command, check=True)
    moegrow.apply(moegrow.depth(source), tmp_path / "ours")
    theirs, ours = tiny.tensors(tmp_path / "theirs"), tiny.tensors(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    assert all(tiny.same_bytes(theirs[name], ours[name]) for name in ours)


def test_the_formula_makes_what_width_makes_but_for_the_draw(source, tmp_path):
    peers.noised_by_formula(source, tmp_path / "theirs")
    tiny.load(tmp_path / "theirs")
    moegrow.apply(moegrow.width(source), tmp_path / "ours")
    theirs, ours = tiny.tensors(tmp_path / "theirs"), tiny.tensors(tmp_path / "ours")
    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    old = tiny.tensors(source)["model.layers.1.mlp.experts.1.up_proj.weight"].float()
    for grown in (theirs, ours):
        new = grown["model.layers.1.mlp.experts.5.up_proj.weight"].float()
        assert float((new - old).std() / old.std()) == pytest.approx(0.01, rel=0.1)


def test_mergekit_is_told_to_repeat_every_layer_in_place():
    told = json.loads(peers.mergekit_config(Path("ckpt"), 2))
    ranges = [source["layer_range"] for part in told["slices"] for source in part["sources"]]
    assert ranges == [[0, 1], [0, 1], [1, 2], [1, 2]]
    assert told["dtype"] == str(torch.bfloat16).removeprefix("torch.")


@pytest.mark.parametrize(
    ("form", "dtype"), [("fp8", "bf16"), ("mxfp4", "bf16"), ("int4", "bf16"), ("bf16", "fp16")]
)
def test_the_loop_in_torch_writes_what_convert_writes(form, dtype, tmp_path, monkeypatch):
    for name, size in {"HIDDEN": 256, "SIZE": 96, "EXPERTS": 8, "WIDE": 64, "BLOCK": 128}.items():
        monkeypatch.setattr(dequantise, name, size)
    monkeypatch.setattr(dequantise, "PACKED_EXPERTS", 8)
    dequantise.make(form, tmp_path / "source", layers=2)
    dequantise.loop(tmp_path / "source", tmp_path / "theirs", dequantise.DTYPES[dtype])
    moegrow.apply(moegrow.convert(tmp_path / "source", dtype=dtype), tmp_path / "ours")
    theirs, ours = tiny.tensors(tmp_path / "theirs"), tiny.tensors(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    assert all(tiny.same_bytes(theirs[name], ours[name]) for name in ours)


def test_the_noise_is_measured_in_every_way():
    done = subprocess.run(
        [sys.executable, FOLDER / "kernel.py", "--rounds", "1", "--tensors", "2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [*map(json.loads, done.stdout.splitlines())]
    ways = {"moegrow", "moegrow, compiled", "the paper's formula in torch"}
    assert {row["by"] for row in rows} == ways
    assert all(row["million"] > 0 and row["ratio"] > 0 for row in rows)


def test_norms_are_measured_beside_cat_with_compiled_loops_and_without(
    source, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(FOLDER)  # as it is for a script in it
    looking = importlib.import_module("looking")
    runs = looking.measure(source, tmp_path, 2, cold=False)
    assert {len(measured) for measured in runs.values()} == {2}
    assert all(run.seconds > 0 for measured in runs.values() for run in measured)
    told = looking.table(runs, SMALL.nbytes)
    assert [line.split(" | ")[0] for line in told[4:]] == [f"| {way}" for way in runs]
    assert " 1.00 " in told[4]


def test_the_command_lines_of_the_benchmark_can_be_read():
    for program in (
        "growth.py",
        "kernel.py",
        "looking.py",
        "synthetic.py",
        "peers.py",
        "conversion.py",
        "dequantise.py",
    ):
        done = subprocess.run(
            [sys.executable, FOLDER / program, "--help"], capture_output=True, text=True, check=True
        )
        assert "usage" in done.stdout
