"""What is read is what was written, and anything else is refused with its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from moegrow.errors import MoegrowError
from moegrow.files import json_edit, typed_json


class Box(Struct, forbid_unknown_fields=True):
    """A value with each kind of field that documents have."""

    name: str
    size: int
    parts: list[tuple[int, str]]
    files: dict[str, str]


# Names of files that are no UTF-8 come as lone surrogates.
NAMES = st.text(st.characters() | st.sampled_from('\udc80\u2028\x9b\x7f\\"\n'), max_size=8)
BOXES = st.builds(
    Box,
    NAMES,
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.tuples(st.integers(0, 9), NAMES), max_size=3),
    st.dictionaries(NAMES, NAMES, max_size=3),
)


@given(BOXES)
def test_a_value_is_written_as_the_json_library_would_and_comes_back(box):
    table = {"name": box.name, "size": box.size, "parts": box.parts, "files": box.files}
    text = typed_json.dumps(box)
    assert text == json_edit.dumps(table, separators=(",", ":"))
    assert json.loads(text) == json.loads(json.dumps(table))
    assert typed_json.loads(text, "it", Box) == box
    # Not as it is written, so decoded in the slower way.
    assert typed_json.loads(json.dumps(table, indent=1), "it", Box) == box


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text("ab"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ("name", "size", "parts", "files")


def is_box(table):
    """Whether a table is one of a Box, by Python's own types."""
    return (
        table.keys() == set(FIELDS)
        and type(table["name"]) is str
        and type(table["size"]) is int
        and type(table["parts"]) is list
        and all(
            type(part) is list and [type(one) for one in part] == [int, str]
            for part in table["parts"]
        )
        and type(table["files"]) is dict
        and all(type(value) is str for value in table["files"].values())
    )


@given(BOXES, st.data())
def test_a_table_of_another_form_is_refused(box, data):
    table = json.loads(typed_json.dumps(box))
    key = data.draw(st.sampled_from([*FIELDS, "more"]))
    if data.draw(st.booleans()):
        table.pop(key, None)
    else:
        table[key] = data.draw(JSON)
    text = json.dumps(table)
    if is_box(table):
        found = typed_json.loads(text, "it", Box)
        assert json.loads(typed_json.dumps(found)) == table
    else:
        with pytest.raises(MoegrowError, match="it is malformed: "):
            typed_json.loads(text, "it", Box)


GOOD = '{"name":"a","size":1,"parts":[[1,"b"]],"files":{}}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace('"a"', "2"), r"it is malformed: Expected `str`, got `int` - at `\$.name`"),
        (GOOD.replace("[1,", '["1",'), r"Expected `int`, got `str` - at `\$.parts\[0\]\[0\]`"),
        (GOOD.replace('"b"]', '"b",1]'), r"length 2, got 3 - at `\$.parts\[0\]`"),
        (GOOD.replace('"files"', '"folders"'), "it is malformed: "),
        (GOOD.replace("}}", '},"more":1}'), "contains unknown field `more`"),
        (GOOD.replace("}}", '},"size":1}'), "the key 'size' stands twice in one object"),
        (GOOD.replace("{}", '{"x":"1","x":"2"}'), "the key 'x' stands twice in one object"),
        (GOOD.replace("1,", "1.5,", 1), r"Expected `int`, got `float` - at `\$.size`"),
        (GOOD.replace("1,", "NaN,", 1), "NaN is not a JSON number"),
        (GOOD[:-1], "it is not valid JSON"),
        (f"[{GOOD}]", "it holds a list, not a JSON object"),
        ("[" * 100_000, "it nests too deeply"),
        ("[" * 2_000_000, "it holds more than the 1200000 values"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, says):
    with pytest.raises(MoegrowError, match=says):
        typed_json.loads(text, "it", Box)
