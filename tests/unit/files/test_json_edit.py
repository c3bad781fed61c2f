"""Single values changed in a JSON text, and every other character left alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegrow.errors import MoegrowError
from moegrow.files import json_edit

ODD = """{
\t"rms_norm_eps" : 1e-6,
  "num_hidden_layers":4 , "layer_types": [
     "full" ],
  "text_config": {"num_experts": 8, "note": "a \\"}\\" in a text"},
  "ümläut": "\\u00fc", "big": 1.0E+2}
"""

keys = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
indents = st.sampled_from([None, 0, 1, 2, 4, "\t"])


def test_only_the_changed_value_changes():
    changed = json_edit.replace(
        ODD, {("num_hidden_layers",): 8, ("text_config", "num_experts"): 16}
    )
    assert changed == ODD.replace(":4 ,", ":8 ,").replace('"num_experts": 8', '"num_experts": 16')


def test_nothing_to_change_gives_the_same_text():
    assert json_edit.replace(ODD, {}) == ODD


@given(st.dictionaries(keys, values, min_size=1), values, indents, st.booleans(), st.data())
def test_a_replaced_value_is_read_back_and_the_others_stay(table, value, indent, ascii_only, data):
    key = data.draw(st.sampled_from(sorted(table)))
    text = json.dumps(table, indent=indent, ensure_ascii=ascii_only)
    changed = json_edit.replace(text, {(key,): value})
    assert json.loads(changed) == table | {key: value}
    assert list(json.loads(changed)) == list(table)


@given(st.dictionaries(keys, values), keys, values, indents)
def test_a_new_key_is_added_at_the_end(table, key, value, indent):
    table.pop(key, None)
    changed = json_edit.replace(json.dumps(table, indent=indent), {(key,): value})
    assert list(json.loads(changed).items()) == [*table.items(), (key, value)]


def test_a_new_key_stands_on_a_line_of_its_own_where_others_do():
    text = '{\n    "a": 1\n}\n'
    assert json_edit.replace(text, {("b",): 2}) == '{\n    "a": 1,\n    "b": 2\n}\n'


def test_a_list_keeps_its_shape_on_one_line_or_on_many():
    assert json_edit.replace('{"a": [1]}', {("a",): [1, 2]}) == '{"a": [1, 2]}'
    spread = '{\n  "a": [\n    1\n  ]\n}'
    assert json_edit.replace(spread, {("a",): [1, 2]}) == '{\n  "a": [\n    1,\n    2\n  ]\n}'


def test_a_nested_key_is_not_taken_for_an_outer_one():
    text = '{"inner": {"n": 1}, "n": 2}'
    assert json_edit.replace(text, {("n",): 3}) == '{"inner": {"n": 1}, "n": 3}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"a": 1} x', "not valid JSON"),
        ("[1]", "holds a list"),
        ("null", "holds a NoneType"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"b": {"a": 1, "a": 2}}', "'a' stands twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a":' * 100_000, "nests too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_what_is_not_one_json_object_is_refused_by_the_name_of_its_file(text, says):
    with pytest.raises(MoegrowError, match=says) as refused:
        json_edit.loads(text, "config.json")
    assert "config.json" in refused.value.message


def test_infinities_are_read_where_they_are_allowed_and_kept_as_they_stand():
    text = '{"limit": [0.0, Infinity], "n": 1}'
    assert json_edit.loads(text, "config.json", infinities=True)["limit"] == [0.0, float("inf")]
    assert json_edit.replace(text, {("n",): 2}) == '{"limit": [0.0, Infinity], "n": 2}'
