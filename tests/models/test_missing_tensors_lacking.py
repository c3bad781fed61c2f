"""A layer that lacks what the others of its kind have is named; layers may differ by the config."""

from importlib.resources import files

import alter
import pytest
import torch

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout


def refused(folder):
    with pytest.raises(MoegrowError, match="not laid out as") as error:
        read_layout(open_checkpoint(folder))
    return error.value.message


# An attention projection; a bias of the router; a shared expert; all
# matrices of a kind of the experts; a norm in a model with two kinds of attention.
@pytest.mark.parametrize(
    ("model_type", "lost"),
    [
        ("qwen3_moe", "model.layers.1.self_attn.q_proj.weight"),
        ("deepseek_v3", "model.layers.3.self_attn.o_proj.weight"),
        ("deepseek_v3", "model.layers.2.mlp.gate.e_score_correction_bias"),
        ("glm4_moe", "model.layers.3.mlp.shared_experts.up_proj.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.*.w3.weight"),
        ("gpt_oss", "model.layers.3.self_attn.sinks"),
        ("mimo_v2_flash", "model.layers.3.input_layernorm.weight"),
    ],
)
def test_a_layer_that_lacks_what_its_like_have_is_named(checkpoint, tmp_path, model_type, lost):
    source = alter.copy(checkpoint(model_type), tmp_path)
    with alter.weights(source) as tensors:
        before, _, after = lost.partition("*")
        gone = [name for name in tensors if name.startswith(before) and name.endswith(after)]
        assert gone
        for name in gone:
            del tensors[name]
    _, number, name = lost.removeprefix("model.").split(".", 2)
    assert f"layer {number} lacks {name}, which" in refused(source)


def test_what_only_one_layer_has_is_taken_along(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["model.layers.1.self_attn.more"] = torch.ones(2)
    assert read_layout(open_checkpoint(source)).layers == 4


def test_a_list_in_the_config_tells_layers_apart(checkpoint, tmp_path):
    source = alter.copy(checkpoint("gpt_oss"), tmp_path)
    with alter.weights(source) as tensors:
        del tensors["model.layers.3.self_attn.sinks"]
    refused(source)
    with alter.table(source / CONFIG) as config:
        config["has_sinks"] = [True, True, True, False]
    assert read_layout(open_checkpoint(source)).layers == 4


def test_a_family_file_may_say_that_layers_lack_something(checkpoint, tmp_path, run):
    source = alter.copy(checkpoint("gpt_oss"), tmp_path)
    with alter.weights(source) as tensors:
        del tensors["model.layers.3.self_attn.sinks"]
    text = files("moegrow.families").joinpath("gpt_oss.toml").read_text()
    own = text.replace('block = ["mlp."]', 'block = ["mlp."]\noptional = ["self_attn.sinks"]')
    assert own != text
    assert read_layout(open_checkpoint(source), family_text=own).layers == 4
    done = run("width", source, "-o", "grown", code=1)
    assert "optional" in done.stderr


@pytest.mark.parametrize("ending", ["weight_scale", "weight_packed"])
def test_layers_may_be_quantised_or_not(checkpoint, tmp_path, ending):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for layer in (0, 1, 2):
            name = f"model.layers.{layer}.self_attn.q_proj."
            tensors[name + ending] = tensors[name + "weight"].clone()
            if ending == "weight_packed":
                del tensors[name + "weight"]
    assert read_layout(open_checkpoint(source)).layers == 4


def test_identity_layers_are_refused_where_an_output_has_another_name(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith("self_attn.o_proj.weight")]:
            tensors[name.replace("o_proj", "out_proj")] = tensors.pop(name)
    done = run("depth", "--new-layers", "identity", source, "-o", "grown", code=1)
    assert "layer 0 has attention weights, and no output of them is known" in done.stderr
    run("depth", source, "-o", "grown")
