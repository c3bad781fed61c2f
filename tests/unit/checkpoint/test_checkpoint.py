"""Opening a source: config and headers alone, and every way in which its files can disagree."""

import json
import os
import shutil
from pathlib import Path

import alter
import pytest
import toy
from safetensors.numpy import save_file

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.shard_index import index_text
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def shards(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


def refused(source, says):
    with pytest.raises(MoegrowError, match=says) as error:
        open_checkpoint(source)
    return error.value


def test_every_tensor_is_known_by_dtype_and_shape(checkpoint):
    opened = open_checkpoint(checkpoint())
    expected = toy.tensors_of(checkpoint())
    assert {name: spec.shape for name, spec in opened.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
    assert {spec.dtype for spec in opened.tensors.values()} == {"F32"}
    assert opened.nbytes == sum(tensor.nbytes for tensor in expected.values())
    assert opened.config_text == (checkpoint() / CONFIG).read_text()
    assert [file.name for file in opened.files] == shards(checkpoint())


def test_a_folder_may_hold_one_file_and_no_index(source):
    expected = open_checkpoint(source).tensors.keys()
    with toy.weights(source):
        pass
    assert open_checkpoint(source).tensors.keys() == expected
    assert open_checkpoint(source / "model.safetensors").tensors.keys() == expected


def test_one_file_is_opened_alone_though_others_lie_beside_it(source):
    first = shards(source)[0]
    refused(source / first, "one of the files of a checkpoint")
    (source / first).rename(source / "one.safetensors")
    opened = open_checkpoint(source / "one.safetensors")
    assert [file.name for file in opened.files] == ["one.safetensors"]


def test_shards_without_an_index_are_opened_if_all_are_there(source):
    (source / INDEX).unlink()
    assert [file.name for file in open_checkpoint(source).files] == shards(source)
    (source / shards(source)[1]).unlink()
    refused(source, "shards of")


def test_model_safetensors_is_taken_where_a_stray_file_lies_beside_it(source):
    with toy.weights(source) as tensors:
        save_file({"a": tensors["lm_head.weight"]}, source / "adapter.safetensors")
    opened = open_checkpoint(source)
    assert [file.name for file in opened.files] == ["model.safetensors"]


def test_several_files_with_names_of_their_own_and_no_index_are_refused(source):
    with toy.weights(source) as tensors:
        save_file({"a": tensors["lm_head.weight"]}, source / "b.safetensors")
    (source / "model.safetensors").rename(source / "a.safetensors")
    assert "a.safetensors" in refused(source, "2 .safetensors files and no").hint


def test_a_relative_path_a_link_and_a_home_are_the_same_source(source, monkeypatch):
    opened = open_checkpoint(source)
    monkeypatch.chdir(source.parent)
    monkeypatch.setenv("HOME", str(source.parent))
    Path("link").symlink_to(source)
    for path in (source.name, "link", f"~/{source.name}", f"{source.name}/../link"):
        assert open_checkpoint(path) == opened


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda s: (s / CONFIG).unlink(), "holds no config.json"),
        (lambda s: (s / CONFIG).write_bytes(b"\xff"), "not UTF-8"),
        (lambda s: (s / CONFIG).write_text("{"), "not valid JSON"),
        (lambda s: (s / shards(s)[1]).unlink(), r"00002-of-.*missing"),
        (lambda s: (s / INDEX).write_text("{}"), "no weight_map"),
        (lambda s: (s / INDEX).write_text('{"weight_map": {"a": 1}}'), "no weight_map"),
        (lambda s: [(s / name).unlink() for name in [INDEX, *shards(s)]], "no .safetensors files"),
    ],
)
def test_what_is_missing_or_unreadable_is_named(source, broken, says):
    broken(source)
    refused(source, says)


def test_a_config_one_folder_down_is_hinted_at(source):
    assert str(source) in refused(source.parent, "holds no config.json").hint


def test_a_source_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path / "nothing", "does not exist")


