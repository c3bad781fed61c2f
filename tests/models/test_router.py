"""What keeps the function when the router gets more experts, and what is said where nothing can."""

import json
from fractions import Fraction

import alter
import pytest
import tiny
import torch

import moegrow
from moegrow import maps
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout
from moegrow.growth import Growth
from moegrow.planning.notes import FunctionLost
from moegrow.planning.op import change_of
from moegrow.planning.router import compensate
from moegrow.planning.router_notes import (
    BiasesRounded,
    GroupsAppended,
    GroupsWidened,
    OtherTopK,
    OutputsScaled,
    SettingScaled,
    UnevenCopies,
)


@pytest.fixture
def compensated(checkpoint, tmp_path):
    """The compensation for a growth of the experts of a model type to `to`."""

    def compensated(model_type, *, to, top_k=None, order="append", **edit):
        source = alter.copy(checkpoint(model_type), tmp_path)
        with alter.table(source / CONFIG) as config:
            config |= edit
        layout = read_layout(open_checkpoint(source))
        none = Growth.none(layers=layout.layers, experts=layout.experts, top_k=layout.top_k)
        growth = none.widen(
            maps.copies(layout.experts, to=to, order=order),
            weight_noise=None, router_noise=None,
            top_k=top_k or layout.top_k * to // layout.experts,
        )  # fmt: skip
        return compensate(layout, growth)

    return compensated


@pytest.mark.parametrize(
    "model_type",
    ["qwen3_moe", "qwen2_moe", "gpt_oss", "mixtral", "granitemoe", "olmoe", "qwen3_next"],
)
@pytest.mark.parametrize("order", ["append", "interleave"])
def test_a_softmax_shares_itself_among_copies(compensated, model_type, order):
    found = compensated(model_type, to=8 if model_type != "olmoe" else 16, order=order)
    assert (found.output_scale, found.settings, found.notes) == (1, {}, ())
    assert found.exact


def test_a_sigmoid_on_the_experts_input_is_made_up_for_in_the_output_projections(compensated):
    found = compensated("llama4_text", to=12)
    assert found.output_scale == Fraction(1, 3)
    assert found.settings == {}
    assert found.notes == (OutputsScaled(Fraction(1, 3), "on the input"),)
    assert found.exact


def test_a_sigmoid_without_normalisation_is_made_up_for_in_the_scaling_factor(compensated):
    found = compensated("glm4_moe", to=16, norm_topk_prob=False)
    assert found.output_scale == 1
    assert found.settings == {"routed_scaling_factor": 0.5}
    assert found.notes == (SettingScaled("routed_scaling_factor", 1.0, 0.5),)


def test_a_sigmoid_that_is_normalised_needs_nothing(compensated):
    assert compensated("glm4_moe", to=16).settings == {}


def test_whole_groups_are_copied_and_counted(compensated):
    found = compensated("deepseek_v3", to=16)
    assert found.settings == {"n_group": 8, "topk_group": 4}
    assert found.notes[0] == GroupsAppended(("n_group", "topk_group"), (4, 8), (2, 4))
    assert found.exact


def test_copies_that_would_mix_groups_are_refused_with_the_order_that_works(compensated):
    with pytest.raises(MoegrowError, match="4 groups of 2 experts") as refused:
        compensated("deepseek_v3", to=16, order="interleave")
    assert "order='append'" in refused.value.hint


@pytest.mark.parametrize("to", [9, 10, 12])
def test_a_part_of_the_groups_is_refused(compensated, to):
    with pytest.raises(MoegrowError, match="mix the groups") as refused:
        compensated("deepseek_v3", to=to)
    assert "a multiple of 2 experts" in refused.value.hint


def test_groups_scored_by_their_best_expert_do_not_notice_copies_beside_originals(compensated):
    found = compensated("deepseek_v2", to=16, order="interleave")
    assert found.settings == {}
    assert found.notes == (GroupsWidened("n_group", 4),)


