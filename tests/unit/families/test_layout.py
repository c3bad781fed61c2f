"""Layouts as values: memory comes back when nobody holds them any more."""

import gc
import json
import struct
import tracemalloc
import weakref

import pytest

import moegrow
from moegrow.families.quantisation import Quantisation
from moegrow.planning import build, model_size
from moegrow.planning.notices import notices
from moegrow.planning.open_source import check_kept, load

LAYERS, EXPERTS = 12, 32


def write(folder, *, quantised=False):
    """A Mixtral of thousands of small tensors in one file, with fp8 experts where `quantised`."""
    shapes = {"model.embed_tokens.weight": ("F32", [8, 4])}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes[f"{start}self_attn.o_proj.weight"] = "F32", [4, 4]
        shapes[f"{start}block_sparse_moe.gate.weight"] = "F32", [EXPERTS, 4]
        for expert in range(EXPERTS):
            for part in ("w1", "w2", "w3"):
                name = f"{start}block_sparse_moe.experts.{expert}.{part}.weight"
                shapes[name] = "F8_E4M3" if quantised else "F32", [4, 4]
                if quantised:
                    shapes[f"{name}_scale_inv"] = "F32", [1, 1]
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = shape[0] * shape[1] * (1 if dtype.startswith("F8") else 4)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    config = {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
        "num_hidden_layers": LAYERS, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
    }  # fmt: skip
    if quantised:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def looked_at(folder):
    """A source that was opened, grown on both axes, and asked for all that its layout knows."""
    opened = load(folder)
    plan, layout = opened
    check_kept(plan, layout)
    model_size.inspection(plan, layout)
    grown = moegrow.width(moegrow.depth(opened, times="2x"), experts="2x", noise=0)
    notices(build.spell_out(grown, layout), layout)
    model_size.grown_numbers(grown, layout)
    return opened


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "fp8"])
def test_nothing_keeps_a_layout_or_a_plan_alive(tmp_path, quantised):
    opened = looked_at(write(tmp_path / "source", quantised=quantised))
    kept = [
        weakref.ref(opened.layout),
        weakref.ref(opened.plan),
        weakref.ref(opened.layout.checkpoint),
    ]
    del opened
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def test_the_memory_of_a_checkpoint_is_given_back(tmp_path):
    source = write(tmp_path / "source", quantised=True)
    looked_at(source)  # fills what is kept for all checkpoints, such as families
    gc.collect()
    tracemalloc.start()
    try:
        opened = looked_at(source)
        held, _ = tracemalloc.get_traced_memory()
        del opened
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held > 1 << 20
    assert left < held / 10


def test_a_layout_finds_its_quantised_weights_once(tmp_path):
    layout = load(write(tmp_path / "source", quantised=True)).layout
    assert layout.quantised is layout.quantised
    assert len(layout.quantised.weights) == 3 * LAYERS * EXPERTS
    assert Quantisation(layout.checkpoint).quantised.weights == layout.quantised.weights
