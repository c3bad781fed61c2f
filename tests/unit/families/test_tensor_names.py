"""Where tensors stand, read off their names."""

import pytest
from test_registry import SMALL

from moegrow.families.registry import find_family, read_family
from moegrow.families.tensor_names import locator, stray_expert


@pytest.fixture
def place():
    return locator(read_family(SMALL, "small"))


def test_an_expert_tensor_is_taken_apart(place):
    found = place("model.layers.12.mlp.experts.7.down_proj.weight")
    assert (found.stack, found.layer, found.expert) == ("model.layers.", 12, 7)
    assert (found.before, found.after) == (".mlp.experts.", ".down_proj.weight")
    assert found.suffix == ".mlp.experts.7.down_proj.weight"
    assert (found.role, found.is_output, found.in_block) == ("experts", True, True)


@pytest.mark.parametrize(
    ("suffix", "role", "is_output", "in_block"),
    [
        ("mlp.gate.weight", "router", False, True),
        ("mlp.shared.up_proj.weight", "shared", False, True),
        ("mlp.experts.down_proj", "experts", True, True),
        ("mlp.experts.3.up_proj.weight_scale_inv", "experts", False, True),
        ("mlp.gate.weight2", "", False, True),
        ("mlp.mystery", "", False, True),
        ("self_attn.o_proj.bias", "", True, False),
        ("self_attn.q_proj.weight", "", False, False),
        ("mlpx.gate.weight", "", False, False),
    ],
)
def test_roles_follow_the_patterns_alone(place, suffix, role, is_output, in_block):
    found = place("model.layers.0." + suffix)
    assert (found.role, found.is_output, found.in_block) == (role, is_output, in_block)
    assert found.suffix == "." + suffix


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "model.layers.norm", "model.layers.01.mlp.gate.weight", "model.layers.0.",
     "xmodel.layers.0.mlp.gate.weight", "model_layers_0.mlp", "model.layers.0"],
)  # fmt: skip
def test_names_outside_the_layers_have_no_place(place, name):
    assert place(name) is None


def test_prediction_layers_are_known_as_such(place):
    assert place("mtp.layers.0.mlp.gate.weight").is_prediction
    assert not place("model.layers.0.mlp.gate.weight").is_prediction


def test_what_stands_between_a_prediction_layer_and_its_names_is_part_of_the_name():
    inside = 'prediction_layers = ["mtp.layers.{layer}.", "mtp.layers.{layer}.block."]'
    text = SMALL.replace('prediction_layers = ["mtp.layers.{layer}."]', inside)
    place = locator(read_family(text, "small"))
    found = place("mtp.layers.2.block.mlp.experts.7.up_proj.weight")
    assert (found.stack, found.layer, found.expert) == ("mtp.layers.", 2, 7)
    assert (found.before, found.role, found.in_block) == (".block.mlp.experts.", "experts", True)
    found = place("mtp.layers.2.enorm.weight")
    assert (found.suffix, found.is_prediction) == (".enorm.weight", True)


def test_an_expert_is_recognised_wherever_it_stands():
    looks = stray_expert(read_family(SMALL, "small"))
    assert looks("vision.layers.0.mlp.experts.3.up.weight")
    assert looks("mlp.experts.0.up")
    assert not looks("model.layers.0.self_attn.o_proj.weight")
    assert not looks("xmlp.experts.0.up")


def test_experts_of_another_model_in_the_checkpoint_are_no_strays():
    looks = stray_expert(find_family("qwen3_omni_moe"))
    assert looks("mystery.layers.0.mlp.experts.0.up_proj.weight")
    assert not looks("talker.model.layers.0.mlp.experts.0.up_proj.weight")


def test_tensors_beside_the_layers_know_their_layer():
    locate = locator(find_family("inkling2_text"))
    query = locate("model.llm.attn_res.attn_queries.2")
    assert (query.layer, query.lower, query.suffix) == (3, 1, "")
    assert query.is_not_in_first
    assert locate("model.llm.attn_res.mlp_queries.2").layer == 2
    assert locate("model.llm.attn_res.output_query") is None