def test_groups_that_are_not_in_use_need_nothing(compensated):
    assert compensated("deepseek_v2", to=16, topk_method="greedy").settings == {}
    assert compensated("glm4_moe", to=12, n_group=None).settings == {}


def test_an_uneven_number_of_copies_is_told_with_its_bias(compensated):
    found = compensated("qwen3_moe", to=6)
    assert not found.exact
    assert found.losses == (UnevenCopies(favoured=2, experts=4, most=2, least=1),)
    assert "by a factor of 2 (0.69 in the logits)" in str(found.losses[0])


def test_a_top_k_that_does_not_grow_is_told(compensated):
    found = compensated("qwen3_moe", to=8, top_k=2)
    assert found.losses == (OtherTopK(top_k=2, expected=Fraction(4), reached=1.0, old=2),)


@pytest.mark.parametrize(
    ("model_type", "settings", "experts", "is_exact"),
    [
        ("llama4_text", {}, 8, True),
        ("llama4_text", {}, 6, True),  # some experts have two copies and others one
        ("deepseek_v3", {"num_experts_per_tok": 1}, 16, True),
        ("gpt_oss", {"num_experts_per_tok": 1}, 8, True),
        ("ernie4_5_moe", {"moe_k": 1}, 8, True),
        ("ernie4_5_moe", {"moe_k": 1}, 6, False),  # the bias shrinks evenly, probabilities do not
        ("olmoe", {"num_experts_per_tok": 1}, 16, False),  # a softmax that is not divided
        ("jamba", {"num_experts_per_tok": 1}, 8, False),
        ("inkling_text", {"num_experts_per_tok": 1}, 8, False),  # shared experts are copied too
        ("llama4_text", {"num_experts_per_tok": 2}, 8, False),  # both copies of the best are picked
    ],
)
def test_one_expert_of_equal_copies_is_as_good_as_another(
    checkpoint, tmp_path, model_type, settings, experts, is_exact
):
    source = checkpoint(model_type, **settings)
    plan = moegrow.width(source, experts=experts, noise=0, top_k="keep")
    assert plan.steps[-1].preserves_function == is_exact
    moegrow.apply(plan, tmp_path / "wide")
    distance = tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "wide"))
    assert (distance < 1e-4) == is_exact


def test_another_top_k_alone_is_told_too(compensated):
    assert not compensated("qwen3_moe", to=4, top_k=1).exact


def test_no_growth_needs_no_compensation(compensated):
    found = compensated("deepseek_v3", to=8)
    assert (found.output_scale, found.settings, found.notes, found.exact) == (1, {}, (), True)


def test_the_settings_reach_the_config_and_the_steps(checkpoint):
    plan = moegrow.width(checkpoint("deepseek_v3"))
    config = json.loads(plan.config)
    assert (config["n_group"], config["topk_group"]) == (8, 4)
    (step,) = plan.steps
    assert step.preserves_function is True
    assert step.compensations[0] == GroupsAppended(("n_group", "topk_group"), (4, 8), (2, 4))


def test_the_scale_reaches_the_output_projections_of_routed_experts_and_nothing_else(checkpoint):
    plan = moegrow.width(checkpoint("llama4_text"), noise=0)
    scaled = {o.name for o in plan.outputs if any(change_of(p.op).scale != 1 for p in o.pieces)}
    assert scaled == {f"model.layers.{n}.feed_forward.experts.down_proj" for n in (1, 3)}
    assert {change_of(p.op).scale for o in plan.outputs for p in o.pieces} == {1, Fraction(1, 2)}


@pytest.mark.parametrize(("dtype", "is_exact"), [("float32", True), ("bfloat16", False)])
def test_biases_of_16_bits_that_take_a_shift_are_said_to_be_rounded(checkpoint, dtype, is_exact):
    source = checkpoint("zaya", dtype=getattr(torch, dtype))
    (step,) = moegrow.width(source, experts="2x", noise=0).steps
    assert step.preserves_function == is_exact
    assert (FunctionLost(BiasesRounded("BF16")) in step.notes) != is_exact
