"""Change single values in a JSON text and leave every other character unchanged."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from moegrow.errors import MoegrowError
from moegrow.files.untrusted import check_width

Path = tuple[str, ...]

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


# Values of one text: parsing takes up to some hundred bytes for each.
MOST_VALUES = 1_200_000
# Those of a text that is looked into and changed, such as a config, which takes time for each,
# and of one that is long, whose keys take memory besides.
MOST_SHALLOW = 700_000
LONG = 64 << 20  # characters

# Tables and lists within each other, where they are looked into.
DEEPEST = 64


def loads(
    text: str,
    what: str,
    *,
    infinities: bool = False,
    is_shallow: bool = False,
    most: int | None = None,
) -> dict[str, Any]:
    """The JSON object in `text`; `what` names the file in errors.

    Raises MoegrowError where it is not JSON, not an object, names a key twice, nests too
    deeply or holds more than `most` values, and, unless `infinities` is true, where it holds NaN or
    Infinity, which JSON does not have but published configs do (the time-step limits of
    state-space models). With `is_shallow` it may nest no more than DEEPEST deep.
    """
    constants = float if infinities else _refuse_constant
    if most is None:
        most = MOST_SHALLOW if is_shallow else most_values(text)
    check_size(text, what, most)
    try:
        value = json.loads(text, parse_constant=constants)
        if not _are_unique(text, value):
            value = None  # two at a time would take twice the memory
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=constants)
    except RecursionError:
        raise MoegrowError(f"{what} nests too deeply to be read") from None
    except ValueError as error:
        raise MoegrowError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise MoegrowError(f"{what} holds a {type(value).__name__}, not a JSON object")
    if is_shallow:
        _check_depth(value, what)
    return value


def check_size(text: str, what: str, most: int = MOST_VALUES) -> None:
    """Raise MoegrowError where a text holds more values or wider characters than are read."""
    if values(text) > most:
        raise MoegrowError(f"{what} holds more than the {most} values that are read")
    check_width(text, what)


def values(text: str) -> int:
    """How many values a JSON text has, or somewhat more: nothing is parsed."""
    return sum(map(text.count, ",[{"))


def most_values(text: str) -> int:
    """How many values a JSON text may have that is read and not looked into."""
    return MOST_SHALLOW if len(text) > LONG else MOST_VALUES


def _are_unique(text: str, value: Any) -> bool:
    """Whether the marks of a text suffice to show that each key of its tables stands there once.

    There is a colon for each key that was read, and for each that was overwritten by another.
    Where texts hold colons or braces, or tables are in tables in tables, the marks show nothing.
    """
    if not isinstance(value, dict):
        return False
    tables = [inner for inner in value.values() if isinstance(inner, dict)]
    keys = len(value) + sum(map(len, tables))
    return text.count("{") == 1 + len(tables) and text.count(":") == keys


def _check_depth(value: Any, what: str) -> None:
    """Raise MoegrowError where tables and lists nest more than DEEPEST deep."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [one for items in inner for one in items if isinstance(one, dict | list)]
        if not level:
            return
    raise MoegrowError(f"{what} nests too deeply to be read: more than {DEEPEST} levels")


def dumps(value: Any, **settings: Any) -> str:
    r"""The value as JSON, with what steers a terminal or is no text at all escaped.

    >>> dumps("ü\x9b")
    '"ü\\u009b"'
    """
    text = json.dumps(value, ensure_ascii=False, **settings)
    if text.isprintable():
        return text
    # An indented text has line ends and tabs between its values, and never within them.
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" else json.dumps(mark)[1:-1] for mark in text
    )


def replace(text: str, changes: Mapping[Path, Any]) -> str:
    """`text` with the value at each path replaced, or added at the end of its object.

    A path is the keys from the outermost object inwards; those that are not there are added.
    Raises MoegrowError where one on the way holds something else than an object.

    >>> replace('{"a": 1, "b": [1,2]}', {("a",): 2})
    '{"a": 2, "b": [1,2]}'
    """
    for path, value in changes.items():
        text = _replace_one(text, path, value)
    return text


def remove(text: str, path: Path) -> str:
    """`text` without the value at a path, and without its key.

    >>> remove('{"a": 1, "b": {"c": [1,2]}, "d": 3}', ("b",))
    '{"a": 1, "d": 3}'
    """
    start = _skip(text, 0)
    for key in path[:-1]:
        start = _members(text, start)[key][0]
    spans = _members(text, start)
    keys = list(spans)
    number = keys.index(path[-1])
    last = spans[path[-1]][1]
    if number:
        return text[: spans[keys[number - 1]][1]] + text[last:]
    begin = _skip(text, start + 1)
    if len(keys) == 1:
        return text[:begin] + text[_skip(text, last) :]
    return text[:begin] + text[_skip(text, _skip(text, last) + 1) :]


def _replace_one(text: str, path: Path, value: Any) -> str:
    start = _skip(text, 0)
    spans = _members(text, start)
    while len(path) > 1:
        key, *rest = path
        if key not in spans:
            # The tables on the way are not there either: they are added with the value.
            for inner in reversed(rest):
                value = {inner: value}
            path = (key,)
            break
        start, path = spans[key][0], tuple(rest)
        if text[start] != "{":
            raise MoegrowError(
                f"config.json: {key} is no table, and {'.'.join(rest)} belongs in it"
            )
        spans = _members(text, start)
    if path[-1] in spans:
        first, last = spans[path[-1]]
        line = text[text.rfind("\n", 0, first) + 1 : first]
        spread_out = "\n" in text[first:last]
        return text[:first] + _dump(value, text, _indent(line), spread_out) + text[last:]
    key_text = dumps(path[-1]) + ": "
    if not spans:
        return text[: start + 1] + key_text + _dump(value, text, "", False) + text[start + 1 :]
    lead = text[start + 1 : _skip(text, start + 1)]
    end = max(last for _, last in spans.values())
    dumped = _dump(value, text, lead[lead.rfind("\n") + 1 :], "\n" in lead)
    return text[:end] + "," + (lead or " ") + key_text + dumped + text[end:]


def _dump(value: Any, text: str, outer: str, spread_out: bool) -> str:
    """`value` as JSON: on one line, or one entry a line below a line indented by `outer`."""
    if not spread_out or not isinstance(value, list | dict):
        return dumps(value)
    first_key = re.match(r"\s*\{[ \t\r]*\n([ \t]+)", text)
    step = first_key[1] if first_key else "  "
    return dumps(value, indent=step).replace("\n", "\n" + outer)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Where each value of the object at `start` begins and ends."""
    spans: dict[str, tuple[int, int]] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, position)
        first = _skip(text, _skip(text, position) + 1)
        _, last = _DECODER.raw_decode(text, first)
        spans[key] = (first, last)
        position = _skip(text, last)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return spans


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counted = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counted.items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
