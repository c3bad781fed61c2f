"""A model that takes images is given one that changes what it computes, or says why not."""

import json

import alter
import pytest
import tiny
import torch
import transformers

import moegrow
from moegrow.analysis.model_image import drawn_image
from moegrow.analysis.model_weights import library
from moegrow.checkpoint.store import CONFIG
from moegrow.maps import repeats
from moegrow.planning import build
from moegrow.planning.open_source import load

CONFIGS = {path.stem: json.loads(path.read_text()) for path in tiny.CONFIGS.glob("*.json")}
SEEING = sorted(name for name, config in CONFIGS.items() if "vision_config" in config)
TEXT = list(range(11, 27))


def model_of(config):
    torch.manual_seed(0)
    built = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    return getattr(transformers, config["architectures"][0])(built).eval()


@pytest.mark.parametrize("model_type", SEEING)
def test_every_family_that_takes_images_is_given_one_that_counts(model_type):
    lib, model = library(), model_of(CONFIGS[model_type])
    with torch.no_grad():
        image = drawn_image(lib, model, TEXT)
        assert image.problem == ""
        tokens = torch.tensor([[*TEXT, *TEXT[: len(image.tokens) - len(TEXT)]], image.tokens])
        given = image.arguments(lib, sequences=2, longest=len(image.tokens))
        one = model(input_ids=tokens, use_cache=False, **given).logits
        given["pixel_values"] = -given["pixel_values"]
        other = model(input_ids=tokens, use_cache=False, **given).logits
    assert torch.allclose(one[0], other[0], atol=1e-5)
    behind = image.start + image.length
    assert tiny.distance(one[1, behind:], other[1, behind:]) > 0.01


def test_a_model_of_texts_takes_none():
    assert drawn_image(library(), model_of(CONFIGS["qwen3_moe"]), TEXT) is None


def test_logits_are_compared_with_an_image_where_the_model_takes_one(run, checkpoint, tmp_path):
    source = checkpoint("llama4")
    moegrow.apply(moegrow.width(source, noise=0), tmp_path / "grown")
    found = moegrow.compare_logits(tmp_path / "grown")
    assert (found.images, found.no_image, found.ok) == (1, "", True)


def test_an_identity_that_changes_the_answer_to_images_alone_is_found(checkpoint, tmp_path):
    plan, layout = load(checkpoint("qwen3_vl_moe"))
    layers = (0, 0, 1, 1, 2, 3)
    # Growing refuses this; older results may hold it.
    growth = plan.growth.deepen(layers, silent=repeats(layers))
    moegrow.apply(build.render(plan, layout, growth), tmp_path / "grown")
    assert (
        tiny.distance(tiny.logits(checkpoint("qwen3_vl_moe")), tiny.logits(tmp_path / "grown"))
        < 1e-5
    )
    found = moegrow.compare_logits(tmp_path / "grown")
    assert found.reasons == ()
    assert not found.ok
    assert found.largest > 0.1
    assert found.parts_at == 1


def test_states_part_nowhere_where_an_image_is_added_between_a_layer_and_its_silent_copy(
    checkpoint, tmp_path
):
    plan = moegrow.depth(checkpoint("qwen3_vl_moe"), layers="0,1,1,2,3", new_layers="identity")
    moegrow.apply(plan, tmp_path / "grown")
    found = moegrow.compare_logits(tmp_path / "grown")
    assert found.ok
    assert found.images == 1
    assert found.parts_at is None


def test_why_no_image_was_tried_is_in_the_document(checkpoint, tmp_path):
    source = alter.copy(checkpoint("qwen3_vl_moe"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["image_token_id"] = 64
    moegrow.apply(moegrow.width(source, noise=0), tmp_path / "grown")
    found = moegrow.compare_logits(tmp_path / "grown")
    assert (found.images, found.ok) == (0, True)
    assert "no token" in found.no_image