@pytest.mark.parametrize("kept", [0.5, 0.99, 0.01])
def test_a_file_cut_short_is_refused(source, kept):
    file = source / shards(source)[0]
    os.truncate(file, int(file.stat().st_size * kept))
    assert "fetch it again" in refused(source, file.name).hint


def test_a_checkpoint_of_bin_files_alone_is_refused_with_the_way_to_convert_it(source):
    for name in [INDEX, *shards(source)]:
        (source / name).unlink()
    (source / "pytorch_model.bin").write_bytes(b"x")
    assert "save_pretrained" in refused(source, r"only pytorch_model\.bin").hint
    refused(source / "pytorch_model.bin", "neither a folder")


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "..", ".", "", "sub/../m.safetensors", "a\\b"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(source, name):
    (source / "sub").mkdir()
    with alter.table(source / INDEX) as index:
        index["weight_map"]["lm_head.weight"] = name
    refused(source, "not a file in the checkpoint's own folder")


@pytest.mark.parametrize(
    "name", [CONFIG, "tokenizer.json", INDEX, "model-00001-of-00004.safetensors"]
)
def test_a_link_out_of_the_folder_is_refused(source, tmp_path, name):
    outside = tmp_path / "secret"
    if (source / name).exists():
        (source / name).rename(outside)
    else:
        outside.write_text("secret")
    (source / name).symlink_to(outside)
    refused(source, "leads out of the checkpoint")


def test_a_link_within_the_folder_is_followed(source):
    (source / "tokenizer.json").write_text("{}")
    (source / "again.json").symlink_to("tokenizer.json")
    assert "again.json" in open_checkpoint(source).side_files


def test_a_snapshot_of_the_hub_cache_is_opened(source, tmp_path):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    opened = open_checkpoint(snapshot)
    assert opened.tensors.keys() == open_checkpoint(source).tensors.keys()
    (snapshot / "LICENSE").symlink_to("../../../qwen3_moe/config.json")
    refused(snapshot, "leads out of the checkpoint")


def test_a_broken_link_and_a_pipe_are_refused(source):
    (source / "notes.txt").symlink_to("nowhere")
    refused(source, "does not exist")
    (source / "notes.txt").unlink()
    os.mkfifo(source / "notes.txt")
    refused(source, "not a plain file")


TRAVELS = (
    "tokenizer.json",
    "generation_config.json",
    "chat_template.jinja",
    "modeling_x.py",
    "LICENSE",
    "sub/prompt.txt",
)
STAYS = (
    ".gitattributes",
    ".cache/x.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.gguf",
    "original/consolidated.00.pth",
    "flax_model.msgpack",
    "tf_model.h5",
    "onnx/model.onnx",
    "optimizer.pt",
    "README.md",
    "moegrow-plan.jsonl",
)


def test_side_files_are_those_that_are_no_weights_and_not_hidden(source):
    for name in TRAVELS + STAYS:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("x")
    assert set(open_checkpoint(source).side_files) == set(TRAVELS)


def test_the_digest_of_a_file_changes_with_its_weights(source):
    before = open_checkpoint(source).files
    alter.flip(source / before[0].name, -1)
    after = open_checkpoint(source).files
    assert before[0].digest != after[0].digest
    assert before[1:] == after[1:]


def test_the_digest_does_not_depend_on_place_or_time(source, tmp_path):
    before = open_checkpoint(source)
    moved = shutil.copytree(source, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    after = open_checkpoint(moved)
    assert (after.files, after.config_digest) == (before.files, before.config_digest)


def test_a_config_with_infinity_is_read(source):
    with alter.table(source / CONFIG) as config:
        config["time_step_limit"] = [0.0, float("inf")]
    assert open_checkpoint(source).config["time_step_limit"][1] == float("inf")


def test_an_index_text_has_exact_totals():
    text = index_text({"a": "f.safetensors"}, total_size=8, total_parameters=2)
    assert json.loads(text) == {
        "metadata": {"total_size": 8, "total_parameters": 2},
        "weight_map": {"a": "f.safetensors"},
    }
