"""Verify finds every byte that is not as planned."""

import json
import random
import shutil

import alter
import pytest
import torch

import moegrow
from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError


@pytest.fixture(scope="module")
def pristine(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine") / "grown"
    source = checkpoint("qwen2_moe", fused=True)
    plan = moegrow.width(moegrow.depth(source, new_layers="identity"))
    moegrow.apply(plan, folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def grown(pristine, tmp_path):
    return alter.copy(pristine, tmp_path)


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def data_begins(file):
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


def test_a_fresh_result_is_as_planned_and_everything_was_compared(pristine):
    found = moegrow.verify(pristine)
    plan = moegrow.plan(pristine / PLAN)
    assert found.ok
    assert found.problems == ()
    assert found.tensors == len(plan.outputs)
    assert found.copied + found.drawn == plan.nbytes
    assert found.drawn > plan.nbytes // 10


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_the_weights_is_found_where_it_is(grown, seed):
    chance = random.Random(seed)
    file = chance.choice(shards(grown))
    byte = chance.randrange(data_begins(file), file.stat().st_size)
    alter.flip(file, byte, 1 << chance.randrange(8))
    found = moegrow.verify(grown)
    (problem,) = found.problems
    assert f"({file.name}, byte {byte})" in problem


def test_every_flipped_bit_in_a_header_is_found(grown):
    chance = random.Random(0)
    file = shards(grown)[0]
    content = file.read_bytes()
    beyond_the_length = range(8, data_begins(file))
    for byte in [*range(60), *chance.sample(beyond_the_length, 60)]:
        alter.flip(file, byte, 1 << chance.randrange(8))
        assert not moegrow.verify(grown).ok, content[byte - 20 : byte + 20]
        file.write_bytes(content)
    assert moegrow.verify(grown).ok


@pytest.mark.parametrize("name", [CONFIG, INDEX])
def test_every_flipped_bit_in_config_and_index_is_found(grown, name):
    chance = random.Random(0)
    content = (grown / name).read_bytes()
    for byte in [*range(10), *chance.sample(range(len(content)), 50)]:
        alter.flip(grown / name, byte, 1 << chance.randrange(8))
        assert not moegrow.verify(grown).ok, content[byte - 20 : byte + 20]
        (grown / name).write_bytes(content)
    assert moegrow.verify(grown).ok


def test_a_missing_shard_is_found(grown):
    shards(grown)[1].unlink()
    (problem,) = moegrow.verify(grown).problems
    assert "model-00002-of-" in problem


def test_a_shard_cut_short_is_found(grown):
    file = shards(grown)[1]
    file.write_bytes(file.read_bytes()[:-1])
    assert file.name in moegrow.verify(grown).problems[0]


def add(folder, name, file, in_index=True):
    """One more tensor, in a file of its own."""
    alter.save(folder / file, {name: torch.ones(4)})
    if in_index:
        with alter.table(folder / INDEX) as index:
            index["weight_map"][name] = file
            index["metadata"]["total_size"] += 16
            index["metadata"]["total_parameters"] += 4


def test_a_tensor_that_is_not_in_the_plan_is_found(grown):
    add(grown, "model.extra.weight", "extra.safetensors")
    assert "model.extra.weight is not in the plan" in moegrow.verify(grown).problems


def test_a_weight_file_that_the_index_does_not_name_is_found(grown):
    add(grown, "model.extra.weight", "extra.safetensors", in_index=False)
    assert not moegrow.verify(grown).ok


def test_a_file_is_told_though_a_tensor_has_its_name(grown):
    add(grown, "README.md", "extra.safetensors")
    alter.flip(grown / "README.md", 3)
    problems = moegrow.verify(grown).problems
    assert {"README.md is not in the plan", "README.md is not as it was written"} < {*problems}


@pytest.mark.parametrize("key", ["total_size", "total_parameters"])
def test_wrong_totals_are_found(grown, key):
    with alter.table(grown / INDEX) as index:
        index["metadata"][key] += 1
    (problem,) = moegrow.verify(grown).problems
    assert key in problem


@pytest.mark.parametrize("metadata", [None, [1], 5, "x"])
def test_totals_of_an_odd_type_are_found(grown, metadata):
    with alter.table(grown / INDEX) as index:
        index["metadata"] = metadata
    assert not moegrow.verify(grown).ok


def test_a_missing_index_is_found(grown):
    (grown / INDEX).unlink()
    assert f"{INDEX} is missing" in moegrow.verify(grown).problems


def test_a_missing_or_other_config_is_found(grown):
    text = (grown / CONFIG).read_text()
    (grown / CONFIG).write_text(text.replace('"num_hidden_layers": 8', '"num_hidden_layers": 7'))
    problems = moegrow.verify(grown).problems
    assert f"{CONFIG} is not the one that was planned" in problems
    assert any("says 7 layers" in problem for problem in problems)
    (grown / CONFIG).unlink()
    assert not moegrow.verify(grown).ok


def test_a_tensor_of_another_shape_or_dtype_or_a_missing_one_is_found(grown):
    with alter.weights(grown) as tensors:
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:16]
        tensors["lm_head.weight"] = tensors["lm_head.weight"].half()
        del tensors["model.embed_tokens.weight"]
    problems = "\n".join(moegrow.verify(grown).problems)
    assert "model.norm.weight is F32 [16] and should be F32 [32]" in problems
    assert "lm_head.weight is F16 [64, 32] and should be F32 [64, 32]" in problems
    assert "model.embed_tokens.weight is missing" in problems


def test_every_problem_is_told(grown):
    for file in shards(grown):
        alter.flip(file, -1)
    assert len(moegrow.verify(grown).problems) == len(shards(grown))


def test_the_source_may_have_moved(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    moegrow.apply(moegrow.width(source), tmp_path / "grown")
    source.rename(tmp_path / "moved")
    with pytest.raises(MoegrowError, match="does not exist"):
        moegrow.verify(tmp_path / "grown", tmp_path / "nowhere")
    assert moegrow.verify(tmp_path / "grown", tmp_path / "moved").ok


def test_another_source_than_the_plans_is_refused(checkpoint, grown):
    with pytest.raises(MoegrowError, match="has changed since the plan was made"):
        moegrow.verify(grown, checkpoint())


def test_a_folder_that_moegrow_did_not_write_is_refused(checkpoint):
    with pytest.raises(MoegrowError, match=r"holds no moegrow-plan\.jsonl"):
        moegrow.verify(checkpoint())


def test_a_plan_that_was_damaged_is_told_before_anything_is_held_against_it(grown):
    lines = (grown / PLAN).read_text().splitlines()
    (grown / PLAN).write_text("\n".join(lines[:-1]))
    assert moegrow.verify(grown).problems == (f"{PLAN} is not as it was written",)
    (grown / DIGESTS).unlink()
    with pytest.raises(MoegrowError, match="promises"):
        moegrow.verify(grown)


def test_every_flipped_byte_in_any_file_is_found_and_the_file_or_tensor_told(pristine, tmp_path):
    """Also where the source is gone, but for the bytes that only it could tell of."""
    chance = random.Random(1)
    grown = alter.copy(pristine, tmp_path)
    names = sorted(path.name for path in grown.iterdir())
    assert {"README.md", CONFIG, INDEX, PLAN, DIGESTS} < set(names)
    for name in names * 4:
        content = (grown / name).read_bytes()
        byte = chance.randrange(len(content))
        alter.flip(grown / name, byte, 1 + chance.randrange(255))
        done = moegrow.verify(grown)
        assert not done.ok, (name, byte)
        assert name in done.problems[0] or INDEX in name, (name, byte, done.problems)
        (grown / name).write_bytes(content)
    assert moegrow.verify(grown).ok


def test_a_result_can_be_moved_and_verified(pristine, tmp_path):
    assert moegrow.verify(shutil.copytree(pristine, tmp_path / "other name")).ok


def test_the_number_of_threads_does_not_matter(pristine):
    assert moegrow.verify(pristine, threads=1) == moegrow.verify(pristine, threads=5)


def test_progress_adds_up_to_all_bytes(pristine):
    counts = []
    found = moegrow.verify(pristine, progress=counts.append)
    assert sum(counts) == found.copied + found.drawn


def test_the_command_prints_the_problems_and_exits_with_one(grown, run):
    assert "is as planned" in run("verify", grown).stderr
    alter.flip(shards(grown)[0], -1)
    done = run("verify", grown, code=1)
    assert "differs from its plan at byte" in done.stderr
    assert done.stdout == ""
    assert "differs" in run("verify", "--quiet", grown, code=1).stderr


def test_the_plan_beside_the_weights_holds_the_config_as_text(pristine):
    header = json.loads((pristine / PLAN).read_text().splitlines()[0])
    assert header["config"] == (pristine / CONFIG).read_text()
