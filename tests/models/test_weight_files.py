"""Which weight files are taken: those that transformers loads, where others load the same."""

import json
import shutil
import subprocess

import alter
import pytest
import tiny
import torch

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError

SINGLE = "model.safetensors"
PROBE = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def single(checkpoint):
    """Other weights of the same shapes, all in one file."""
    return tiny.tensors(checkpoint()) | {PROBE: torch.full((32, 32), 7.0)}


def shards(folder):
    return sorted(path.name for path in folder.glob("model-*.safetensors"))


def refused(source, says):
    with pytest.raises(MoegrowError, match=says) as error:
        open_checkpoint(source)
    return error.value


def loaded(folder):
    """The probe as transformers loads it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.state_dict()[PROBE]


def test_model_safetensors_beside_an_index_of_others_is_asked_about(run, source, single, tmp_path):
    old = tiny.tensors(source)[PROBE]
    alter.save(source / SINGLE, single)
    error = refused(source, "transformers loads the first")
    for name in (SINGLE, INDEX):
        assert f"{source}/{name}" in error.hint
    for named, value in ((SINGLE, single[PROBE]), (INDEX, old)):
        out = tmp_path / named
        run("depth", source / named, "-o", out)
        assert torch.equal(tiny.tensors(out)["model.layers.2.self_attn.o_proj.weight"], value)
        run("verify", out)
    # transformers takes the first of the two, as the message says.
    assert torch.equal(loaded(source), single[PROBE])


def test_a_plan_opens_the_source_as_it_was_named(run, source, single, tmp_path):
    alter.save(source / SINGLE, single)
    plan = tmp_path / "plan.jsonl"
    plan.write_text(run("depth", source / INDEX, "--plan").stdout)
    assert json.loads(plan.read_text().splitlines()[0])["source"]["named"] == INDEX
    run("width", plan, "--plan")
    run("apply", plan, "-o", tmp_path / "out")
    run("verify", tmp_path / "out")


def test_an_index_of_a_variant_is_opened_where_it_is_given(source):
    for name in shards(source):
        (source / name).rename(source / name.replace("model-", "model.fp16-"))
    index = source / "model.safetensors.index.fp16.json"
    index.write_text((source / INDEX).read_text().replace("model-", "model.fp16-"))
    (source / INDEX).unlink()
    assert refused(source, "under another name").hint == f"give it: {index}"
    assert len(open_checkpoint(index).files) > 1


def test_transformers_weights_in_the_config_are_taken_and_the_key_is_left_out(
    run, source, single, tmp_path
):
    alter.save(source / "mine.safetensors", single)
    with alter.table(source / CONFIG) as config:
        config["transformers_weights"] = "mine.safetensors"
    assert torch.equal(loaded(source), single[PROBE])
    done = run("depth", source, "-o", tmp_path / "out")
    assert "mine.safetensors" in done.stderr
    assert "transformers_weights" not in json.loads((tmp_path / "out" / CONFIG).read_text())
    grown = tiny.tensors(tmp_path / "out")["model.layers.2.self_attn.o_proj.weight"]
    assert torch.equal(grown, single[PROBE])
    with alter.table(source / CONFIG) as config:
        config["transformers_weights"] = "../mine.safetensors"
    refused(source, "names no safetensors file")


def test_two_complete_sets_without_an_index_are_asked_about(source, single):
    with alter.weights(source):
        pass
    alter.save(source / "model_ema.safetensors", single)
    error = refused(source, "vLLM and SGLang load both")
    assert f"{source}/model_ema.safetensors" in error.hint
    assert (
        open_checkpoint(source / "model_ema.safetensors").files[0].name == "model_ema.safetensors"
    )


def test_shards_of_two_checkpoints_without_an_index_are_asked_about(source):
    (source / INDEX).unlink()
    count = len(shards(source))
    shutil.copy(source / shards(source)[0], source / "model-00001-of-00002.safetensors")
    error = refused(source, "shards of 2 checkpoints")
    assert "model-*-of-00002.safetensors" in error.message
    (source / "model-00001-of-00002.safetensors").unlink()
    assert len(open_checkpoint(source).files) == count


def test_the_command_that_moves_one_of_two_sets_away_works_as_it_is_printed(
    checkpoint, run, tmp_path
):
    source = tmp_path / "my model"
    shutil.copytree(checkpoint(), source)
    (source / INDEX).unlink()
    shutil.copy(source / shards(source)[0], source / "model-00001-of-00002.safetensors")
    told = run("depth", source, "--dry-run", code=1).stderr
    subprocess.run(told.partition("elsewhere: ")[2], shell=True, check=True, cwd=tmp_path)
    run("depth", source, "--dry-run")


def test_a_file_that_config_names_and_that_is_missing_is_named_with_the_key(source):
    with alter.table(source / "config.json") as config:
        config["transformers_weights"] = "other.safetensors"
    error = refused(source, "config.json names other.safetensors as the weights")
    assert "transformers_weights" in error.hint


def test_an_index_of_another_sharding_is_named_as_the_fault(source):
    total = len(shards(source))
    text = (source / INDEX).read_text().replace(f"-of-{total:05d}", "-of-00009")
    (source / INDEX).write_text(text)
    error = refused(source, "is of another sharding")
    assert f"-of-{total:05d}" in error.message
    (source / INDEX).rename(source / f"{INDEX}.old")  # as the hint says
    assert len(open_checkpoint(source).files) == total


@pytest.mark.parametrize(
    "names",
    [
        ("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"),
        ("consolidated.00.safetensors", "consolidated.01.safetensors"),
    ],
)
def test_tensor_parallel_parts_are_refused_together_and_one_by_one(source, names):
    tensors = tiny.tensors(source)
    for name in [INDEX, *shards(source)]:
        (source / name).unlink()
    for rank, name in enumerate(names):
        parts = {
            key: value.chunk(2)[rank] if value.ndim == 2 else value
            for key, value in tensors.items()
        }
        alter.save(source / name, parts)
    refused(source, "a part of each tensor")
    error = refused(source / names[0], "a part of each tensor")
    # The way for a file that is whole works: there it is taken for that.
    (source / "whole").mkdir()
    for name in (names[0], CONFIG):
        (source / "whole" / name).hardlink_to(source / name)
    assert "whole" in error.hint
    assert open_checkpoint(source / "whole").files[0].name == names[0]


def test_one_shard_of_several_is_no_checkpoint(source):
    first = shards(source)[0]
    refused(source / first, "by the .*index.* beside")
    (source / INDEX).unlink()
    refused(source / first, f"one of the files of a checkpoint, {len(shards(source))} by its name")


def test_parts_of_a_distributed_checkpoint_are_refused_as_transformers_prefers_them(source):
    shutil.copy(source / shards(source)[0], source / "shard-00001-model-00001-of-00001.safetensors")
    refused(source, "distributed checkpoint of PyTorch")


def test_shards_in_a_folder_that_the_index_names_are_read(run, source, tmp_path):
    (source / "weights" / "deep").mkdir(parents=True)
    for number, name in enumerate(shards(source)):
        place = "weights/deep" if number else "weights"
        (source / name).rename(source / place / name)
        text = (source / INDEX).read_text().replace(f'"{name}', f'"{place}/{name}')
        (source / INDEX).write_text(text)
    (source / "weights" / "notes.txt").write_text("x")
    loaded(source)
    plan = tmp_path / "plan.jsonl"
    plan.write_text(run("depth", source, "--plan").stdout)
    run("apply", plan, "-o", tmp_path / "out")
    run("verify", tmp_path / "out")
    assert (tmp_path / "out" / "weights" / "notes.txt").exists()
    assert not list((tmp_path / "out" / "weights").glob("**/*.safetensors"))


def test_weights_that_no_index_names_are_told(run, source):
    alter.save(source / "mtp.safetensors", {"mtp.fc.weight": torch.ones(2)})
    shutil.copy(source / shards(source)[0], source / "again.safetensors")
    done = json.loads(run("depth", source, "--json", "--dry-run").stdout)
    (warning,) = [text for text in done["warnings"] if "mtp" in text]
    assert "mtp.fc.weight" in warning
    assert not any("again" in text for text in done["warnings"])
    assert any("again.safetensors" in text for text in done["notes"])
    with alter.table(source / INDEX) as index:  # as the warning says
        index["weight_map"]["mtp.fc.weight"] = "mtp.safetensors"
    assert "mtp.fc.weight" in open_checkpoint(source).tensors
