"""What the index says and what is in the files: loaders go by files, and so does moegrow."""

import alter
import pytest
import tiny
import torch
from safetensors.torch import load_file

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import INDEX
from moegrow.errors import MoegrowError

PROBE = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def refused(source, says):
    with pytest.raises(MoegrowError, match=says) as error:
        open_checkpoint(source)
    return error.value


def home(source, name=PROBE):
    return open_checkpoint(source).tensors[name].file


def add(source, file, value):
    """Put the probe into another file as well."""
    tensors = load_file(source / file) if (source / file).exists() else {}
    alter.save(source / file, tensors | {PROBE: value})


def others(source):
    return [file.name for file in open_checkpoint(source).files if file.name != home(source)]


def test_a_file_that_comes_last_replaces_tensors_where_the_index_names_it(run, source, tmp_path):
    from transformers import AutoModelForCausalLM

    value = torch.full((32, 32), 7.0)
    add(source, "model-overlay.safetensors", value)
    with alter.table(source / INDEX) as index:
        index["weight_map"][PROBE] = "model-overlay.safetensors"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert torch.equal(model.state_dict()[PROBE], value)
    run("depth", source, "-o", tmp_path / "out")
    grown = tiny.tensors(tmp_path / "out")
    assert torch.equal(grown["model.layers.2.self_attn.o_proj.weight"], value)


def test_an_equal_copy_in_another_file_makes_no_difference(source):
    value, file = tiny.tensors(source)[PROBE], others(source)[-1]
    add(source, file, value)
    assert "in several files" in open_checkpoint(source).remarks[0]


@pytest.mark.parametrize("other", [torch.full((32, 32), 7.0), torch.ones(3)])
def test_another_copy_that_loaders_may_take_is_refused(source, other):
    add(source, "zzz.safetensors", other)
    with alter.table(source / INDEX) as index:
        index["weight_map"]["extra"] = "zzz.safetensors"
        alter.save(source / "zzz.safetensors", {PROBE: other, "extra": torch.ones(1)})
    error = refused(source, f"{PROBE} is in both .* and zzz.safetensors")
    assert "last in alphabetical order" in error.hint
    with alter.table(source / INDEX) as index:  # as the hint says
        index["weight_map"][PROBE] = "zzz.safetensors"
    assert home(source) == "zzz.safetensors"


def test_names_whose_numbers_and_letters_sort_otherwise_are_no_clear_order(source):
    for name, value in (("model-9.safetensors", 1.0), ("model-10.safetensors", 2.0)):
        add(source, name, torch.full((32, 32), value))
    with alter.table(source / INDEX) as index:
        index["weight_map"][PROBE] = "model-9.safetensors"
        index["weight_map"]["extra"] = "model-10.safetensors"
    alter.save(source / "model-10.safetensors", {PROBE: torch.ones(32, 32), "extra": torch.ones(1)})
    refused(source, "is in both")


def test_what_the_index_leaves_out_or_places_wrongly_is_found(source):
    moved, gone = "lm_head.weight", "model.norm.weight"
    files = {name: home(source, name) for name in (moved, gone)}
    with alter.table(source / INDEX) as index:
        places = index["weight_map"]
        places[moved] = next(file for file in places.values() if file != places[moved])
        del places[gone]
    opened = open_checkpoint(source)
    assert {name: opened.tensors[name].file for name in files} == files
    assert sum(map(len, opened.remarks)) > 0
    assert [gone in text or moved in text for text in opened.remarks] == [True, True]


def test_what_the_index_promises_and_no_file_holds_is_refused(source):
    with alter.table(source / INDEX) as index:
        index["weight_map"]["model.ghost.weight"] = home(source)
        index["weight_map"]["model.wraith.weight"] = home(source)
    error = refused(source, "contradicts itself")
    assert "model.ghost.weight" in error.message
    assert "model.wraith.weight" in error.message


def test_an_index_that_was_changed_in_a_result_is_found_by_verify(run, source, tmp_path):
    run("depth", source, "-o", tmp_path / "out", "--max-shard-size", "100KB")
    with alter.table(tmp_path / "out" / INDEX) as index:
        del index["weight_map"]["model.norm.weight"]
    assert "model.norm.weight" in run("verify", tmp_path / "out", code=1).stderr
