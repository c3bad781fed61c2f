"""Layers that another part of a model addresses by number stay in place, or that is told."""

import alter
import pytest
import tiny
import torch

import moegrow
from moegrow.analysis.model_image import drawn_image
from moegrow.analysis.model_weights import library
from moegrow.checkpoint.store import CONFIG
from moegrow.families.registry import find_family
from moegrow.planning.notices import NoticeKind, notices
from moegrow.planning.open_source import load

TYPES = ["qwen3_vl_moe", "qwen3_omni_moe_thinker"]  # two feature maps, so layers 0 and 1


def seen(folder):
    """The logits of a model for an image in the middle of a text."""
    model = tiny.load(folder)
    with torch.no_grad():
        image = drawn_image(library(), model, range(3, 19))
        given = image.arguments(library(), sequences=1, longest=len(image.tokens))
        return model(input_ids=torch.tensor([image.tokens]), use_cache=False, **given).logits


@pytest.mark.parametrize("model_type", TYPES)
def test_identity_layers_that_move_them_are_refused_with_a_flag_that_keeps_the_answer_to_an_image(
    run, checkpoint, tmp_path, model_type
):
    source = checkpoint(model_type)
    flags = ("depth", "--new-layers", "identity", source, "-o", "grown")
    refused = run(*flags, code=1)
    assert "layers 0-1" in refused.stderr
    assert "hint: add --keep-first 2" in refused.stderr
    assert not (tmp_path / "grown").exists()
    run(*flags, "--keep-first", "2")
    assert tiny.distance(seen(source), seen(tmp_path / "grown")) < 1e-5


@pytest.mark.parametrize(
    ("layers", "is_kept"),
    [("0,1,1,2,3,3", True), ("0-3,2-3", True), ("0,0-3", False), ("1-3", False)],
)
def test_a_map_is_asked_for_its_first_layers_alone(run, checkpoint, tmp_path, layers, is_kept):
    source = checkpoint("qwen3_vl_moe")
    flags = ("depth", "--new-layers", "identity", "--layers", layers, source, "-o", "grown")
    done = run(*flags, code=0 if is_kept else 1)
    assert ("begin --layers with 0-1" in done.stderr) is not is_kept


def test_copies_that_move_them_are_told_and_others_are_not(checkpoint):
    source = checkpoint("qwen3_vl_moe")
    for options, count in ({}, 1), ({"keep_first": 2}, 0):
        found = notices(*load(moegrow.depth(source, **options)))
        told = [notice for notice in found if notice.kind is NoticeKind.ADDRESSED_LAYERS]
        assert len(told) == count
        assert all(notice.about == "depth" and notice.is_warning for notice in told)


def test_layers_moved_by_an_earlier_step_of_a_plan_are_told_and_a_later_identity_is_its_own(
    run, checkpoint
):
    plan = run("depth", checkpoint("qwen3_vl_moe"), "--plan").stdout
    flags = ("depth", "--mode", "expand", "--every", "4", "--dry-run", "-o", "grown")
    done = run(*flags, stdin=plan)
    assert "--keep-first 2, or --layers that begin with 0-1, leaves them" in done.stderr
    run("depth", "--new-layers", "identity", "--dry-run", "-o", "grown", stdin=plan, code=1)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"vision_config": {"deepstack_visual_indexes": [3, 9]}}, 2),
        ({"vision_config": {"deepstack_visual_indexes": []}}, 0),
        ({"vision_config": {"depth": 27}}, 3),
        ({}, 0),
    ],
)
def test_they_are_counted_as_transformers_counts_them(config, count):
    assert find_family("qwen3_vl_moe").depth.addressed.count(config) == count


def test_the_whole_omni_model_names_them_below_its_thinker():
    addressed = find_family("qwen3_omni_moe").depth.addressed
    vision = {"deepstack_visual_indexes": [8, 16, 24]}
    assert addressed.count({"thinker_config": {"vision_config": vision}}) == 3


def test_a_key_that_is_no_list_is_refused_by_its_name(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint("qwen3_vl_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["vision_config"]["deepstack_visual_indexes"] = 2
    done = run("depth", source, "--new-layers", "identity", "-o", "grown", code=1)
    assert "deepstack_visual_indexes is 2" in done.stderr
