"""Which of several schemes of a config a module has."""

import pytest

from moegrow.formats.schemes import Scheme, Schemes


def groups(*groups):
    return {
        "config_groups": {
            str(number): {"targets": targets, "weights": {"num_bits": bits, **more}}
            for number, (targets, bits, more) in enumerate(groups)
        }
    }


def test_a_scheme_at_the_root_is_that_of_all():
    for table, expected in (
        ({"bits": 4, "group_size": 128}, Scheme(4, 128)),
        ({"w_bit": 4, "q_group_size": -1}, Scheme(4, -1)),
        ({"weight_block_size": [128, 64]}, Scheme(0, 0, (128, 64))),
        ({"weight_block_size": ["128", 64]}, Scheme()),
        ({"weight_block_size": [128, 0]}, Scheme()),
        ({"bits": "4", "group_size": None}, Scheme()),
        ({"bits": True}, Scheme()),
        ({}, Scheme()),
    ):
        assert Schemes([table]).of("any.module", "int") == expected
    assert Schemes([]).of("any.module", "float") == Scheme()


def test_names_come_before_patterns_and_patterns_before_classes():
    """As compressed-tensors sorts them."""
    told = Schemes([groups(
        (["Linear"], 4, {}), (["re:.*attn.*", "re:.*mlp.up"], 8, {}), (["a.attn.q"], 2, {}),
    )])  # fmt: skip
    found = [told.of(name, "int").bits for name in ("a.attn.q", "a.attn.k", "a.mlp.up", "a.mlp.x")]
    assert found == [2, 8, 8, 4]


def test_groups_for_other_numbers_are_of_no_concern():
    told = Schemes([groups((["Linear"], 4, {"type": "int"}), (["Linear"], 8, {"type": "float"}))])
    assert (told.of("a", "int").bits, told.of("a", "float").bits) == (4, 8)


def test_two_schemes_for_one_module_are_not_chosen_between():
    told = Schemes([groups((["Linear"], 4, {}), (["Linear"], 8, {}))])
    with pytest.raises(ValueError, match="has 2 schemes for it"):
        told.of("a", "int")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("re:(", "no regular expression"), ("re:(a+)+$", "too long to try"),
        ("re:" + ".*a" * 9, "too long to try"), ("re:" + "a" * 500, "too long to try"),
        ("re:a{99999999999}", "no regular expression"),
    ],
)  # fmt: skip
def test_a_strangers_pattern_takes_no_time(target, why):
    told = Schemes([groups((["Linear"], 4, {}), ([target], 8, {}))])
    with pytest.raises(ValueError, match=why):
        told.of("a" * 60, "int")


@pytest.mark.parametrize(
    "table",
    [
        {"config_groups": []}, {"config_groups": {"a": None}}, {"config_groups": {"a": []}},
        {"config_groups": {"a": {"weights": None, "targets": 3}}},
        {"config_groups": {"a": {"weights": {"num_bits": None}, "targets": [None, 5]}}},
    ],
)  # fmt: skip
def test_what_is_no_scheme_says_nothing(table):
    assert Schemes([table]).of("a", "int") == Scheme()
