"""What differs between two checkpoints or plans."""

import json

import alter
import pytest
import torch

import moegrow
from moegrow.checkpoint.store import CONFIG
from moegrow.display import groups
from moegrow.planning.plan_lines import to_lines


@pytest.fixture
def pair(checkpoint, tmp_path):
    return checkpoint(), alter.copy(checkpoint(), tmp_path)


def test_a_checkpoint_does_not_differ_from_itself_or_its_copy(pair):
    source, copy = pair
    for other in (source, copy, moegrow.plan(copy)):
        found = moegrow.diff(source, other)
        assert found.is_empty
        assert found.same == len(moegrow.plan(source).outputs)


def test_shards_and_their_order_are_no_difference(pair):
    source, copy = pair
    with alter.weights(copy):
        pass
    assert moegrow.diff(source, copy).is_empty


def test_every_kind_of_difference_is_listed(pair):
    source, copy = pair
    with alter.weights(copy) as tensors:
        tensors["model.norm.weight"][3] += 1
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:60]
        tensors["model.extra"] = tensors.pop("model.layers.0.self_attn.q_norm.weight")
    with alter.table(copy / CONFIG) as config:
        config["rms_norm_eps"] = 1e-5
        config["rope_parameters"]["rope_theta"] = 5.0
        config["extra"] = None
        del config["hidden_act"]
    found = moegrow.diff(source, copy)
    assert found.other_contents == ("model.norm.weight",)
    assert found.other_shape == ("lm_head.weight",)
    assert found.only_a == ("model.layers.0.self_attn.q_norm.weight",)
    assert found.only_b == ("model.extra",)
    assert set(found.config) == {
        ("rms_norm_eps", 1e-6, 1e-5), ("rope_parameters.rope_theta", 10000.0, 5.0),
        ("extra", None, None), ("hidden_act", "silu", None),
    }  # fmt: skip
    assert not found.is_empty


def test_contents_may_be_left_out(pair):
    source, copy = pair
    with alter.weights(copy) as tensors:
        tensors["model.norm.weight"][3] += 1
    found = moegrow.diff(source, copy, contents=False)
    assert found.is_empty
    assert not found.contents_compared


def test_another_dtype_is_a_difference_of_its_own(pair):
    source, copy = pair
    with alter.weights(copy) as tensors:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].view(torch.int32)
    for contents in (True, False):
        found = moegrow.diff(source, copy, contents=contents)
        assert found.other_dtype == ("model.norm.weight",)
        assert found.other_shape == ()
        assert found.other_contents == ()


def test_a_plan_does_not_differ_from_what_was_written_by_it(checkpoint, tmp_path):
    plan = moegrow.width(moegrow.depth(checkpoint()))
    moegrow.apply(plan, tmp_path / "grown", max_shard_size="50KB")
    (tmp_path / "plan.jsonl").write_text("\n".join(to_lines(plan)))
    assert moegrow.diff(plan, tmp_path / "grown").is_empty
    assert moegrow.diff(tmp_path / "grown", tmp_path / "plan.jsonl").is_empty


def test_what_growth_changes_is_what_differs(checkpoint):
    source = checkpoint()
    found = moegrow.diff(source, moegrow.width(source, noise=0.01))
    assert {key for key, _, _ in found.config} == {"num_local_experts", "num_experts_per_tok"}
    assert found.only_a == found.other_contents == ()
    assert len(found.only_b) == 4 * 4 * 3
    assert found.other_shape == tuple(f"model.layers.{n}.mlp.gate.weight" for n in range(4))


def test_two_seeds_differ_in_the_copies_alone(checkpoint):
    source = checkpoint("gpt_oss")
    found = moegrow.diff(moegrow.width(source, seed=1), moegrow.width(source, seed=2))
    assert found.config == found.other_shape == ()
    assert len(found.other_contents) == 4 * 5
    assert all(".mlp." in name for name in found.other_contents)


def test_names_are_grouped_by_their_numbers():
    names = [f"layers.{n}.experts.{e}.up" for n in (0, 1, 2, 5) for e in range(2)]
    assert groups(names) == [("layers.{0-2,5}.experts.{0-1}.up", 8)]
    assert groups(["a.7.b"]) == [("a.7.b", 1)]
    assert groups(["x1.2y.3"]) == [("x1.2y.3", 1)]
    assert groups([]) == []


def test_the_command_prints_groups_or_one_json_document(checkpoint, run):
    source = checkpoint()
    plan = run("width", source, "--plan").stdout
    text = run("diff", source, "-", stdin=plan).stdout
    assert "config  num_local_experts: 4 -> 8" in text
    assert "+       model.layers.{0-3}.mlp.experts.{4-7}.up_proj.weight  (16)" in text
    table = json.loads(run("diff", "--json", source, "-", stdin=plan).stdout)
    assert ["num_local_experts", 4, 8] in table["config"]
    assert "contents not compared" in run("diff", "--headers", source, source).stdout
