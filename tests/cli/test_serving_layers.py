"""A layer map that an engine takes for another is told, with options that suit every engine."""

import json

import pytest

import moegrow

# What engines compute from the number of a layer, written down once more and by hand: the config,
# the layer's number and how many layers there are make its kinds.


def gpt_oss(config, layer, layers):
    return layer % 2 == 0


def llama4(config, layer, layers):
    has_experts = layer % config["interleave_moe_layer_step"] == (
        config["interleave_moe_layer_step"] - 1
    )
    return has_experts, layer in range(3, layers, 4)


def laguna(config, layer, layers):
    dense = config["mlp_layer_types"].index("sparse")
    return layer in range(0, layers, 4), layer >= dense


def bailing(config, layer, layers):
    group = config["layer_group_size"]
    is_full = layer % group == group - 1 or layer >= layers - layers % group
    return is_full, layer < config["first_k_dense_replace"]


def qwen3_next(config, layer, layers):
    return layer % config.get("full_attention_interval", 4) == 3


SLIDING, FULL = "sliding_attention", "full_attention"
LAGUNA = {
    "num_hidden_layers": 8,
    "layer_types": [FULL, SLIDING, SLIDING, SLIDING] * 2,
    "mlp_layer_types": ["dense"] + ["sparse"] * 7,
    "num_attention_heads_per_layer": [2] * 8,
}
MAVERICK = {"num_hidden_layers": 8, "interleave_moe_layer_step": 2, "moe_layers": None}
SCOUT = {"num_hidden_layers": 8, "interleave_moe_layer_step": 1, "moe_layers": None}
LING = {
    "num_hidden_layers": 8, "layer_group_size": 4, "first_k_dense_replace": 1,
    "layer_types": None, "mlp_layer_types": None,
}  # fmt: skip

CASES = [
    ("gpt_oss", {}, [], gpt_oss, "--group 2", "vLLM"),
    ("gpt_oss", {}, ["--to", "6"], gpt_oss, "--to 6 --group 2", "llama.cpp"),
    (
        "gpt_oss", {}, ["--mode", "expand", "--every", "2"], gpt_oss,
        "--to 6 --group 2 --new-layers identity", "TensorRT-LLM",
    ),
    ("llama4_text", MAVERICK, [], llama4, "--group 4", "SGLang"),
    ("llama4_text", SCOUT, ["--group", "2"], llama4, "--group 4", "mlx-lm"),
    ("laguna", LAGUNA, [], laguna, "--keep-first 4 --group 4", "llama.cpp"),
    ("bailing_hybrid", LING, [], bailing, "--keep-first 4 --group 4", "SGLang"),
    (
        "bailing_hybrid", LING, ["--mode", "stack"], bailing, "--mode stack --keep-first 4",
        "vLLM",
    ),
    ("qwen3_next", {"num_hidden_layers": 8}, [], qwen3_next, "--group 4", "mlx-lm"),
]  # fmt: skip


def grown(run, source, flags):
    """The layers and the config that options of depth make, and what is said of engines."""
    done = run("depth", *flags, source, "--dry-run", "--json")
    pairs = zip(flags[::2], flags[1::2], strict=True)
    options = {key[2:].replace("-", "_"): int(v) if v.isdigit() else v for key, v in pairs}
    plan = moegrow.depth(source, **options)
    return plan.growth.layers, json.loads(plan.config), json.loads(done.stdout)["warnings"]


