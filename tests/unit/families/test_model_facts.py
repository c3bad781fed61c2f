"""Facts of a model, as its config and its family say them."""

import pytest
from test_registry import SMALL

from moegrow.errors import MoegrowError
from moegrow.families.model_facts import GroupFacts, ModelFacts, Stated
from moegrow.families.registry import read_family
from moegrow.families.schema import Rule, Setting

GROUPED = """
scaling = { key = "factor", default = 2.5 }
groups = { count = "n_group", kept = "topk_group", score = "sum", when = "method", is = "grouped" }
[types.smaller.router]"""


def facts(root, config=None, *, text=SMALL, model_type="small"):
    family = read_family(text, model_type)
    return ModelFacts(family, root, root if config is None else config)


def grouped(**config):
    return facts(config, text=SMALL.replace("[types.smaller.router]", GROUPED)).router


def test_a_router_is_read_from_the_config_where_the_family_says_so():
    assert facts({}).router.scores == "softmax"
    assert facts({}, model_type="smaller").router.scores == "sigmoid"
    assert facts({}).router.is_normalised
    assert not facts({"norm": False}).router.is_normalised
    assert facts({}).router.scaling is None
    assert grouped().scaling == Stated("factor", 2.5)
    assert grouped(factor=3).scaling == Stated("factor", 3)


def test_groups_count_where_the_router_uses_them():
    asked = {"n_group": 4, "topk_group": 2}
    assert grouped(**asked).groups is None
    assert grouped(**asked).stated_groups == 4
    found = grouped(**asked, method="grouped").groups
    assert found == GroupFacts(4, 2, "n_group", "topk_group", "sum")
    assert grouped(n_group=1, method="grouped").groups is None
    assert facts(asked).router.groups is None


def test_a_fact_of_the_wrong_kind_is_refused_when_it_is_asked_for():
    odd = grouped(n_group="4", method="grouped", factor="big")
    assert odd.scores == "softmax"
    with pytest.raises(MoegrowError, match="n_group is '4'"):
        odd.groups  # noqa: B018
    with pytest.raises(MoegrowError, match="factor is 'big'"):
        odd.scaling  # noqa: B018


def test_the_root_and_the_language_models_part_say_what_is_theirs():
    root = {
        "architectures": ["A", 5], "vision_config": {}, "image_token_id": 7,
        "quantization_config": {"quant_method": "fp8"},
    }  # fmt: skip
    found = facts(root, {"vocab_size": 9, "eos_token_id": [1, "2"], "layer_types": ["a", "b"]})
    assert found.classes == ("A",)
    assert found.other_classes == ["A"]
    assert found.takes_images
    assert found.names_quantisation
    assert found.quant_method == "fp8"
    assert found.special_tokens == {1, 7}
    assert found.vocabulary == 9
    assert found.layer_types == ["a", "b"]
    empty = facts({})
    assert empty.classes is None
    assert not any((empty.takes_images, empty.names_quantisation, empty.layer_types))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"aux_loss_alpha": 0.1}, ("aux_loss_alpha", 0.1)),
        ({"router_aux_loss_coef": 0, "moe_loss_weight": 1}, ("moe_loss_weight", 1)),
        ({"aux_loss_coef": float("inf")}, ("aux_loss_coef", 0.0)),
        ({}, ("", 0.0)),
    ],
)
def test_the_auxiliary_loss_is_the_first_that_is_not_zero(config, found):
    assert facts(config).auxiliary_loss == found


def test_a_rule_makes_a_list_and_has_a_period():
    rule = Rule(every=Setting("interval", 2), hit="full", miss="linear")
    assert facts({}).list_by(rule, 4, frozenset()) == ["linear", "full"] * 2
    assert facts({"interval": 4}).period_of(rule) == 4
    assert facts({}).has("interval") is False
    assert facts({"a": {"b": 1}}).agrees_with({"a.b": 1})
