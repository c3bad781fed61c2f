"""A checkpoint as its family sees it, and every way in which the two can disagree."""

import alter
import pytest
import torch

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.layout import parameters
from moegrow.families.read_layout import read_layout
from moegrow.planning import build


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def layout_of(folder):
    return read_layout(open_checkpoint(folder))


def refused(folder, says):
    with pytest.raises(MoegrowError, match=says) as error:
        layout_of(folder)
    return error.value


def test_numbers_are_read_from_the_checkpoint(checkpoint):
    layout = layout_of(checkpoint())
    assert (layout.layers, layout.experts, layout.top_k) == (4, 4, 2)
    assert layout.moe_layers == {0, 1, 2, 3}
    assert layout.prediction_layers == 0
    assert len(list(layout.expert_tensors())) == 4 * 4 * 3


def test_dense_layers_have_no_experts(checkpoint):
    layout = layout_of(checkpoint("deepseek_v3", first_k_dense_replace=2))
    assert layout.moe_layers == {2, 3}


def test_the_text_config_of_a_multimodal_config_is_the_one_that_counts(checkpoint):
    layout = layout_of(checkpoint("llama4"))
    assert layout.config == layout.checkpoint.config["text_config"]


def test_prediction_layers_behind_the_last_are_counted(checkpoint, tmp_path):
    source = alter.copy(checkpoint("deepseek_v3"), tmp_path)
    with alter.weights(source) as tensors:
        last = {name: t for name, t in tensors.items() if name.startswith("model.layers.3.")}
        tensors |= {name.replace(".3.", ".4.", 1): t for name, t in last.items()}
    refused(source, "tensors of layer 4")
    with alter.table(source / CONFIG) as config:
        config["num_nextn_predict_layers"] = 1
    assert layout_of(source).prediction_layers == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": None}, "names no model_type"),
        ({"model_type": 5}, "names no model_type"),
        ({"model_type": "llama"}, "'llama' is not known"),
        ({"num_hidden_layers": None}, "does not say the number of layers"),
        ({"num_hidden_layers": 5}, "says 5 layers, and tensors of layer 4 are missing"),
        ({"num_hidden_layers": 3}, "says 3 layers, and there are tensors of layer 3"),
        ({"num_hidden_layers": 0}, "not a sensible number of layers"),
        ({"num_hidden_layers": "4"}, "not a sensible number of layers"),
        ({"num_hidden_layers": True}, "not a sensible number of layers"),
        ({"num_hidden_layers": 10**9}, "not a sensible number of layers"),
        ({"num_local_experts": 8}, r"experts\.4\.gate_proj\.weight is missing"),
        ({"num_local_experts": 3}, "beyond the 3 experts"),
        ({"num_experts": 8}, "disagrees with itself.*num_experts 8, num_local_experts 4"),
        ({"num_experts_per_tok": 5}, "5 experts per token of 4"),
        ({"num_experts_per_tok": None}, "experts per token"),
    ],
)
def test_a_config_that_disagrees_is_refused(source, changes, says):
    with alter.table(source / CONFIG) as config:
        config |= changes
    refused(source, says)


def test_two_spellings_that_agree_are_fine(source):
    with alter.table(source / CONFIG) as config:
        config["num_experts"] = 4
    assert layout_of(source).experts == 4


def test_an_unclassified_tensor_in_a_moe_block_is_refused_with_its_name(source):
    with alter.weights(source) as tensors:
        tensors["model.layers.1.mlp.mystery"] = tensors["model.norm.weight"]
    refused(source, r"model\.layers\.1\.mlp\.mystery \[32\] is in a MoE block")


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("qwen3_moe", "model.layers.1.mlp.experts.{}.up_proj.delta"),
        ("qwen3_moe", "model.layers.1.mlp.experts.{}.up_proj.inner.weight"),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj_delta"),
    ],
)
def test_a_tensor_of_an_expert_that_no_format_has_is_refused(
    checkpoint, tmp_path, model_type, name
):
    source = alter.copy(checkpoint(model_type), tmp_path)
    with alter.weights(source) as tensors:
        for expert in range(4):
            tensors[name.format(expert)] = torch.ones(4, 4)
    refused(source, "stands where experts are, and is neither a weight nor a part of one")


@pytest.mark.parametrize("part", ["bias", "scales", "weight_scale_2", "input_scale", "absmax"])
def test_a_tensor_of_an_expert_that_some_format_has_is_not(source, part):
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith("up_proj.weight")]:
            if part == "absmax":  # of no format that is known, beside codes
                tensors[name] = tensors[name].to(torch.uint8)
            tensors[name.removesuffix("weight") + part] = torch.ones(4)
    assert layout_of(source).experts == 4


def test_an_unclassified_tensor_elsewhere_is_taken_along(source):
    with alter.weights(source) as tensors:
        tensors["model.layers.1.self_attn.mystery"] = tensors["model.norm.weight"]
        tensors["mystery"] = tensors["model.norm.weight"] + 1
    assert "mystery" not in layout_of(source).places


def test_a_missing_expert_is_refused_with_its_name(source):
    with alter.weights(source) as tensors:
        del tensors["model.layers.2.mlp.experts.1.up_proj.weight"]
    refused(source, r"model\.layers\.2\.mlp\.experts\.1\.up_proj\.weight is missing")