@pytest.mark.parametrize(
    ("model_type", "settings", "flags", "rule", "options", "engine"),
    CASES,
    ids=[" ".join([case[0], *case[2]]) for case in CASES],
)
def test_an_engine_that_computes_other_kinds_is_named_and_so_are_options_that_suit(
    run, checkpoint, model_type, settings, flags, rule, options, engine
):
    source = checkpoint(model_type, **settings)
    config = json.loads((source / "config.json").read_text())
    count = config["num_hidden_layers"]
    before = [rule(config, layer, count) for layer in range(count)]

    def suits(layer_map, config):
        after = [rule(config, layer, len(layer_map)) for layer in range(len(layer_map))]
        return after == [before[old] for old in layer_map]

    layer_map, config, told = grown(run, source, flags)
    assert not suits(layer_map, config)
    assert any(engine in text for text in told)
    assert f": depth {options} (" in told[-1]
    layer_map, config, told = grown(run, source, options.split())
    assert suits(layer_map, config)
    assert len(layer_map) > count
    assert told == []


def test_what_the_options_make_has_as_many_layers_as_is_said(run, checkpoint):
    source = checkpoint("laguna", **LAGUNA)
    told = run("depth", source, "--dry-run").stderr
    assert "depth --keep-first 4 --group 4 (12 layers)" in told
    layer_map, *_ = grown(run, source, ["--keep-first", "4", "--group", "4"])
    assert layer_map == (0, 1, 2, 3, *(4, 5, 6, 7) * 2)


def test_where_no_options_suit_nothing_is_proposed(run, checkpoint):
    told = run("depth", checkpoint("laguna"), "--dry-run").stderr
    assert "no options of depth were found" in told
    assert "what suits" not in told


@pytest.mark.parametrize(
    ("model_type", "settings", "flags"),
    [
        ("qwen3_moe", {}, []),
        ("gpt_oss", {}, ["--mode", "stack"]),
        ("gpt_oss", {"sliding_window": None, "layer_types": [FULL] * 4}, []),
        ("deepseek_v32", {}, []),
        ("cohere2_moe", {}, []),
        ("glm_moe_dsa", {}, []),
    ],
)
def test_where_engines_compute_the_same_nothing_is_said(
    run, checkpoint, model_type, settings, flags
):
    done = run("depth", *flags, checkpoint(model_type, **settings), "--dry-run")
    assert "serving:" not in done.stderr


def test_layers_without_experts_behind_others_are_told(run, checkpoint):
    done = run("depth", "--mode", "stack", checkpoint("deepseek_v32"), "--dry-run")
    assert "take only the first layers for those without experts" in done.stderr
    assert "depth --mode stack --keep-first 1 (7 layers)" in done.stderr


def test_the_options_are_for_the_last_of_several_steps(run, checkpoint):
    plan = run("depth", "--group", "2", checkpoint("gpt_oss"), "--plan").stdout
    told = run("depth", "--dry-run", stdin=plan).stderr
    assert "depth --group 2 (16 layers)" in told
    assert "serving:" not in run("depth", "--group", "2", "--dry-run", stdin=plan).stderr


def test_the_report_has_the_options(run, checkpoint, tmp_path):
    run("depth", checkpoint("gpt_oss"), "-o", "deep", "-q")
    run("report", "deep")
    assert "depth --group 2 (8 layers)" in (tmp_path / "report.html").read_text()


def test_advice_proposes_the_options(run, checkpoint):
    source = checkpoint("gpt_oss")
    (command,) = [
        line.partition(": ")[2] for line in run("advise", source).stdout.splitlines()
        if line.startswith("- depth 2x: ")
    ]  # fmt: skip
    assert command == "moegrow depth --mode interpose --group 2"
    done = run(*command.split()[1:], source, "--dry-run")
    assert "serving:" not in done.stderr


def test_letters_for_the_layers_that_share_an_indexer_say_what_the_list_says(checkpoint):
    config = json.loads(moegrow.depth(checkpoint("glm_moe_dsa")).config)
    assert config["indexer_types"].count("shared") > 1
    letters = "".join(kind[0] for kind in config["indexer_types"])
    assert config["index_topk_pattern"] == letters.replace("f", "F").replace("s", "S")
    assert "index_topk_pattern" not in json.loads(moegrow.depth(checkpoint("hy_v4")).config)
