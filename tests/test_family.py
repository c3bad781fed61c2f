"""Family files: what they say of names, and how strictly they are read."""

import pytest
import tiny

from moegrow import perlayer
from moegrow.errors import MoegrowError
from moegrow.family import find_family, known_types, number, read_family

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
    assert {path.stem for path in tiny.CONFIGS.glob("*.json")} <= set(known_types())


@pytest.mark.parametrize("model_type", known_types())
def test_every_family_file_fits_the_schema(model_type):
    family = find_family(model_type)
    assert family.name == model_type
    assert family.router.scores_by({}) in ("softmax", "sigmoid")
    assert {form.form for form in family.config.per_layer.values()} <= perlayer._FORMS.keys()


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


def test_a_setting_that_is_null_counts_as_absent():
    setting = read_family(SMALL, "small").router.normalised
    assert setting.read({}) is setting.read({"norm": None}) is True
    assert setting.read({"norm": False}) is False


@pytest.mark.parametrize("text", ["not toml", 'model_types = ["other"]', "model_types = 5"])
def test_a_text_that_is_no_family_file_of_the_type_is_refused(text):
    with pytest.raises(MoegrowError, match="family file"):
        read_family(text, "small")


def test_a_setting_of_another_kind_than_its_default_is_refused():
    setting = read_family(SMALL, "small").router.normalised
    with pytest.raises(MoegrowError, match="norm is 'yes'"):
        setting.read({"norm": "yes"})


def test_a_number_may_stand_under_a_path_of_keys():
    assert number({"a": {"b": 3}}, "a.b") == 3
    assert number({"a": {}}, "a.b", 7) == 7
    with pytest.raises(MoegrowError, match=r"a\.b is '3'"):
        number({"a": {"b": "3"}}, "a.b")
