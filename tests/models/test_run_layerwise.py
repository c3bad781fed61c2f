"""A checkpoint that runs layer by layer computes what transformers computes with all of it."""

import alter
import pytest
import tiny
import torch
from families_page import TYPES

from moegrow.analysis import run_layerwise
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout

# Here the choice is not handed to the experts as a table of numbers.
SHOWS_NO_ROUTING = {"doge", "jetmoe", "llama4", "llama4_text"}
TOKENS = torch.randint(3, 56, (2, 24), generator=torch.Generator().manual_seed(1))


def layout(folder):
    return read_layout(open_checkpoint(folder))


def outcome(folder, progress=lambda count: None):
    return run_layerwise.run_layers(layout(folder), TOKENS.tolist(), progress)


@pytest.mark.parametrize("model_type", sorted(set(TYPES) - {"zaya"}))
def test_every_family_computes_what_transformers_computes(checkpoint, model_type):
    source = checkpoint(model_type)
    found = outcome(source)
    assert tiny.distance(tiny.logits(source), found.logits) < 3e-4
    old = layout(source)
    assert len(found.states) == old.layers
    assert all(len(state) == len(TOKENS) for state in found.states)
    shown = set() if model_type in SHOWS_NO_ROUTING else set(old.moe_layers)
    assert set(found.chosen) == shown
    assert all(len(experts) == TOKENS.numel() for experts in found.chosen.values())


def test_a_family_that_transformers_loads_otherwise_than_it_is_stored_is_refused(checkpoint):
    with pytest.raises(MoegrowError, match="sets a bias of its routers anew"):
        outcome(checkpoint("zaya"))


def test_one_layer_is_in_memory_at_a_time(checkpoint):
    few, many = checkpoint(num_hidden_layers=2), checkpoint(num_hidden_layers=12)
    held, all_bytes = outcome(many).alive, layout(many).checkpoint.nbytes
    assert held == outcome(few).alive
    old = layout(many)
    outside = sum(
        spec.stop - spec.start
        for name, spec in old.checkpoint.tensors.items()
        if name not in old.places
    )
    assert held == outside + (all_bytes - outside) // 12
    assert held < all_bytes / 4


def test_weights_of_half_size_run_in_float32(checkpoint):
    source = checkpoint(dtype=torch.bfloat16)
    found = outcome(source)
    assert found.logits.dtype == torch.float32
    assert tiny.distance(tiny.logits(source), found.logits) < 5e-5


def test_every_byte_of_the_model_is_read_once_and_told(checkpoint):
    told = []
    outcome(checkpoint(), told.append)
    assert sum(told) == layout(checkpoint()).checkpoint.nbytes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hidden_act": "nothing"}, "cannot build"),
        ({"hidden_size": 48}, "are not those that transformers expects"),
        ({"head_dim": "x"}, "cannot build"),
        ({"attention_bias": True}, "q_proj.bias is missing"),
        ({"quantization_config": {"quant_method": "fp8"}}, "is quantised"),
        ({"num_key_value_heads": 0}, "transformers"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_a_reason(checkpoint, tmp_path, settings, says):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.table(source / CONFIG) as config:
        config.update(settings)
    with pytest.raises(MoegrowError, match=says):
        outcome(source)


def test_weights_outside_the_layers_that_are_missing_are_named(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        del tensors["model.norm.weight"]
    with pytest.raises(MoegrowError, match=r"lacks weights .*: model\.norm\.weight") as raised:
        outcome(source)
    assert raised.value.hint == "verify it without compare_logits"


def test_logits_that_are_no_numbers_are_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["lm_head.weight"][0, 0] = float("nan")
    with pytest.raises(MoegrowError, match="not all finite") as raised:
        outcome(source)
    assert "moegrow inspect --values" in raised.value.hint
