"""The weights that a model is filled with are those that a checkpoint stands for."""

import alter
import pytest
import tiny
import torch
from quantised import FORMATS
from test_run_layerwise import TOKENS, layout, outcome

import moegrow
from moegrow.analysis.model_weights import ModelWeights, library
from moegrow.errors import MoegrowError
from moegrow.kernels.reader import SourceReader


def taken(folder):
    """Every weight by its plain name, and how many bytes were read."""
    told, its = [], layout(folder)
    with SourceReader(its.checkpoint) as source:
        weights = ModelWeights(library(), its, source)
        found = weights.taken(list(weights.stored), told.append)
        return {name: each[...].clone() for name, each in found.items()}, sum(told)


@pytest.mark.parametrize("name", FORMATS)
def test_quantised_weights_are_those_of_the_dequantised_copy(made, tmp_path, name):
    source = made(name)
    moegrow.apply(moegrow.convert(source, dtype="fp32"), tmp_path / "plain")
    expected = tiny.tensors(tmp_path / "plain")
    found, told = taken(source)
    assert found.keys() == expected.keys()
    for weight, other in expected.items():
        assert torch.equal(found[weight].float(), other.float()), weight
    assert told == sum(
        spec.stop - spec.start for spec in layout(source).checkpoint.tensors.values()
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_model_computes_what_transformers_computes_with_the_dequantised_copy(
    made, tmp_path, name
):
    moegrow.apply(moegrow.convert(made(name), dtype="fp32"), tmp_path / "plain")
    found = outcome(made(name))
    assert found.logits.shape[:2] == TOKENS.shape
    assert tiny.distance(tiny.logits(tmp_path / "plain"), found.logits) < 3e-4


def test_one_layer_of_a_quantised_model_is_decoded_at_a_time(made):
    few, many = (made("fp8 tensor", "qwen3_moe", num_hidden_layers=n) for n in (2, 12))
    assert outcome(many).alive == outcome(few).alive


def test_plain_weights_are_read_as_they_are_stored(checkpoint):
    found, told = taken(checkpoint(dtype=torch.bfloat16))
    expected = tiny.tensors(checkpoint(dtype=torch.bfloat16))
    assert found.keys() == expected.keys()
    assert all(tiny.same_bytes(found[name], expected[name]) for name in expected)
    assert told == sum(tensor.nbytes for tensor in expected.values())


def test_a_format_that_is_not_decoded_is_refused_with_the_tensors(made, tmp_path):
    source = alter.copy(made("fp8 tensor"), tmp_path)
    name = "model.layers.1.self_attn.q_proj.weight"
    with alter.weights(source) as tensors:
        tensors[f"{name}_scale"] = tensors[f"{name}_scale"].repeat(3, 1)
    with pytest.raises(
        MoegrowError, match="quantised in a way that moegrow does not decode"
    ) as raised:
        outcome(source)
    assert name in raised.value.message
    assert raised.value.hint == "verify it without compare_logits"
