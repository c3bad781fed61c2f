"""What headers say beside their tensors: carried along by the maps, or a reason to refuse."""

import json
import struct

import alter
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.planning.grow import depth, width


@pytest.fixture
def source(checkpoint, tmp_path):
    folder = alter.copy(checkpoint(), tmp_path)
    with alter.weights(folder):
        pass
    return folder


def metadata(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"]


def describe(folder, texts):
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", **texts})


@pytest.fixture
def torchao(source):
    """The source with attention as torchao's Int8Tensor, as torchao 0.18 flattens it."""
    tensors, texts, stored = tiny.tensors(source), {}, {}
    for name, value in tensors.items():
        if ".self_attn." not in name or not name.endswith("_proj.weight"):
            stored[name], texts[name] = value, json.dumps({"_type": "Tensor"})
            continue
        scale = value.abs().amax(1, keepdim=True) / 127
        module = name.removesuffix("weight")
        stored[f"{module}_weight_qdata"] = (value / scale).round().to(torch.int8)
        stored[f"{module}_weight_scale"] = scale
        texts[name] = json.dumps(
            {
                "_type": "Int8Tensor",
                "_data": {"block_size": [1, value.shape[1]]},
                "_tensor_data_names": ["qdata", "scale"],
            }
        )
    texts["tensor_names"] = json.dumps(sorted(tensors))
    save_file(stored, source / "model.safetensors", metadata={"format": "pt", **texts})
    return source


def test_torchaos_entries_are_renumbered_with_their_tensors(run, torchao, tmp_path):
    before = metadata(torchao / "model.safetensors")
    plan = tmp_path / "plan.jsonl"
    plan.write_text(run("depth", torchao, "--plan").stdout)
    assert json.loads(plan.read_text().splitlines()[0])["moegrow_plan"] == 4
    plan.write_text(run("width", plan, "--noise", "0", "--plan").stdout)
    run("apply", plan, "-o", "out", "--max-shard-size", "300KB")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    found = metadata(files[0])
    assert all(metadata(file) == found for file in files)
    names = json.loads(found["tensor_names"])
    assert set(names) == found.keys() - {"format", "tensor_names"}
    old, new = "model.layers.2.self_attn.q_proj.weight", "model.layers.5.self_attn.q_proj.weight"
    assert found[new] == before[old]
    grown = tiny.tensors(tmp_path / "out")
    described = set()
    for name in names:
        module, _, leaf = name.rpartition(".")
        parts = json.loads(found[name]).get("_tensor_data_names")
        described |= {f"{module}._{leaf}_{part}" for part in parts} if parts else {name}
    assert described == grown.keys()
    run("verify", "out")
    content = files[0].read_bytes().replace(b"Int8Tensor", b"Int4Tensor", 1)
    files[0].write_bytes(content)
    assert "header" in run("verify", "out", code=1).stderr


def test_what_would_change_a_quantised_tensor_is_refused(torchao):
    with pytest.raises(MoegrowError, match="torchao") as error:
        depth(torchao, new_layers="identity")
    assert "new_layers='copy'" in error.value.hint


def test_other_texts_come_along_as_they_are(run, source, tmp_path):
    describe(source, {"mergekit_version": "0.1", "modelspec.hash_sha256": "0xabc"})
    done = run("width", source, "-o", "out")
    assert metadata(next((tmp_path / "out").glob("*.safetensors"))) == {
        "format": "pt",
        "mergekit_version": "0.1",
    }
    assert "modelspec.hash_sha256" in done.stderr
    run("verify", "out")


@pytest.mark.parametrize(
    "texts",
    [
        {"bits": '{"model.layers.1.self_attn.q_proj": 4}'},
        {"model.layers.1.self_attn.q_proj.weight": "4 bits"},
        {"tensor_names": '["model.norm.weight"]'},
    ],
)
def test_texts_about_single_tensors_that_nobody_knows_are_refused(source, texts):
    describe(source, texts)
    with pytest.raises(MoegrowError, match="cannot carry along") as error:
        width(source)
    # The way that the hint shows.
    assert "save_file(load_file(f), f" in error.value.hint
    describe(source, {})
    assert width(source).metadata == ()


def test_texts_that_are_others_in_other_files_are_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    for number, file in enumerate(sorted(source.glob("*.safetensors"))):
        save_file(load_file(file), file, metadata={"format": "pt", "bits": str(number)})
    with pytest.raises(MoegrowError, match="bits is another in"):
        depth(source)


def test_metadata_that_is_no_text_is_refused(source):
    file = source / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["x"] = 1
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(MoegrowError, match="not a table of texts"):
        depth(source)
    assert (source / CONFIG).exists()