def test_a_missing_router_is_refused(source):
    with alter.weights(source) as tensors:
        del tensors["model.layers.2.mlp.gate.weight"]
    refused(source, r"model\.layers\.2 has experts and no router")


def test_a_router_with_too_many_rows_is_refused(source):
    with alter.weights(source) as tensors:
        router = tensors["model.layers.0.mlp.gate.weight"]
        tensors["model.layers.0.mlp.gate.weight"] = router.repeat(2, 1)
    refused(source, "has 8 rows for 4 experts")


def test_fused_experts_with_too_few_rows_are_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint("gpt_oss"), tmp_path)
    with alter.weights(source) as tensors:
        name = "model.layers.0.mlp.experts.down_proj_bias"
        tensors[name] = tensors[name][:3]
    refused(source, "has 3 rows for 4 experts")


def test_layers_without_any_expert_are_refused(source):
    with alter.weights(source) as tensors:
        for name in list(tensors):
            if ".mlp." in name:
                del tensors[name]
    refused(source, "no layer has experts")


def test_layers_under_names_of_another_family_are_refused_with_an_example(source):
    with alter.weights(source) as tensors:
        for name in list(tensors):
            tensors["transformer." + name] = tensors.pop(name)
    assert "transformer." in refused(source, "no layers that are named as in qwen3_moe").hint


def test_experts_outside_all_layers_are_refused(source):
    with alter.weights(source) as tensors:
        tensors["draft.0.mlp.experts.0.up_proj.weight"] = tensors["model.norm.weight"]
    refused(source, "looks like an expert and stands outside all layers")


def test_experts_deeper_in_a_layer_than_the_family_says_are_refused(source):
    with alter.weights(source) as tensors:
        for name, tensor in list(tensors.items()):
            if name.startswith("model.layers.3."):
                tensors[name.replace("model.layers.3.", "mtp.layers.0.deep.")] = tensor
    refused(source, r"mtp\.layers\.0\.deep\.mlp\.experts.* is deeper in its layer than experts are")


def test_every_problem_is_told_at_once(source):
    with alter.weights(source) as tensors:
        del tensors["model.layers.0.mlp.experts.1.up_proj.weight"]
        del tensors["model.layers.2.mlp.gate.weight"]
        tensors["model.layers.1.mlp.mystery"] = tensors["model.norm.weight"]
    message = refused(source, "not laid out as qwen3_moe").message
    assert all(word in message for word in ("experts.1", "layers.2", "mystery"))


@pytest.mark.parametrize("digit", ["²", "٣", "9" * 500])
def test_a_name_that_ends_in_odd_digits_is_carried_along(source, digit):
    name = "model.layers.0.self_attn." + digit
    with alter.weights(source) as tensors:
        tensors[name] = tensors["model.norm.weight"]
    assert name in {output.name for output in build.start(layout_of(source)).outputs}


@pytest.mark.parametrize("number", ["9" * 500, "1٠", "4"])
def test_a_layer_or_expert_of_an_odd_number_is_refused(source, number):
    with alter.weights(source) as tensors:
        tensors[f"model.layers.{number}.mlp.gate.weight"] = tensors["model.norm.weight"]
        tensors[f"model.layers.0.mlp.experts.{number}.x"] = tensors["model.norm.weight"]
    refused(source, "not laid out as qwen3_moe")


def test_keys_that_each_say_a_part_of_what_is_dense_are_told_together(checkpoint, tmp_path):
    source = alter.copy(checkpoint("ernie4_5_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["moe_layer_start_index"] = 2
    names = "moe_layer_interval and moe_layer_start_index and moe_layer_end_index"
    refused(source, f"by {names} layer 1 is dense, and it has experts")


def test_parameters_are_elements():
    assert parameters([(2, 3), (), (0, 4)]) == 7


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("deepseek_v3", "first_k_dense_replace", 3),
        ("qwen3_moe", "mlp_only_layers", [1]),
        ("qwen3_moe", "decoder_sparse_step", 2),
        ("glm4_moe_lite", "mlp_layer_types", ["sparse"] * 4),
        ("afmoe", "num_dense_layers", 0),
        ("lfm2_moe", "num_dense_layers", None),
        ("llama4_text", "moe_layers", [1]),
        ("ernie4_5_moe", "moe_layer_interval", 2),
        ("ernie4_5_moe", "moe_layer_start_index", 0),
        ("ernie4_5_moe", "moe_layer_end_index", 2),
        ("jamba", "expert_layer_period", 4),
        ("mimo_v2_flash", "moe_layer_freq", [1, 1, 1, 1]),
        ("exaone_moe", "is_moe_layer", [True] * 4),
        ("nemotron_h", "hybrid_override_pattern", "MMEE-E"),
    ],
)
def test_a_config_that_makes_other_layers_dense_than_the_tensors_is_refused(
    checkpoint, tmp_path, model_type, key, value
):
    source = alter.copy(checkpoint(model_type), tmp_path)
    with alter.table(source / "config.json") as config:
        config[key] = value
    with pytest.raises(MoegrowError, match=r"by .* layer . is (dense|sparse)"):
        read_layout(open_checkpoint(source))
