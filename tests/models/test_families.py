"""Every family, end to end: built by transformers, grown by the command, loaded by transformers."""

import functools
import json
import re

import pytest
import tiny
import torch
from families_page import ALIASES, TYPES
from interposed import interpose

from moegrow.families.registry import find_family, known_types

# What depth growth does on purpose beside repeating layers; identity growth shows it is right.
NOT_PLAIN = {
    "beam": "weighs each layer by its number",
    "glm_moe_dsa": "copies share the indexer of their original",
    "hy_v4": "copies share the indexer of their original",
    "inkling2_text": "queries beside the layers move with them",
    "mistral_large4": "copies share the indexer of their original",
    "qwen4_exp_text": "copies go without the n-gram table",
}
NO_WIDTH = {"phimoe": "always picks two"}
NO_IDENTITY = {name for name in TYPES if find_family(name).depth.identity_is_not}
# The tiny stacks of these amplify rounding: in float64 their logits are equal.
TOLERANCE = dict.fromkeys(
    ("gemma4", "gemma4_text", "muse_spark", "qwen3_5_moe", "qwen3_next"), 3e-4
)


@pytest.fixture(scope="module", params=TYPES)
def source(request, checkpoint):
    return checkpoint(request.param)


def depth_flags(model_type):
    """What makes a family deeper: the smallest group that its config can repeat."""
    return ["--group", "4"] if model_type == "jamba" else []


def identity_flags(model_type):
    """What keeps the layers in place that another part of the model addresses by number."""
    addressed = find_family(model_type).depth.addressed
    return ["--keep-first", "2"] if addressed else depth_flags(model_type)


def factors(model_type):
    """By how much experts are copied here."""
    return ["4x", "9x"] if model_type == "doge" else ["2x", "3x"]


# The tests of one source follow each other, and none of them changes the model.


@functools.lru_cache(maxsize=1)
def loaded(source):
    return tiny.load(source)


@functools.lru_cache(maxsize=1)
def source_logits(source):
    return tiny.logits(loaded(source))


def assert_same_function(source, grown):
    tolerance = TOLERANCE.get(source.name, 1e-4)
    assert tiny.distance(source_logits(source), tiny.logits(grown)) < tolerance


@pytest.mark.parametrize("times", [2, 3])
def test_depth_equals_a_model_interposed_in_memory(source, run, tmp_path, times):
    if source.name in NOT_PLAIN:
        layer_map = None
    elif source.name == "jamba":
        layer_map = (0, 1, 2, 3) * times
    else:
        count = len(range(2 if source.name == "longcat_flash" else 4))
        count = 6 if source.name == "nemotron_h" else count
        layer_map = tuple(layer for layer in range(count) for _ in range(times))
    run("depth", "--times", f"{times}x", *depth_flags(source.name), source, "-o", "grown")
    grown = tiny.load(tmp_path / "grown")
    if layer_map:
        reference = interpose(loaded(source), layer_map)
        tolerance = TOLERANCE.get(source.name, 1e-5)
        assert tiny.distance(tiny.logits(reference), tiny.logits(grown)) < tolerance


def test_identity_depth_keeps_the_logits_or_is_refused(source, run, tmp_path):
    refused = source.name in NO_IDENTITY
    done = run(
        "depth", "--new-layers", "identity", *identity_flags(source.name), source, "-o", "grown",
        code=1 if refused else 0,
    )  # fmt: skip
    if refused:
        assert "is not the identity" in done.stderr
        assert not (tmp_path / "grown").exists()
    else:
        assert_same_function(source, tmp_path / "grown")


@pytest.mark.parametrize("which", [0, 1])
def test_width_without_noise_keeps_the_logits(source, run, tmp_path, which):
    times = factors(source.name)[which]
    if source.name in NO_WIDTH:
        done = run("width", "--experts", times, source, "-o", "grown", code=1)
        assert NO_WIDTH[source.name] in done.stderr
        assert not (tmp_path / "grown").exists()
        return
    done = run("width", "--experts", times, "--noise", "0", source, "-o", "grown", "--json")
    assert json.loads(done.stdout)["steps"][0]["preserves_function"]
    assert_same_function(source, tmp_path / "grown")


def test_width_in_interleaved_order_keeps_the_logits_or_is_refused(source, run, tmp_path):
    if source.name in NO_WIDTH:
        pytest.skip(f"width is refused: {NO_WIDTH[source.name]}")
    config = tiny.text_config(source)
    groups = config.get("n_group") or config.get("num_expert_group") or 1
    mixes_groups = groups > 1 and source.name != "deepseek_v2"
    done = run(
        "width", "--experts", factors(source.name)[0], "--noise", "0", "--order", "interleave",
        source, "-o", "grown", code=1 if mixes_groups else 0,
    )  # fmt: skip
    if mixes_groups:
        assert "--order append" in done.stderr
        assert not (tmp_path / "grown").exists()
    else:
        assert_same_function(source, tmp_path / "grown")


def test_both_in_one_pass_keep_the_logits_and_commute(source, run, tmp_path):
    kind = "copy" if source.name in NO_IDENTITY else "identity"
    deeper = ("depth", "--new-layers", kind, *identity_flags(source.name))
    wider = ("width", "--experts", factors(source.name)[0], "--noise", "0")
    plan = run(*deeper, source, "--plan").stdout
    if source.name in NO_WIDTH:
        run(*wider, "-o", "one", stdin=plan, code=1)
        return
    run(*wider, "-o", "one", stdin=plan)
    plan = run(*wider, source, "--plan").stdout
    run(*deeper, "-o", "two", stdin=plan)
    assert "as planned" in run("verify", "two").stderr
    if kind == "identity":
        assert_same_function(source, tmp_path / "one")
    else:
        run(*deeper, source, "-o", "deep")
        reference = tiny.logits(tmp_path / "deep")
        assert tiny.distance(reference, tiny.logits(tmp_path / "one")) < 1e-4
    for file in (tmp_path / "one").iterdir():
        # These name the commands, or hold digests of those that do.
        if file.name not in ("README.md", "moegrow-plan.jsonl", "moegrow-digests.jsonl"):
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_noise_moves_copies_a_little_and_nothing_else(source, run, tmp_path):
    if source.name in NO_WIDTH:
        pytest.skip(f"width is refused: {NO_WIDTH[source.name]}")
    flags = ("width", "--experts", factors(source.name)[0], source)
    run(*flags, "--noise", "0", "-o", "exact")
    run(*flags, "--noise", "0.01", "-o", "noisy")
    run("verify", "noisy")
    exact, noisy = tiny.tensors(tmp_path / "exact"), tiny.tensors(tmp_path / "noisy")
    assert exact.keys() == noisy.keys()
    moved = [name for name in exact if not torch.equal(exact[name], noisy[name])]
    assert moved
    for name in moved:
        assert "expert" in name or re.search(r"moe|mlp|ffn|gate|router|embed", name), name
        assert "bias" not in name.split("gate_up_proj_")[-1].split("down_proj_")[-1] or (
            "proj_bias" in name
        ), f"{name} is a bias of the router"
        changed = exact[name] != noisy[name]
        step = (noisy[name] - exact[name])[changed].std(correction=0)
        assert step / exact[name].std() < 0.05, name
    tiny.load(tmp_path / "noisy")


def test_every_known_type_is_tested_or_is_another_name_of_one_that_is():
    assert set(known_types()) == set(TYPES) | set(ALIASES)
    for alias, name in ALIASES.items():
        assert find_family(alias).tensors == find_family(name).tensors
        assert find_family(alias).router == find_family(name).router
