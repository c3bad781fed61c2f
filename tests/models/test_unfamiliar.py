"""Checkpoints of another architecture under a known type are refused, or grown by its own rules."""

import json
import re
from pathlib import Path

import alter
import numpy as np
import pytest
import tiny
import torch

import moegrow
from moegrow.checkpoint.store import CONFIG
from moegrow.planning.notices import NoticeKind, notices
from moegrow.planning.open_source import load

OTHER = "MyQwen3MoeForCausalLM"


def config_of(name):
    return json.loads((tiny.CONFIGS / f"{name}.json").read_text())


@pytest.fixture
def forked(checkpoint, tmp_path):
    """A checkpoint whose class is not one of its model type."""
    source = alter.copy(checkpoint(), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["architectures"] = [OTHER]
    return source


def test_depth_of_a_class_that_nobody_tried_is_refused_until_the_config_names_one_that_was(
    run, forked, tmp_path
):
    for flags in (), ("--new-layers", "identity"):
        refused = run("depth", *flags, forked, "-o", "grown", code=1)
        assert OTHER in refused.stderr
        assert '"architectures" in config.json' in refused.stderr
        assert not (tmp_path / "grown").exists()
    with alter.table(forked / CONFIG) as config:
        config["architectures"] = ["Qwen3MoeForCausalLM"]
    run("depth", forked, "-o", "grown")


@pytest.mark.parametrize("silent", [[], [1]])
def test_a_plan_whose_header_repeats_layers_of_such_a_class_is_refused(
    run, forked, tmp_path, silent
):
    header, *lines = run("width", forked, "--plan").stdout.splitlines()
    edited = json.loads(header)
    edited["growth"] |= {"layers": [0, *edited["growth"]["layers"]], "silent": silent}
    text = "\n".join([json.dumps(edited), *lines])
    (tmp_path / "plan.jsonl").write_text(text)
    for command in (["apply", "plan.jsonl", "-o", "grown"], ["width", "plan.jsonl", "-o", "grown"]):
        assert OTHER in run(*command, code=1).stderr
    assert OTHER in run("depth", "--plan", code=1, stdin=text).stderr


def test_depth_of_such_a_class_goes_by_a_family_file_of_ones_own(run, forked, tmp_path):
    text = (Path(moegrow.__file__).parent / "families" / "qwen_moe.toml").read_text()
    (tmp_path / "own.toml").write_text(text)
    done = run("depth", forked, "--family", "own.toml", "-o", "grown")
    assert OTHER not in done.stderr


def test_width_of_such_a_class_is_told_and_inspecting_it_is_not(run, forked):
    (told,) = notices(*load(moegrow.width(forked)))
    assert (told.about, told.kind, told.is_warning) == ("source", NoticeKind.OTHER_CLASS, True)
    assert OTHER in told.text
    assert OTHER not in run("inspect", forked).stderr


def test_a_config_that_names_no_class_or_a_base_or_another_head_grows(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    for named in (None, [], ["Qwen3MoeModel"], ["Qwen3MoeForSequenceClassification"]):
        with alter.table(source / CONFIG) as config:
            config["architectures"] = named
        done = run("depth", source, "--dry-run", "--json", "-o", "grown")
        assert json.loads(done.stdout)["warnings"] == []


def test_keys_that_may_speak_of_layers_are_told_with_depth_and_not_with_width(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["memory_layer_interval"] = 2
    (told,) = notices(*load(moegrow.depth(source)))
    assert (told.about, told.kind, told.is_warning) == ("depth", NoticeKind.OTHER_KEYS, True)
    assert "memory_layer_interval 2" in told.text
    assert notices(*load(moegrow.width(source))) == ()


@pytest.fixture
def ling25(checkpoint, tmp_path):
    """Ling 2.5: the linear layers of bailing_hybrid keep queries, keys and values in one matrix."""
    source = alter.copy(checkpoint("bailing_hybrid"), tmp_path)
    with alter.weights(source) as weights:
        for name in [name for name in weights if name.endswith("attention.v_proj.weight")]:
            prefix = name.removesuffix("v_proj.weight")
            parts = [weights.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
            weights[f"{prefix}query_key_value.weight"] = torch.cat(parts)
    with alter.table(source / CONFIG) as config:
        config["architectures"] = ["BailingMoeV2_5ForCausalLM"]
    return source


@pytest.mark.parametrize("names_its_class", [True, False])
def test_layers_with_a_decay_of_their_number_are_refused_in_depth_and_grow_in_width(
    run, ling25, names_its_class, tmp_path
):
    if not names_its_class:
        with alter.table(ling25 / CONFIG) as config:
            del config["architectures"]
    for flags in (), ("--new-layers", "identity"):
        done = run("depth", *flags, ling25, "-o", "grown", code=1)
        assert "layer 0 has attention.query_key_value.weight" in done.stderr
        assert "the decay of such a linear layer" in done.stderr
        assert "hint: grow it in width" in done.stderr
    done = run("width", "--noise", "0", ling25, "--json", "-o", "grown")
    assert json.loads(done.stdout)["warnings"] == []


def test_ling_3_without_a_group_size_has_the_one_of_transformers(run, checkpoint, tmp_path):
    source = alter.copy(
        checkpoint("bailing_hybrid", num_hidden_layers=7, layer_group_size=6), tmp_path
    )
    with alter.table(source / CONFIG) as config:
        del config["layer_group_size"], config["layer_types"]
    before = tiny.logits(source)
    run("depth", "--new-layers", "identity", source, "-o", "grown")
    assert tiny.text_config(tmp_path / "grown")["layer_types"].count("full_attention") == 2
    assert tiny.distance(before, tiny.logits(tmp_path / "grown")) < 1e-4


def test_limits_with_an_entry_for_each_layer_grow_with_the_layers(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint("bailing_hybrid"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["expert_swiglu_limit_list"] = [0, 1, 2, 3]
        config["share_expert_swiglu_limit_list"] = [4, 5, 6, 7]
    run("depth", source, "-o", "grown")
    grown = tiny.text_config(tmp_path / "grown")
    assert grown["expert_swiglu_limit_list"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert grown["share_expert_swiglu_limit_list"] == [4, 4, 5, 5, 6, 6, 7, 7]


def blocks_of_residuals(size, layers):
    """A model in which each layer reads a mixture of what came out of the blocks before it.

    `layers` has a weight for each layer, and a query; a block begins every `size` layers.
    """
    past, now = [], np.ones(8)
    for number, (weight, query) in enumerate(layers):
        if number % size == 0:
            past.append(now)
            now = np.zeros(8)
        rows = np.array([*past, now])
        shares = np.exp(rows @ query)
        now = now + weight @ np.tanh(shares @ rows / shares.sum())
    return sum(past) + now


def test_blocks_of_residuals_grow_with_the_layers_of_a_kimi(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint("kimi_linear"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["attn_res_block_size"] = 2
    done = run("depth", "--keep-first", "1", source, "-o", "grown", code=1)
    assert "attn_res_block_size 2" in done.stderr
    plan = moegrow.depth(source, new_layers="identity")
    size = json.loads(plan.config)["attn_res_block_size"]
    assert size == 4
    random = np.random.default_rng(0)
    old = [(random.normal(size=(8, 8)), random.normal(size=8)) for _ in range(4)]
    growth = zip(plan.growth.layers, plan.growth.silent, strict=True)
    new = [(old[i][0] * (not silent), old[i][1]) for i, silent in growth]
    before, after = blocks_of_residuals(2, old), blocks_of_residuals(size, new)
    assert np.allclose(before, after)
    assert np.abs(before - blocks_of_residuals(2, new)).max() > 0.1


def test_a_kimi_without_blocks_takes_any_map(run, checkpoint):
    run("depth", "--keep-first", "1", checkpoint("kimi_linear"), "--dry-run", "-o", "grown")


@pytest.fixture
def lending(checkpoint, tmp_path):
    """A HunYuan in which every second layer takes keys and values from the one before."""
    source = alter.copy(checkpoint("hunyuan_v1_moe"), tmp_path)
    with alter.weights(source) as weights:
        odd = re.compile(r"model\.layers\.[13]\.self_attn\.([kv]_proj|key_layernorm)\.weight")
        for name in list(filter(odd.fullmatch, weights)):
            del weights[name]
    with alter.table(source / CONFIG) as config:
        config |= {"use_cla": True, "cla_share_factor": 2}
    return source


@pytest.mark.parametrize("layers", ["0,1,2,1,2,3", "0,3,2,1", "0-3,0", "1-3", "0,1,1"])
def test_layers_that_lend_keys_and_values_stay_with_those_that_take_them(run, lending, layers):
    done = run("depth", "--layers", layers, lending, "-o", "grown", code=1)
    assert "2 layers belong together (cla_share_factor)" in done.stderr


def test_whole_groups_of_them_are_repeated_as_the_hint_says(run, lending, tmp_path):
    assert "--group with a multiple of 2" in run("depth", lending, "-o", "grown", code=1).stderr
    run("depth", "--group", "2", lending, "-o", "grown")
    has_keys = [
        f"model.layers.{i}.self_attn.k_proj.weight" in tiny.tensors(tmp_path / "grown")
        for i in range(8)
    ]
    assert has_keys == [True, False] * 4


def test_a_factor_that_is_not_in_use_forbids_nothing(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint("hunyuan_v1_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config |= {"use_cla": False, "cla_share_factor": 2}
    done = run("depth", source, "-o", "grown", "--json")
    assert json.loads(done.stdout)["warnings"] == []


def around(model_type, folder):
    """A Mistral 3 around the tiny language model of another type, saved by transformers."""
    text = config_of(model_type)
    del text["architectures"]
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
        "image_token_index": 10, "text_config": text,
        "vision_config": config_of("mistral_large4")["vision_config"],
    }  # fmt: skip
    return tiny.save(config, folder)


def test_a_composite_around_another_model_than_the_one_tried_is_refused_by_both_types(
    run, tmp_path
):
    known = around("mistral4", tmp_path / "known")
    run("width", "--noise", "0", known, "-o", "wide")
    assert tiny.distance(tiny.logits(known), tiny.logits(tmp_path / "wide")) < 1e-4
    other = around("qwen3_moe", tmp_path / "other")
    for verb in ("width", "depth", "inspect"):
        done = run(verb, other, *(() if verb == "inspect" else ("-o", "grown")), code=1)
        assert "mistral3 around 'qwen3_moe'" in done.stderr
        assert "mistral3 around mistral4 alone" in done.stderr
        assert "--family" in done.stderr
    # The hint followed: what is known of the language model, under the type and names of the whole.
    text = (Path(moegrow.__file__).parent / "families" / "qwen_moe.toml").read_text()
    text = re.sub(r"model_types = \[.*?\]", 'model_types = ["mistral3"]', text, count=1, flags=re.S)
    text = text.replace('"thinker.model.layers', '"language_model.model.layers')
    (tmp_path / "own.toml").write_text(text)
    run("width", "--noise", "0", other, "--family", "own.toml", "-o", "grown")
    assert tiny.distance(tiny.logits(other), tiny.logits(tmp_path / "grown")) < 1e-4


def test_many_long_names_make_a_sentence_that_can_be_read(run, forked):
    with alter.table(forked / CONFIG) as config:
        config["architectures"] = ["x" * 10_000] * 1_000
    for verb, code in ("depth", 1), ("width", 0):
        done = run(verb, forked, "--dry-run", "-o", "grown", code=code)
        assert "and 994 more" in done.stderr
        assert len(done.stderr) < 4_000
