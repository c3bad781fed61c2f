"""The catalogue of families: found by type, and read as strictly as can be."""

from typing import get_args

import pytest
from repository import TESTS

from moegrow.errors import MoegrowError
from moegrow.families import per_layer
from moegrow.families.registry import find_family, known_types, read_family
from moegrow.families.schema import Form

SMALL = """
model_types = ["small", "smaller"]
[tensors]
layers = ["model.layers.{layer}."]
prediction_layers = ["mtp.layers.{layer}."]
block = ["mlp."]
router = ["mlp.gate.weight"]
shared = ["mlp.shared.*"]
experts = ["mlp.experts.{expert}.*", "mlp.experts.down_proj*"]
outputs = ["self_attn.o_proj.*", "mlp.experts.{expert}.down_proj.*", "mlp.experts.down_proj*"]
[config]
layers = ["num_hidden_layers"]
experts = ["num_experts"]
top_k = ["num_experts_per_tok"]
[router]
scores = "softmax"
normalised = { key = "norm", default = true }
[types.smaller.router]
scores = "sigmoid"
"""


def test_every_tiny_config_has_a_family():
    assert {path.stem for path in (TESTS / "support" / "tiny_configs").glob("*.json")} <= set(
        known_types()
    )


@pytest.mark.parametrize("model_type", known_types())
def test_every_family_file_fits_the_schema(model_type):
    family = find_family(model_type)
    assert family.name == model_type
    assert family.router.scores_by({}) in ("softmax", "sigmoid")
    assert {form.form for form in family.config.per_layer.values()} <= set(get_args(Form))


def test_an_unknown_model_type_is_refused_with_those_that_are_known():
    with pytest.raises(MoegrowError, match="'llama' is not known") as refused:
        find_family("llama")
    assert "mixtral" in refused.value.hint


def test_a_type_may_override_single_keys_of_its_file():
    assert read_family(SMALL, "small").router.scores == "softmax"
    smaller = read_family(SMALL, "smaller")
    assert smaller.router.scores == "sigmoid"
    assert smaller.router.normalised == read_family(SMALL, "small").router.normalised


def test_a_type_may_be_like_another():
    text = SMALL.replace('"smaller"]', '"smaller", "third"]') + '[types.third]\nlike = "smaller"\n'
    assert read_family(text, "third").router == read_family(text, "smaller").router


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL.replace("block =", "blocks ="), "'blocks' is not known"),
        (SMALL.replace('top_k = ["num_experts_per_tok"]\n', ""), "'top_k' is missing"),
        (SMALL.replace('key = "norm"', 'keys = "norm"'), "'keys' is not known"),
        (SMALL + '[config.per_layer.x]\nform = "list"\nsetp = "y"\n', "'setp' is not known"),
        ('colour = "red"\n' + SMALL, "'colour' is not known"),
    ],
)
def test_a_key_that_the_schema_does_not_know_or_lacks_is_refused(text, says):
    with pytest.raises(MoegrowError, match=says):
        read_family(text, "small")


@pytest.mark.parametrize("text", ["not toml", 'model_types = ["other"]', "model_types = 5"])
def test_a_text_that_is_no_family_file_of_the_type_is_refused(text):
    with pytest.raises(MoegrowError, match="family file"):
        read_family(text, "small")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('layers = ["model.layers.{layer}."]', 'layers = "model.layers.{layer}."', "list of texts"),
        ('layers = ["model.layers.{layer}."]', 'layers = ["l{layer}_"]', "must end in"),
        ('layers = ["model.layers.{layer}."]', "layers = [5]", "is not a text"),
        ('"mtp.layers.{layer}."', '"mtp.layers.{layer}.block"', "end in a dot"),
        ('"mtp.layers.{layer}."', '"mtp.layers.{layer}.{expert}."', "one '{layer}.'"),
        (
            'scores = "sigmoid"',
            'scores = "sigmiod"',
            "did you mean sigmoid? known: sigmoid, softmax",
        ),
        ('scores = "sigmoid"', 'kind = "rowz"', "'rowz' is not known"),
        ('scores = "sigmoid"', 'normalised = "no"', "is not what belongs there"),
        ('scores = "sigmoid"', 'scaling = { key = "s" }', "needs a number as its default"),
        ("[types.smaller.router]", '[types.smaller]\nlike = "smaller"\n[types.x]', "it is like"),
        ("[types.smaller.router]", '[types.smaller]\nlike = "none"\n[types.x]', "it is like"),
        (
            "[types.smaller.router]",
            '[types.smaller.config.per_layer.x]\nform = "prefx"\n[types.x]',
            "'prefx' is not known",
        ),
        (
            "[types.smaller.router]",
            "[types.smaller.config]\nspellings.x = 5\n[types.x]",
            "is not what belongs there",
        ),
        (
            "[types.smaller.router]",
            '[types.smaller.config.per_layer.x]\nform = "list"\ndense = 0\nsparse = 1\n[types.x]',
            "one is enough",
        ),
        (
            "[types.smaller.router]",
            '[types.smaller.config.per_layer.x]\nform = "prefix"\ndense = "dense"\n[types.x]',
            "cannot have 'dense' as dense or sparse",
        ),
        (
            "[types.smaller.router]",
            '[types.smaller.config.per_layer.x]\nform = "table"\ndense = true\n[types.x]',
            "cannot have True as dense or sparse",
        ),
        (
            "[types.smaller.router]",
            '[types.smaller.config]\nper_layer.x = "list"\n[types.x]',
            "where a table belongs",
        ),
    ],
)
def test_a_slip_in_a_family_file_is_refused(old, new, says):
    assert old in SMALL
    with pytest.raises(MoegrowError) as refused:
        read_family(SMALL.replace(old, new), "smaller")
    assert says in refused.value.message + refused.value.hint


def test_every_form_is_carried_out():
    assert per_layer._FORMS.keys() == set(get_args(Form))
