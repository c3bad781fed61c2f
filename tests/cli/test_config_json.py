"""The new config.json: the source's own text, changed only where the maps change it."""

import json
import shutil

import alter
import pytest
import tiny

import moegrow
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError


def language(config):
    return config.get("text_config", config)


@pytest.fixture
def changed(checkpoint, tmp_path):
    """The keys that a growth changes, after `edit` has prepared the source's config."""

    def changed(model_type, *, layers=None, experts=None, **edit):
        shutil.rmtree(tmp_path / model_type, ignore_errors=True)
        source = alter.copy(checkpoint(model_type), tmp_path)
        with alter.table(source / CONFIG) as config:
            for key, value in edit.items():
                language(config)[key] = value
                if value is ...:
                    del language(config)[key]
        plan = moegrow.depth(source, layers=layers) if layers else moegrow.plan(source)
        plan = moegrow.width(plan, experts=experts) if experts else plan
        old, new = json.loads((source / CONFIG).read_text()), json.loads(plan.config)
        old, new = language(old), language(new)
        assert list(new)[: len(old)] == list(old)
        return {key: value for key, value in new.items() if key not in old or old[key] != value}

    return changed


def test_an_odd_config_keeps_every_line_but_those_that_change(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    text = (source / CONFIG).read_text()
    text = text.replace("1e-06", "1e-6").replace("10000.0", "1.0E4").replace('": 64', '" :64')
    text = text.replace('  "hidden_act"', '\t"hidden_act"').rstrip("\n") + "   "
    (source / CONFIG).write_text(text)
    plan = moegrow.width(moegrow.depth(source))
    old, new = text.split("\n"), plan.config.split("\n")
    assert len(old) == len(new)
    assert {b.strip(" ,") for a, b in zip(old, new, strict=True) if a != b} == {
        '"num_hidden_layers": 8', '"num_local_experts": 8', '"num_experts_per_tok": 4',
    }  # fmt: skip


def test_windows_line_ends_and_missing_indentation_are_kept(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    config = json.loads((source / CONFIG).read_text())
    for text in (json.dumps(config), json.dumps(config, indent=1).replace("\n", "\r\n")):
        (source / CONFIG).write_bytes(text.encode())
        expected = text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 8')
        assert moegrow.depth(source).config == expected


def test_nothing_is_changed_by_no_growth(changed):
    assert changed("gpt_oss", layers="0-3") == {}


def test_experts_change_in_every_spelling_that_is_there_and_in_no_other(changed):
    assert changed("qwen3_moe", experts="2x") == {
        "num_local_experts": 8, "num_experts_per_tok": 4,
    }  # fmt: skip
    assert changed("qwen3_moe", experts="2x", num_experts=4) == {
        "num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 4,
    }  # fmt: skip
    assert changed("qwen3_moe", experts="2x", num_experts=None) == {
        "num_local_experts": 8, "num_experts_per_tok": 4,
    }  # fmt: skip


def test_a_nested_config_is_changed_inside_alone(checkpoint):
    plan = moegrow.width(moegrow.depth(checkpoint("llama4")))
    old, new = json.loads((checkpoint("llama4") / CONFIG).read_text()), json.loads(plan.config)
    assert new["text_config"]["num_hidden_layers"] == 8
    assert new["text_config"]["num_local_experts"] == 8
    assert new["vision_config"] == old["vision_config"]
    assert new.keys() == old.keys()


def test_lists_with_an_entry_per_layer_follow_the_map(changed):
    kinds = ["sliding_attention", "full_attention"]
    assert changed("gpt_oss", layers="0,1,1,2,0") == {
        "num_hidden_layers": 5,
        "layer_types": [kinds[0], kinds[1], kinds[1], kinds[0], kinds[0]],
    }


@pytest.mark.parametrize("absent", [..., None])
def test_lists_that_the_model_would_derive_by_a_rule_are_written_out(changed, absent):
    s, f = "sliding_attention", "full_attention"
    found = changed("gpt_oss", layers="0,0,1,1,2-3", layer_types=absent)
    assert found["layer_types"] == [s, s, f, f, s, f]
    n = "linear_attention"
    found = changed("qwen3_next", layers="0-3,3", layer_types=absent)
    assert found["layer_types"] == [n, n, n, f, f]
    found = changed("qwen3_next", layers="0-3,3", layer_types=absent, full_attention_interval=2)
    assert found["layer_types"] == [n, f, n, f, f]


def test_a_rule_that_depends_on_the_config_is_applied_only_where_it_holds(changed):
    edit = {"layer_types": ..., "sliding_window": 8, "max_window_layers": 2}
    found = changed("qwen2_moe", layers="0-3,0", use_sliding_window=True, **edit)
    s, f = "sliding_attention", "full_attention"
    assert found["layer_types"] == [s, f, f, f, s]
    found = changed("qwen2_moe", layers="0-3,0", use_sliding_window=False, **edit)
    assert "layer_types" not in found


def test_numbers_of_moe_layers_follow_the_map(changed):
    found = changed("llama4_text", layers="0,0,1,2,3,3")
    assert found["moe_layers"] == [2, 4, 5]
    assert found["no_rope_layers"] == [1, 1, 1, 1, 0, 0]
    found = changed("llama4_text", layers="0,0,1,2,3,3", moe_layers=..., no_rope_layers=[])
    assert found["moe_layers"] == [2, 4, 5]
    assert found["no_rope_layers"] == [1, 1, 1, 1, 0, 0]


def test_numbers_of_layers_in_a_text_follow_the_map_and_those_behind_the_last_stay_behind(changed):
    edit = {"mlp_layer_types": ..., "moe_layers_enum": "1,2,3,4", "num_nextn_predict_layers": 1}
    found = changed("step3p7", layers="0,0,1,2,3,3", **edit)
    assert found["moe_layers_enum"] == "2,3,4,5,6"
    assert "mlp_layer_types" not in found


def test_numbers_of_dense_layers_follow_the_map(changed):
    found = changed("qwen2_moe", layers="0,0,1,0,2")
    assert found["mlp_only_layers"] == [0, 1, 3]
    assert "decoder_sparse_step" not in found


def test_a_step_between_moe_layers_is_spelled_out_as_dense_layers(checkpoint, tmp_path):
    source = alter.copy(
        checkpoint("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[]), tmp_path
    )
    new = json.loads(moegrow.depth(source).config)
    assert new["decoder_sparse_step"] == 1
    assert new["mlp_only_layers"] == [0, 1, 4, 5]
    # Where the step is still true, engines that read nothing else are right too.
    new = json.loads(moegrow.depth(source, group=2).config)
    assert (new["decoder_sparse_step"], new["mlp_only_layers"]) == (2, [])


def test_dense_layers_at_the_front_are_counted(changed):
    assert changed("deepseek_v3", layers="0,0,1-3")["first_k_dense_replace"] == 2
    assert changed("deepseek_v3", layers="1-3")["first_k_dense_replace"] == 0
    assert "first_k_dense_replace" not in changed("deepseek_v3", layers="0,1,1,2,3")


@pytest.mark.parametrize("layers", ["0-3,0-3", "1,0", "0,1,0"])
def test_a_dense_layer_behind_others_is_refused_with_flags_that_work(changed, layers):
    with pytest.raises(MoegrowError, match="first_k_dense_replace") as refused:
        changed("deepseek_v3", layers=layers)
    assert "keep_first=1" in refused.value.hint


@pytest.mark.parametrize(("layers", "first"), [("0-3,0-3", 1), ("1,0", 0), ("0,0,1-3", 2)])
def test_dense_layers_at_the_front_are_counted_as_far_as_they_go_beside_a_list(
    changed, layers, first
):
    found = changed("deepseek_v32", layers=layers)
    assert found.get("first_k_dense_replace", 1) == first
    assert found["mlp_layer_types"].count("dense") == layers.count("0")


def test_layers_in_one_text_follow_the_map_and_those_for_prediction_stay_behind(changed):
    edit = {"mlp_layer_types": ..., "num_nextn_predict_layers": 1}
    found = changed("step3p7", layers="0,0,1-3", moe_layers_enum="1, 2,3,4", **edit)
    full, sliding = "full_attention", "sliding_attention"
    assert found == {
        "num_hidden_layers": 5,
        "moe_layers_enum": "2,3,4,5",
        "layer_types": [full, full, sliding, full, sliding],
        "swiglu_limits": [0.0, 0.0, 7.0, 0.0, 7.0],
        "swiglu_limits_shared": [0.0, 0.0, 0.0, 16.0, 0.0],
    }


def test_the_pattern_of_indexers_is_changed_where_it_is_and_the_list_beside_it(changed):
    found = changed("glm_moe_dsa", layers="0-3,3", index_topk_pattern="FFSF")
    assert found["index_topk_pattern"] == "FFSFS"
    assert found["indexer_types"] == ["full", "full", "shared", "full", "shared"]
    found = changed("glm_moe_dsa", layers="0-3,3", index_topk_pattern="FFSF", indexer_types=...)
    assert "indexer_types" not in found


def test_copies_keep_their_indexers_where_no_layer_shares_one(checkpoint):
    plan = moegrow.depth(checkpoint("glm_moe_dsa", indexer_types=["full"] * 4))
    config = json.loads(plan.config)
    assert config["indexer_types"] == ["full"] * 8
    assert "index_topk_pattern" not in config
    having = {o.name.split(".")[2] for o in plan.outputs if ".indexer." in o.name}
    assert having == {str(layer) for layer in range(8)}


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("afmoe", "route_norm", True),
        ("deepseek_v3", "scoring_func", "sigmoid"),
        ("kimi_k25", "scoring_func", "sigmoid"),
        ("glm4_moe_lite", "scoring_func", "sigmoid"),
        ("nemotron_h", "norm_topk_prob", True),
    ],
)
def test_a_key_that_engines_take_for_something_else_is_written_where_it_is_absent(
    changed, model_type, key, value
):
    assert changed(model_type, experts="2x", **{key: ...})[key] == value
    assert key not in changed(model_type, experts="2x", **{key: value})
    assert key not in changed(model_type, **{key: ...})


def test_other_spellings_of_a_routers_keys_must_agree_and_are_changed_alike(changed):
    found = changed("bailing_hybrid", experts="2x", n_group=4)
    assert (found["n_group"], found["num_expert_group"]) == (8, 8)
    with pytest.raises(MoegrowError, match="num_expert_group 4, n_group 2"):
        changed("bailing_hybrid", experts="2x", n_group=2)


def test_a_list_that_is_too_short_is_refused_and_one_that_is_too_long_is_cut(changed):
    with pytest.raises(MoegrowError, match="layer_types has 2 entries for 4 layers"):
        changed("gpt_oss", layers="0-3,0", layer_types=["full_attention"] * 2)
    with pytest.raises(MoegrowError, match="layer_types"):
        changed("gpt_oss", layers="0-3,0", layer_types="full_attention")
    found = changed("gpt_oss", layers="0-2", layer_types=["full_attention"] * 9)
    assert found["layer_types"] == ["full_attention"] * 3


@pytest.mark.parametrize(
    ("model_type", "key", "odd"),
    [
        ("llama4_text", "moe_layers", 5),
        ("llama4_text", "moe_layers", "all"),
        ("llama4_text", "moe_layers", "1;3"),
        ("qwen3_moe", "mlp_only_layers", 5),
        ("qwen3_moe", "decoder_sparse_step", "2"),
        ("deepseek_v3", "first_k_dense_replace", "1"),
        ("gpt_oss", "layer_types", {"0": "full_attention"}),
        ("deepseek_v3", "n_group", "4"),
        ("deepseek_v3", "n_group", 16),
        ("deepseek_v3", "topk_group", [2]),
        ("deepseek_v3", "num_nextn_predict_layers", "1"),
    ],
)  # fmt: skip
def test_a_key_of_an_odd_type_is_refused_by_its_name(changed, model_type, key, odd):
    with pytest.raises(MoegrowError, match=key):
        changed(model_type, layers="0,1,2,3,3", experts="2x", **{key: odd})


def test_modules_that_a_quantisation_config_names_are_named_by_their_copies(changed):
    named = ["lm_head", "model.layers.0.mlp.gate", "mlp.experts.3.up_proj"]
    edit = {"quantization_config": {"modules_to_not_convert": named}}
    deep = changed("qwen3_moe", layers="0,0,1-3", **edit)["quantization_config"]
    assert deep["modules_to_not_convert"] == [
        "lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "mlp.experts.3.up_proj",
    ]  # fmt: skip
    wide = changed("qwen3_moe", experts="2x", **edit)["quantization_config"]
    assert wide["modules_to_not_convert"] == [*named, "mlp.experts.7.up_proj"]
    assert "quantization_config" not in changed("qwen3_moe", layers="0-3", **edit)


def test_a_list_as_long_as_the_layers_that_nobody_names_is_refused_in_depth_alone(changed):
    edit = {"layer_scales": [0.5] * 4, "layer_kinds": ["a", "b"] * 2, "num_experts": None}
    with pytest.raises(MoegrowError, match="layer_scales has 4 entries for 4 layers") as refused:
        changed("qwen3_moe", layers="0-3,3", **edit)
    assert "layer_kinds has 4 entries" in refused.value.message
    assert "family='FILE.toml'" in refused.value.hint
    assert "layer_scales" not in changed("qwen3_moe", experts="2x", **edit)
    assert changed("qwen3_moe", layers="0-3", **edit) == {}


def test_a_list_with_an_entry_for_a_prediction_layer_too_is_refused(changed):
    edit = {"num_nextn_predict_layers": 1, "layer_scales": [0.5] * 5}
    with pytest.raises(MoegrowError, match="layer_scales has 5 entries for 4 layers"):
        changed("deepseek_v3", layers="0-3,3", **edit)
    edit["num_nextn_predict_layers"] = 0
    assert "layer_scales" not in changed("deepseek_v3", layers="0-3,3", **edit)


@pytest.mark.parametrize(
    ("model_type", "edit"),
    [
        ("qwen3_moe", {"eos_token_id": [1, 2, 3, 4], "architectures": ["Qwen3MoeForCausalLM"] * 4}),
        ("qwen3_moe", {"rope_scaling": {"long_factor": [1.0] * 4, "mrope_section": [1] * 4}}),
        ("qwen3_moe", {"layer_scales": [0.5] * 3, "quantization_config": {"bits": [8] * 4}}),
        ("glm4v_moe", {"mrope_section": [2, 3, 3]}),
        ("nemotron_h", {"mtp_layers_block_type": ["moe"] * 6, "time_step_limit": [0.0] * 6}),
        ("mellum", {"mtp_layer_types": ["full_attention"] * 4}),
        ("ernie4_5_vl_moe", {"moe_intermediate_size": [64] * 4}),
    ],
)
def test_lists_about_something_else_may_have_any_length(changed, model_type, edit):
    found = changed(model_type, layers="0-3,3" if model_type != "nemotron_h" else "0-5,5", **edit)
    assert not found.keys() & edit.keys()


@pytest.mark.parametrize(
    ("model_type", "key", "old", "new"),
    [
        ("mimo_v2_flash", "hybrid_layer_pattern", [0, 1, 1, 0], [0, 0, 1, 1, 0]),
        ("mimo_v2_flash", "moe_layer_freq", [0, 1, 1, 1], [0, 0, 1, 1, 1]),
        ("exaone_moe", "is_moe_layer", [False, True, True, True], [False, False, True, True, True]),
        ("minimax_m2", "attn_type_list", [1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ("step3p7", "use_rope_layers", [True, True, False, True], [True, True, True, False, True]),
    ],
)
def test_lists_of_published_configs_follow_the_map(changed, model_type, key, old, new):
    assert changed(model_type, layers="0,0,1-3", **{key: old})[key] == new


def test_what_is_left_to_a_default_is_written_where_it_changes(changed):
    found = changed("mixtral", experts="2x", num_experts_per_tok=...)
    assert found == {"num_local_experts": 8, "num_experts_per_tok": 4}
    found = changed("beam", experts="2x", n_group=..., topk_group=...)
    assert (found["n_group"], found["topk_group"]) == (16, 8)
    factor = {"norm_topk_prob": False, "routed_scaling_factor": ...}
    assert changed("axk1", experts="2x", **factor)["routed_scaling_factor"] == 1.25
    found = changed("inkling2_text", layers="0,0,1,1,2,2,3,3", n_layers_per_attn_res_block=...)
    assert found["n_layers_per_attn_res_block"] == 12


def test_a_key_that_is_null_is_not_left_to_its_default(changed):
    assert not changed("beam", experts="2x", n_group=None).keys() & {"n_group", "topk_group"}


def test_lists_that_are_left_to_a_default_are_written_where_they_change(changed):
    linear = "linear_attention"
    absent = {"layer_types": ...}
    found = changed("kimi_linear", layers="0-3,3", **absent, linear_attn_config=...)
    assert (
        found["layer_types"] == [linear] * 5
    )  # of five layers, the class would make the last full
    kinds = {"linear_attn_config": {"kda_layers": [1, 3], "full_attn_layers": [2, 4]}}
    found = changed("kimi_linear", layers="0-3,3", **absent, **kinds)
    assert found["linear_attn_config"] == {"kda_layers": [1, 3], "full_attn_layers": [2, 4, 5]}
    found = changed("deepseek_v4", layers="3,0", layer_types=..., mlp_layer_types=...)
    assert found["mlp_layer_types"] == ["moe", "hash_moe"]
    assert found["layer_types"] == ["compressed_sparse_attention", "heavily_compressed_attention"]


def test_what_tables_around_the_language_model_say_too_is_changed_alike(checkpoint, tmp_path):
    source = alter.copy(checkpoint("glm4v_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config |= {"num_hidden_layers": 4, "n_routed_experts": 8, "num_experts_per_tok": 99}
        config["layer_types"] = ["a", "b", "c", "d"]
    config = json.loads(moegrow.width(moegrow.depth(source, layers="0,0-3")).config)
    assert config["num_hidden_layers"] == config["text_config"]["num_hidden_layers"] == 5
    assert config["n_routed_experts"] == config["text_config"]["n_routed_experts"] == 16
    assert config["num_experts_per_tok"] == 99  # another thing than the language model's
    assert config["layer_types"] == ["a", "a", "b", "c", "d"]
    assert "layer_types" not in config["text_config"]


def test_every_form_of_key_in_a_table_around_the_language_model_grows(checkpoint, tmp_path):
    source = alter.copy(checkpoint("glm4v_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        first = config["text_config"].pop("first_k_dense_replace")
        config |= {"first_k_dense_replace": first, "mlp_layer_types": ["x"]}
    config = json.loads(moegrow.depth(source, layers="0,0-3").config)
    assert first == 1
    assert config["first_k_dense_replace"] == 2
    assert config["mlp_layer_types"] == ["x"]  # another thing than the language model's


def test_a_silent_copy_selects_no_keys_for_layers_that_compute(checkpoint):
    source = checkpoint("hy_v4")  # full, full, shared, full
    plan = moegrow.depth(source, layers="0,1,3,1,2,3,0", new_layers="identity")
    kinds = json.loads(plan.config)["indexer_types"]
    # The second copy of layer 1 stands before layer 2, which uses what layer 3 selects.
    assert kinds == ["full", "full", "full", "shared", "shared", "shared", "full"]
    plan = moegrow.depth(source, layers="0,1,3,1,2,3,0", new_layers="copy")
    kinds = json.loads(plan.config)["indexer_types"]
    assert kinds == ["full", "full", "full", "full", "shared", "full", "full"]


@pytest.mark.parametrize(("layers", "is_right"), [("0-3,2", True), ("1,1,0", True), ("2,1", False)])
def test_layers_with_tables_by_their_place_keep_their_order(checkpoint, layers, is_right):
    source = checkpoint("qwen4_exp_text", ple_layer_ids=[2, 3])
    if is_right:
        moegrow.depth(source, layers=layers)
        return
    with pytest.raises(MoegrowError, match="ple_layer_ids") as refused:
        moegrow.depth(source, layers=layers)
    assert "mode='interpose'" in refused.value.hint


def test_a_layer_that_shares_an_indexer_cannot_be_first_and_the_hint_works(checkpoint):
    source = checkpoint("hy_v4")
    with pytest.raises(MoegrowError, match="puts it first") as refused:
        moegrow.depth(source, layers="2,3,0")
    layers = refused.value.hint.split("layers=")[-1].strip("'")
    kinds = json.loads(moegrow.depth(source, layers=layers).config)["indexer_types"]
    assert kinds == ["full", "shared", "full", "full"]


# Layers 1 and 3 use the keys of layers 0 and 2. Where two stand wrong, the second hint mends both.
@pytest.mark.parametrize(
    ("layers", "mended"),
    [
        ("1-3", ["0-3"]),
        ("0,2,3,1", ["0,2-3,0-1"]),
        ("0-3,1", ["0-3,0-1"]),
        ("0,2,1,3", ["0,2,0-1,3", "0,2,0-3"]),
    ],
)
def test_a_layer_stands_behind_its_owner_with_no_other_between(
    checkpoint, tmp_path, layers, mended
):
    source = checkpoint(
        "mistral_large4", kv_source_layers=[0, 0, 2, 2], no_rope_layers=[1] * 4,
        indexer_types=["full"] * 4,
    )  # fmt: skip
    hints = []
    for _ in mended:
        with pytest.raises(MoegrowError, match="uses the keys and values of layer") as refused:
            moegrow.depth(source, layers=layers)
        hints.append(layers := refused.value.hint.split("layers=")[-1].strip("'"))
    assert hints == mended
    moegrow.apply(moegrow.depth(source, layers=layers), tmp_path / "grown")
    tiny.load(tmp_path / "grown")


def test_owners_that_the_source_has_between_others_may_stand_there(checkpoint, tmp_path):
    """Layers with and without RoPE keep their keys apart."""
    settings = {"kv_source_layers": [0, 1, 0, 1], "no_rope_layers": [1, 0, 1, 0]}
    source = checkpoint("mistral_large4", **settings)
    plan = moegrow.depth(source, new_layers="identity")
    assert json.loads(plan.config)["text_config"]["kv_source_layers"] == [0, 1, 2, 3, 0, 0, 2, 2]
    moegrow.apply(plan, tmp_path / "grown")
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < 1e-5


def test_a_map_that_ends_with_a_layer_that_cannot_be_the_last_is_refused(checkpoint, run, tmp_path):
    """Gemma 4's config class makes the last layer a full one, whatever layer_types says."""
    source = checkpoint("gemma4_text")
    assert tiny.text_config(source)["layer_types"][-2:] == ["sliding_attention", "full_attention"]
    refused = run("depth", "--layers", "0-3,2", source, "-o", "grown", code=1).stderr
    assert "ends with layer 2, which is sliding_attention" in refused
    assert not (tmp_path / "grown").exists()
    run("depth", "--layers", "0-3,2,3", source, "-o", "grown")
    tiny.load(tmp_path / "grown")
