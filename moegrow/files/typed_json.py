"""Read and write JSON strictly as msgspec Structs, and name the place of an error."""

from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from moegrow.errors import MoegrowError
from moegrow.files import json_edit

Value = TypeVar("Value")


def loads(text: str, what: str, kind: type[Value]) -> Value:
    """The value of a type in a JSON object; `what` names the file in errors.

    Raises MoegrowError where a key is unknown, missing or named twice, where a value is of another
    type, and where `json_edit.loads` refuses the text.
    """
    # Most texts are as `dumps` writes them, but for spaces. Then no key was named twice, since the
    # decoder keeps one of two, and decoding takes a tenth of the time. The slow way says what is
    # wrong, and reads names of files that are no UTF-8.
    if json_edit.values(text) <= json_edit.MOST_VALUES:
        with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            raw = text.encode()
            value = msgspec.json.decode(raw, type=kind)
            if msgspec.json.encode(value) == msgspec.json.format(raw, indent=-1):
                return value
    return convert(json_edit.loads(text, what), what, kind)


def convert(table: dict[str, Any], what: str, kind: type[Value]) -> Value:
    """The value of a type in a table that was read from JSON; raises MoegrowError as `loads`."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise MoegrowError(f"{what} is malformed: {error}") from None


def dumps(value: Any) -> str:
    """The value as JSON on one line, as `json_edit.dumps` writes it."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeError:
        pass  # the name of a file that is no UTF-8
    else:
        if text.isprintable():
            return text
    return json_edit.dumps(msgspec.to_builtins(value), separators=(",", ":"))
