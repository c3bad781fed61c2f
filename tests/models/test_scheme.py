"""Which of several schemes of a config a module has."""

from time import process_time

import pytest

from moegrow.quant.scheme import Scheme, Schemes


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
        ("re:(", "no regular expression"), (r"re:(a)\1", "can be matched in linear time"),
        ("re:.*a(?!b)", "can be matched in linear time"), ("re:" + "a" * 70_000, "the most is"),
        ("re:a{9999}", "invalid repetition size"), ("re:" + "(" * 1000, "no regular"),
    ],
)  # fmt: skip
def test_an_expression_that_cannot_be_matched_is_named_and_nothing_is_guessed(target, why):
    told = Schemes([groups((["Linear"], 4, {}), ([target], 8, {}))])
    with pytest.raises(ValueError, match=why) as refused:
        told.of("a" * 60, "int")
    assert repr(target)[:50] in str(refused.value)


@pytest.mark.parametrize(
    "target",
    [
        "(a+)+$", ".*a" * 20, ".?" * 30 + "." * 30 + "X", "(.|.)" * 60 + "X", "(a|aa)+b",
        "(?!" + ".*b" * 30 + ")" + ".*a" * 2,
    ],
)  # fmt: skip
def test_an_expression_that_python_would_try_for_ever_is_matched_at_once(target):
    told = Schemes([groups((["Linear"], 4, {}), ([f"re:{target}"], 8, {}))])
    started = process_time()
    assert told.of("a" * 58 + "X", "int").bits in (4, 8)
    assert process_time() - started < 1


def test_as_many_targets_as_modules_are_looked_up_and_not_gone_through():
    """As a config has them that names every module of a large model."""
    names = [f"model.layers.{n}.mlp.experts.{m}.up_proj" for n in range(60) for m in range(256)]
    told = Schemes([groups((names[::2], 4, {}), (names[1::2], 8, {}))])
    started = process_time()
    assert [told.of(name, "int").bits for name in names] == [4, 8] * (len(names) // 2)
    assert process_time() - started < 1


def test_more_schemes_with_expressions_than_any_config_has_are_not_tried():
    told = Schemes([groups(*(([f"re:.*{size}"], 8, {"group_size": size}) for size in range(99)))])
    with pytest.raises(ValueError, match="for 99 schemes"):
        told.of("a", "int")


def test_what_must_not_follow_the_start_of_a_name_is_looked_at():
    """As published configs leave out the experts, or the prediction layers."""
    told = Schemes([groups((["Linear"], 4, {}), ([r"re:^(?!mtp\.).*mlp\.up_proj$"], 8, {}))])
    assert [told.of(f"{stack}.0.mlp.up_proj", "int").bits for stack in ("layers", "mtp")] == [8, 4]


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
