"""Base models without the prefix of the model around them, and with it twice, load and grow."""

import json

import alter
import pytest
import tiny
import torch
import transformers

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.name_variants import with_prefixes_of
from moegrow.families.read_layout import read_layout
from moegrow.families.registry import find_family, known_types
from moegrow.families.tensor_names import locator


@pytest.fixture
def base(checkpoint, tmp_path):
    """A tiny model without its head, saved by transformers, and its class."""

    def base(model_type):
        model = tiny.load(checkpoint(model_type)).base_model
        model.save_pretrained(tmp_path / model_type, max_shard_size="60KB")
        return tmp_path / model_type, type(model)

    return base


def hidden_states(model_class, folder):
    model, report = model_class.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    tokens = torch.randint(3, 56, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(input_ids=tokens, use_cache=False).last_hidden_state


# Plain names; a table that packs all layers; tensors beside the layers; a vision part, and another
# prefix; names that only the published layout has.
@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "gemma4_text", "inkling2_text", "dbrx", "kimi_k25"]
)
def test_a_base_model_grows_and_loads_as_what_it_was(model_type, base, run, tmp_path):
    source, model_class = base(model_type)
    plan = run("depth", "--new-layers", "identity", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    run("verify", "grown")
    before = hidden_states(model_class, source)
    after = hidden_states(model_class, tmp_path / "grown")
    assert tiny.distance(before, after) < 1e-4


def test_a_doubled_prefix_grows_and_loads(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in list(tensors):
            tensors["model." + name] = tensors.pop(name)
    before = tiny.logits(source)
    plan = run("depth", "--new-layers", "identity", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    assert tiny.distance(before, tiny.logits(tmp_path / "grown")) < 1e-4


def test_modules_that_a_quantisation_config_names_move_with_the_layers(base):
    source, _ = base("qwen3_moe")
    names = ["layers.3.mlp.gate", "model.layers.2.mlp.gate"]
    with alter.table(source / CONFIG) as config:
        config["quantization_config"] = {"modules_to_not_convert": names}
    grown = json.loads(moegrow.depth(source).config)["quantization_config"]
    assert grown["modules_to_not_convert"] == [
        "layers.6.mlp.gate", "layers.7.mlp.gate", "model.layers.4.mlp.gate",
        "model.layers.5.mlp.gate",
    ]  # fmt: skip


def test_a_layer_that_stands_there_under_two_prefixes_is_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    name = "model.layers.1.input_layernorm.weight"
    with alter.weights(source) as tensors:
        tensors[name.removeprefix("model.")] = tensors[name]
    with pytest.raises(MoegrowError, match=r"layers\.1\.\S+ and \S+layers\.1\.\S+ are the same"):
        read_layout(open_checkpoint(source))


def test_a_prefix_that_no_loader_takes_is_refused_with_an_example(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in list(tensors):
            tensors["module." + name] = tensors.pop(name)
    with pytest.raises(MoegrowError, match="no layers that are named as in") as error:
        read_layout(open_checkpoint(source))
    assert "module." in error.value.hint


@pytest.mark.parametrize("model_type", known_types())
def test_names_are_found_with_the_prefix_once_less_and_once_more(model_type):
    family = find_family(model_type)
    for prefix in family.tensors.base_prefix:
        for pattern in family.tensors.layers:
            name = pattern.replace("{layer}", "7") + "x"
            for changed in (name.removeprefix(prefix), prefix + name):
                place = locator(with_prefixes_of(family, [changed]))(changed)
                assert place
                assert place.layer == 7
                assert not place.is_prediction


def test_a_family_stays_as_it_is_where_no_name_needs_more():
    family = find_family("qwen3_moe")
    outside = ["lm_head.weight", "visual.blocks.0.norm.weight", "model.norm.weight"]
    assert with_prefixes_of(family, outside) is family


def composites():
    """Known model types with the types of their language models, as transformers has them."""
    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    for model_type in known_types():
        if model_type in mapping:
            found = [mapping[model_type]]
            while found:
                for key, part in (getattr(found.pop(), "sub_configs", None) or {}).items():
                    if key in ("text_config", "thinker_config") and hasattr(part, "model_type"):
                        found.append(part)
                        if key == "text_config" and part.model_type:
                            yield model_type, part.model_type


def test_language_models_of_known_models_are_known_alone():
    assert len({text for _, text in composites()}) > 10
    assert {text for _, text in composites()} <= set(known_types())


@pytest.mark.parametrize("model_type", ["qwen3_vl_moe", "glm4v_moe", "mistral_large4"])
def test_a_language_model_that_is_saved_alone_grows(model_type, checkpoint, run, tmp_path):
    model = tiny.load(checkpoint(model_type)).model.language_model
    model.save_pretrained(tmp_path / "text")
    assert model.config.model_type == f"{model_type}_text"
    plan = run("depth", "--new-layers", "identity", "text", "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    before = hidden_states(type(model), tmp_path / "text")
    after = hidden_states(type(model), tmp_path / "grown")
    assert tiny.distance(before, after) < 1e-4
