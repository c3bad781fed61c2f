"""Tables of TOML as typed values: all that does not fit is refused, with its place."""

import tomllib
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegrow.errors import MoegrowError
from moegrow.files import typed_toml


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table within another."""

    key: str
    default: str | int | None = None


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table with a value of each kind that moegrow's own have."""

    names: tuple[str, ...]
    kind: Literal["rows", "grid"] | Inner = "rows"
    count: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    flag: bool = False
    inner: Inner | None = None
    sizes: dict[str, int] = {}


GOOD = """
names = ["a", "b"]
kind = { key = "k", default = 3 }
count = 9
flag = true
sizes.x = 1
[inner]
key = "i"
"""


def test_a_table_becomes_the_value_that_it_spells():
    found = typed_toml.convert(tomllib.loads(GOOD), Outer, "here")
    assert found == Outer(("a", "b"), Inner("k", 3), 9, True, Inner("i"), {"x": 1})


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("flag", "flags", "here: the key 'flags' is not known", "did you mean flag? "),
        ('key = "i"', "", "here.inner: the key 'key' is missing", ""),
        ('key = "i"', 'kex = "i"', "here.inner: the key 'kex' is not known", "did you mean key? "),
        ("[inner]\nkey", "inner", "here.inner: 'i' is not what belongs there", ""),
        ('{ key = "k", default = 3 }', '"gird"', "here.kind: 'gird' is not known", "did you mean"),
        ("default = 3", "default = true", "here.kind.default: True is not what belongs there", ""),
        ("count = 9", "count = 10", "here.count: 10 makes no sense", ""),
        ("count = 9", "count = -1", "here.count: -1 makes no sense", ""),
        ("count = 9", "count = true", "here.count: True is not what belongs there", ""),
        ('["a", "b"]', '["a", 5]', "here.names: 5 is not a text", ""),
        ('["a", "b"]', '"a"', "here.names: 'a' is not a list of texts", ""),
        ("sizes.x = 1", 'sizes.x = "1"', "here.sizes.x: '1' is not what belongs there", ""),
        ("sizes.x = 1", "sizes = 1", "here.sizes: 1 is not a table", ""),
    ],
)
def test_a_slip_is_named_with_its_place(old, new, message, hint):
    assert old in GOOD
    with pytest.raises(MoegrowError) as refused:
        typed_toml.convert(tomllib.loads(GOOD.replace(old, new)), Outer, "here")
    assert refused.value.message == message
    assert refused.value.hint.startswith(hint)


SCALARS = st.sampled_from(["rows", "x", 0, 5, 99, -1, True, 1.0, 0.5])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["key", "default", "y"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*Outer.__struct_fields__, "other"]), VALUES))
def test_the_place_is_found_of_all_that_is_refused(table):
    expected, why = None, ""
    try:
        expected = msgspec.convert(table, Outer)
    except msgspec.ValidationError as error:
        why = str(error)
    if not why:
        assert typed_toml.convert(table, Outer, "here") == expected
        return
    with pytest.raises(MoegrowError, match="here") as refused:
        typed_toml.convert(table, Outer, "here")
    assert why not in refused.value.message


def test_an_own_file_is_read_into_its_type(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "own.toml").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    assert typed_toml.load("own_package", "own.toml", Outer).inner == Inner("i")
