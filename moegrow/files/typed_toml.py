"""Read TOML strictly as msgspec Structs, and name the place of an error."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, TypeVar

import msgspec.inspect as kinds
import msgspec.toml

from moegrow.errors import MoegrowError, choose

Value = TypeVar("Value")


def load(package: str, name: str, kind: type[Value]) -> Value:
    """The value of a type in one of moegrow's own TOML files, which lies in a package."""
    return msgspec.toml.decode(files(package).joinpath(name).read_bytes(), type=kind)


def convert(table: dict[str, Any], kind: type[Value], place: str) -> Value:
    """The value of a type in a table; `place` begins what errors say.

    Raises MoegrowError, with the place and the closest name that is known, for a key that is
    unknown or missing, and for a value of another type.
    """
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        for message, hint in _problems(kinds.type_info(kind), table, place):
            raise MoegrowError(message, hint) from None
        raise MoegrowError(f"{place}: {error}") from None


# What is wrong and where, and a hint.
Problem = tuple[str, str]


def _problems(kind: kinds.Type, value: Any, place: str) -> Iterator[Problem]:
    """Where a value does not fit its type, in the order of the type's fields."""
    match kind:
        case kinds.StructType():
            yield from _of_table(kind, value, place)
        case kinds.DictType():
            if not isinstance(value, dict):
                yield f"{place}: {value!r} is not a table", ""
                return
            for name, entry in value.items():
                yield from _problems(kind.value_type, entry, f"{place}.{name}")
        case kinds.VarTupleType():
            if not isinstance(value, list):
                yield f"{place}: {value!r} is not a list of texts", ""
            elif not all(isinstance(entry, str) for entry in value):
                odd = next(entry for entry in value if not isinstance(entry, str))
                yield f"{place}: {odd!r} is not a text", ""
        case kinds.UnionType():
            fitting = [one for one in kind.types if _is_meant(one, value)]
            for one in fitting:
                yield from _problems(one, value, place)
            if not fitting:
                yield f"{place}: {value!r} is not what belongs there", ""
        case kinds.LiteralType() if isinstance(value, str):
            if value not in kind.values:
                yield f"{place}: {value!r} is not known", choose(value, map(str, kind.values))
        case kinds.IntType() if type(value) is int:
            if not _is_within(kind, value):
                yield f"{place}: {value!r} makes no sense", ""
        case _ if not _is_meant(kind, value):
            yield f"{place}: {value!r} is not what belongs there", ""


def _of_table(kind: kinds.StructType, value: Any, place: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} stands where a table belongs", ""
        return
    known = {field.encode_name: field for field in kind.fields}
    for key in value:
        if key not in known:
            yield f"{place}: the key {key!r} is not known", choose(key, known)
    for key, field in known.items():
        if key in value:
            yield from _problems(field.type, value[key], f"{place}.{key}")
        elif field.required:
            yield f"{place}: the key {key!r} is missing", ""


def _is_within(kind: kinds.IntType, value: int) -> bool:
    return (kind.ge is None or kind.ge <= value) and (kind.le is None or value <= kind.le)


_OF_PYTHON: dict[type[kinds.Type], type] = {
    kinds.StructType: dict, kinds.DictType: dict, kinds.VarTupleType: list,
    kinds.LiteralType: str, kinds.StrType: str, kinds.BoolType: bool, kinds.IntType: int,
    kinds.FloatType: float,
}  # fmt: skip


def _is_meant(kind: kinds.Type, value: Any) -> bool:
    """Whether a value of TOML is of the kind that a type is made from."""
    return type(value) is _OF_PYTHON.get(type(kind))
