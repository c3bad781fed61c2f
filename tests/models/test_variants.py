"""Settings and layouts within a family that need something else than its usual checkpoint."""

import json
import shutil
from fractions import Fraction

import pytest
import tiny
import torch

import moegrow
from moegrow.planning.notes import FunctionLost
from moegrow.planning.router_notes import OutputsScaled, SettingScaled, UnevenCopies

HALF = Fraction(1, 2)

# Model type, settings of its text config, and what else width by 2 does.
WIDTH = [
    ("qwen3_moe", {"norm_topk_prob": False}, None),
    ("olmoe", {"norm_topk_prob": True}, None),
    ("deepseek_v2", {"topk_method": "greedy", "n_group": None, "topk_group": None}, None),
    ("deepseek_v3", {"norm_topk_prob": False}, SettingScaled("routed_scaling_factor", 2.5, 1.25)),
    ("glm4_moe", {"norm_topk_prob": False}, SettingScaled("routed_scaling_factor", 1.0, 0.5)),
    ("lfm2_moe", {"norm_topk_prob": False}, SettingScaled("routed_scaling_factor", 1.0, 0.5)),
    ("nemotron_h", {"norm_topk_prob": False}, SettingScaled("routed_scaling_factor", 2.5, 1.25)),
    ("flint", {"norm_topk_prob": False}, OutputsScaled(HALF, "undivided")),
    ("cohere2_moe", {"norm_topk_prob": False}, OutputsScaled(HALF, "undivided")),
    ("cohere2_moe", {"expert_selection_fn": "softmax"}, None),
    ("kolibri1", {"norm_topk_prob": True}, None),
    (
        "dbrx",
        {"ffn_config": {"moe_normalize_expert_weights": 2.0}},
        OutputsScaled(0.5**0.5, "divided by a norm", 2.0),
    ),
    ("dbrx", {"ffn_config": {"moe_normalize_expert_weights": None}}, None),
    ("lfm2_moe", {"use_expert_bias": False}, None),
    ("nemotron_h", {"moe_latent_size": 16}, None),
    ("llama4_text", {"num_experts_per_tok": 2}, OutputsScaled(HALF, "on the input")),
    ("gemma4_text", {"hidden_size_per_layer_input": 16}, None),
]

