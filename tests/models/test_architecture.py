"""What tells another architecture is silent about every class and config of transformers."""

import json

import published
import pytest
import tiny
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from moegrow.families.architecture import named_keys, other_classes, unnamed_keys
from moegrow.families.registry import find_family, known_types
from moegrow.families.schema import lookup

LOADED = [name for name in known_types() if name in CONFIG_MAPPING]
MAPPINGS = [
    table
    for name, table in vars(modeling_auto).items()
    if name.endswith("MAPPING_NAMES") and name != "CONFIG_MAPPING_NAMES" and hasattr(table, "items")
]


def full(config):
    """A config with every key that transformers has for it."""
    return json.loads(config.to_json_string(use_diff=False))


def text_of(config, family):
    """The part of a config that describes the language model, and its number of layers."""
    found = next((part for key in family.config.nested if (part := lookup(config, key))), config)
    keys = (*family.config.layers, *family.config.layers_lists)
    count = next(value for key in keys if (value := lookup(found, key)) is not None)
    return found, count if isinstance(count, int) else len(count)


def unnamed(config):
    family = find_family(config["model_type"])
    text, layers = text_of(config, family)
    return unnamed_keys(text, family, layers)


def test_every_class_that_transformers_has_for_a_type_is_of_it():
    told = set()
    for name in LOADED:
        family = find_family(name)
        found = {
            one
            for table in MAPPINGS
            if (named := table.get(name))
            for one in ([named] if isinstance(named, str) else named)
        }
        assert other_classes({"architectures": sorted(found)}, family) == []
        told |= found
    assert {
        "Qwen3MoeForCausalLM",
        "Qwen3MoeModel",
        "MiniMaxM3SparseForConditionalGeneration",
    } <= told


def test_bases_text_towers_and_other_heads_of_every_type_are_of_it():
    heads = ("Model", "TextModel", "PreTrainedModel", "ForSequenceClassification", "ForReward")
    for path in tiny.CONFIGS.glob("*.json"):
        config = json.loads(path.read_text())
        (named,) = config["architectures"]
        stem = named.partition("For")[0].removesuffix("Text")
        classes = [named, f"FSDP{named}", *(stem + head for head in heads)]
        assert other_classes({"architectures": classes}, find_family(config["model_type"])) == []


def test_classes_under_which_checkpoints_are_published_are_of_their_type():
    for name, classes in {
        "bailing_hybrid": ["BailingMoeV3ForCausalLM"],
        "exaone_moe": ["ExaoneMoEForCausalLM"],
        "hunyuan_v1_moe": ["HunYuanMoEV1ForCausalLM"],
        "jetmoe": ["JetMoEForCausalLM"],
        "kimi_k2": ["DeepseekV3ForCausalLM"],
        "kimi_k25": ["KimiK25ForConditionalGeneration"],
        "phimoe": ["PhiMoEForCausalLM"],
        "qwen3_moe": None,
    }.items():
        assert other_classes({"architectures": classes}, find_family(name)) == []


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("minimax", "MiniMaxM2ForCausalLM"),
        ("deepseek_v3", "DeepseekV32ForCausalLM"),
        ("qwen3_moe", "Qwen3NextForCausalLM"),
        ("qwen3_moe", "MyQwen3MoeForCausalLM"),
        ("bailing_hybrid", "BailingMoeLinearV2ForCausalLM"),
        ("mistral4", "Mistral3ForConditionalGeneration"),
    ],
)
def test_classes_of_another_architecture_are_told_apart(model_type, name):
    assert other_classes({"architectures": [name]}, find_family(model_type)) == [name]


def test_no_key_of_any_config_of_transformers_is_taken_for_one_that_nobody_names():
    for name in LOADED:
        assert unnamed(full(transformers.AutoConfig.for_model(name))) == {}, name
    for path in tiny.CONFIGS.glob("*.json"):
        config = json.loads(path.read_text())
        assert unnamed(config) == {}, path.stem
        assert unnamed(full(transformers.AutoConfig.for_model(**config))) == {}, path.stem


def test_no_key_of_a_published_config_is_either():
    for name, layout in published.LAYOUTS.items():
        config = json.loads((tiny.CONFIGS / f"{layout.family}.json").read_text())
        config.get("text_config", config).update(layout.settings)
        for key in reversed(layout.nested):
            config = {key: config}
        assert unnamed(published.merge(config, layout.config)) == {}, name


@pytest.mark.parametrize(
    ("key", "value", "is_told"),
    [
        ("attn_res_block_size", 2, True),
        ("dense_layer_interval", 4, True),
        ("first_k_dense_replace", 2, True),
        ("memory_layer_ids", [3], True),
        ("engram", {"layers": [0, 2]}, True),
        ("taps", [0, 2, 3], True),
        ("limits", {"of_each": [1.0, 2.0, 1.0, 2.0]}, True),
        ("dense_layer_interval", 1, False),  # every layer
        ("window_block_size", 256, False),  # more than there are layers
        ("layer_norm_eps", 2, False),
        ("some_token_ids", [1, 2], False),
        ("rope_scaling", {"long_factor": [1.0, 2.0, 1.0, 2.0]}, False),
        ("vision_config", {"window_layers": [0, 2]}, False),
        ("sizes", [3, 2], False),
    ],
)
def test_a_key_is_told_where_it_could_speak_of_layers(key, value, is_told):
    config = json.loads((tiny.CONFIGS / "qwen3_moe.json").read_text())
    assert bool(unnamed(config | {key: value})) is is_told


def test_keys_that_only_rules_read_are_named_too():
    assert "sliding_window_pattern" in named_keys(find_family("exaone_moe"))
    assert {"attn_layer_offset", "expert_layer_offset"} <= named_keys(find_family("jamba"))
    assert "max_window_layers" in named_keys(find_family("dots1"))
    assert "index_topk_pattern" in named_keys(find_family("glm_moe_dsa"))


def test_a_family_around_models_of_any_type_says_which_it_knows():
    for name in LOADED:
        specs = getattr(CONFIG_MAPPING[name], "sub_configs_defaults", {})
        text = specs.get("text_config")
        if getattr(text, "config_class", None) is transformers.AutoConfig:
            assert find_family(name).config.inner, name