# Model type, settings, flags and the config keys that depth must have written.
DEPTH = [
    ("qwen3_moe", {"decoder_sparse_step": 2}, [], {"decoder_sparse_step": 1}),
    ("qwen2_moe", {"mlp_only_layers": [1, 2]}, [], {"mlp_only_layers": [2, 3, 4, 5]}),
    ("deepseek_v3", {"first_k_dense_replace": 2}, [], {"first_k_dense_replace": 4}),
    ("ernie4_5_moe", {"moe_layer_interval": 2, "moe_layer_start_index": 0}, ["--group", "2"], {}),
    ("ernie4_5_moe", {"moe_layer_end_index": -1}, [], {"moe_layer_start_index": 2}),
    ("ernie4_5_moe", {"moe_layer_end_index": 2}, [], {"moe_layer_end_index": 5}),
    ("gemma4_text", {"hidden_size_per_layer_input": 16}, [], {}),
    (
        "gemma4_text",
        {"hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2},
        [],
        {"num_kv_shared_layers": 4},
    ),
    ("afmoe", {"num_dense_layers": 2}, [], {"num_dense_layers": 4}),
    ("llama4_text", {"moe_layers": [0, 1]}, [], {"moe_layers": [0, 1, 2, 3]}),
    ("flint", {"mlp_only_layers": []}, [], {"mlp_only_layers": []}),
    ("mistral_large4", {"kv_source_layers": [0, 0, 2, 3]}, [], {}),
    ("qwen3_moe", {}, ["--mode", "stack"], {}),
    ("qwen3_next", {}, ["--mode", "expand", "--every", "2"], {}),
    ("gpt_oss", {}, ["--mode", "overlap", "--drop", "1"], {}),
    ("qwen3_moe", {"tie_word_embeddings": True}, [], {}),
]

# Config keys that a rule stands for where they are left out; test_published.py has more of them.
RULES = [
    ("gpt_oss", ["layer_types"], {}),
    ("llama4_text", ["layer_types", "moe_layers", "no_rope_layers"], {}),
    ("afmoe", ["layer_types"], {}),
    ("mellum", ["mlp_layer_types"], {}),
    ("laguna", ["mlp_layer_types"], {}),
    ("inkling_text", ["layer_types"], {}),
    ("granitemoe_swa", ["layer_types"], {}),
]


def build(model_type, settings, folder):
    """A tiny checkpoint with settings of its own; nested settings are merged."""
    config = json.loads((tiny.CONFIGS / f"{model_type}.json").read_text())
    merged = {
        key: config.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in settings.items()
    }
    return tiny.build(model_type, folder / model_type, **merged)


@pytest.mark.parametrize(("model_type", "settings", "scaled"), WIDTH)
@pytest.mark.parametrize("times", ["2x", "3x"])
def test_width_keeps_the_logits(tmp_path, model_type, settings, scaled, times):
    source = build(model_type, settings, tmp_path)
    plan = moegrow.width(source, experts=times, noise=0)
    (step,) = plan.steps
    assert step.preserves_function
    found = [note for note in step.notes if isinstance(note, OutputsScaled | SettingScaled)]
    if times == "2x":
        assert found == ([scaled] if scaled else [])
    assert bool(found) == bool(scaled)
    moegrow.apply(plan, tmp_path / "grown")
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < 2e-4


@pytest.mark.parametrize(("model_type", "settings", "flags", "written"), DEPTH)
def test_identity_depth_keeps_the_logits(run, tmp_path, model_type, settings, flags, written):
    source = build(model_type, settings, tmp_path)
    run("depth", "--new-layers", "identity", *flags, source, "-o", "grown")
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < 1e-5
    config = tiny.text_config(tmp_path / "grown")
    assert {key: config[key] for key in written} == written


@pytest.mark.parametrize(("model_type", "left_out", "added"), RULES)
def test_a_rule_is_spelled_out_where_there_is_no_list(run, checkpoint, tmp_path, model_type, left_out, added):  # noqa: E501  # fmt: skip
    source = tmp_path / model_type
    shutil.copytree(checkpoint(model_type), source)
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    for key in left_out:
        del text[key]
    text |= added
    (source / "config.json").write_text(json.dumps(config))
    before = tiny.logits(source)
    run("depth", "--new-layers", "identity", source, "-o", "grown")
    assert tiny.distance(before, tiny.logits(tmp_path / "grown")) < 1e-5


def test_a_list_that_no_rule_stands_for_must_be_there(run, checkpoint, tmp_path):
    source = tmp_path / "lfm2_moe"
    shutil.copytree(checkpoint("lfm2_moe"), source)
    config = json.loads((source / "config.json").read_text())
    del config["layer_types"]
    (source / "config.json").write_text(json.dumps(config))
    done = run("depth", source, "-o", "grown", code=1)
    assert "config.json has no layer_types" in done.stderr


def test_periodic_rules_name_the_group_that_works(run, checkpoint):
    done = run("depth", checkpoint("jamba"), code=1)
    assert "--group with a multiple of 4" in done.stderr


def test_a_table_of_experts_lists_the_copies(run, checkpoint, tmp_path):
    run("width", "--noise", "0", "--order", "interleave", checkpoint("deepseek_v4"), "-o", "grown")
    name = "model.layers.0.ffn.gate.tid2eid"
    old, new = tiny.tensors(checkpoint("deepseek_v4"))[name], tiny.tensors(tmp_path / "grown")[name]
    assert torch.equal(new, torch.cat([old * 2, old * 2 + 1], dim=1))
    assert new.dtype == torch.int64
    done = run("width", "--experts", "12", checkpoint("deepseek_v4"), "-o", "odd", code=1)
    assert "a table holds 2 experts for each token" in done.stderr


@pytest.mark.parametrize(
    ("model_type", "flags", "says"),
    [
        ("doge", ["--experts", "2x"], "--experts 4x for 64"),
        ("zaya", ["--experts", "8"], "--experts 2x for 9"),
        ("zaya", ["--top-k", "2"], "--top-k keep"),
        ("longcat_flash", ["--experts", "6"], "--experts 2x for 8"),
        ("deepseek_v3", ["--experts", "13"], "a multiple of 2 experts"),
    ],
)
def test_what_a_special_recipe_cannot_serve_is_refused(run, checkpoint, model_type, flags, says):
    done = run("width", *flags, checkpoint(model_type), "-o", "grown", code=None)
    assert done.returncode in (1, 2)
    assert says in done.stderr


def test_groups_of_experts_are_copied_as_wholes_also_where_some_have_one_copy_more(
    checkpoint, tmp_path
):
    plan = moegrow.width(checkpoint("deepseek_v3"), experts=12, noise=0)
    assert FunctionLost(UnevenCopies(4, 8, most=2, least=1)) in plan.steps[0].notes
    moegrow.apply(plan, tmp_path / "grown")
    config = tiny.text_config(tmp_path / "grown")
    assert [config[key] for key in ("n_routed_experts", "n_group", "topk_group")] == [12, 6, 3]
    name = "model.layers.1.mlp.gate.weight"
    old, new = tiny.tensors(checkpoint("deepseek_v3"))[name], tiny.tensors(tmp_path / "grown")[name]
    assert torch.equal(new, old[[0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 6, 7]])
    tiny.logits(tmp_path / "grown")
