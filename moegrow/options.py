"""Describe an option once: for Python, for the command line and for recipes."""

import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from shlex import quote
from typing import (  # fmt: skip
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from moegrow.errors import Parameter, UsageError, choose

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Option:
    """What an option does and takes: the metadata of an annotated field of a dataclass.

    `default` is filled in where a caller gives nothing; `rule` says in words what happens then, if
    that depends. `words` are offered as values beside others. A number is from `least` up and less
    than `below`. `modes` are the modes of depth that the option goes with.
    """

    help: str
    metavar: str | None = None
    default: object = None
    rule: str = ""
    words: tuple[str, ...] = ()
    least: float | None = None
    below: float = float("inf")
    modes: tuple[str, ...] = ()


class Described(NamedTuple):
    """A field with its option; `kinds` are the types that its type joins, without None."""

    option: Option
    kinds: tuple[Any, ...]
    default: Any

    @property
    def words(self) -> tuple[str, ...]:
        """The values that it can have, where they are listed; else ()."""
        return tuple(word for kind in self.kinds for word in _words(kind))


def _words(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


@cache
def described(kind: type["DataclassInstance"]) -> Mapping[str, Described]:
    """The fields of a dataclass by name, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: describe(hints[field.name], None if field.default is MISSING else field.default)
        for field in fields(kind)
    }


def describe(hint: Any, default: Any = None) -> Described:
    """What an annotation says of a parameter with this default.

    >>> describe(Annotated[str | int | None, Option("How many times deeper.")]).kinds
    (<class 'str'>, <class 'int'>)
    """
    found = [entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Option)]
    inner = hint.__origin__ if found else hint
    joined = get_args(inner) if get_origin(inner) in (Union, types.UnionType) else (inner,)
    kinds = tuple(kind for kind in joined if kind is not types.NoneType)
    return Described(found[0] if found else Option(""), kinds, default)


def check(value: "DataclassInstance") -> None:
    """Raise UsageError for an option that is none of its words, or out of its range."""
    for name, given in said(value).items():
        entry = described(type(value))[name]
        if entry.words and given not in entry.words:
            raise UsageError(Parameter(name, given) + " is not known", choose(given, entry.words))
        option = entry.option
        if option.least is not None and not option.least <= given < option.below:
            wrong = "makes no sense" if float in entry.kinds else "is out of range"  # may be NaN
            such = f", such as {option.rule}" if option.rule else ""
            raise UsageError(
                Parameter(name, given) + f" {wrong}", f"use a number from {option.least} up{such}"
            )


def said(value: "DataclassInstance") -> dict[str, Any]:
    """The options that somebody gave, by name: those that are not as the field's default."""
    found = ((name, getattr(value, name), entry) for name, entry in described(type(value)).items())
    return {name: given for name, given, entry in found if given not in (None, entry.default)}


def part(call: "DataclassInstance", kind: type[T]) -> T:
    """The fields of `kind` among those of a call, with defaults where the call gives nothing."""
    given = {name: getattr(call, name) for name in described(kind)}
    defaults = {name: entry.option.default for name, entry in described(kind).items()}
    return kind(**{name: defaults[name] if given[name] is None else given[name] for name in given})


# Names in messages that a shell spells otherwise: parameters, and functions that are flags there.
_FLAGS = {
    "compare_logits": "--logits", "moegrow.plan()": "--plan", "name": "--push", "output": "-o",
    "part": "--shards", "prompts": "--prompt",
}  # fmt: skip


def as_flag(parameter: Parameter) -> str:
    """A parameter as it is typed in a shell; paths are quoted, and of a list each is given.

    >>> as_flag(Parameter("keep_first", 4)), as_flag(Parameter("force", True))
    ('--keep-first 4', '--force')
    >>> as_flag(Parameter("part", "3/16")), as_flag(Parameter("links_to", ["a b", "c"]))
    ('--shards 3/16', "--links-to 'a b' --links-to c")
    """
    flag = _FLAGS.get(parameter.name) or f"--{parameter.name.replace('_', '-')}"
    match parameter.value:
        case None | True:
            return flag
        case list() as several:
            return " ".join(f"{flag} {quote(str(each))}" for each in several)
        case os.PathLike() as path:
            return f"{flag} {quote(os.fspath(path))}"
        case given:
            return f"{flag} {given}"


def typed(*values: "DataclassInstance") -> str:
    """The options that values hold, as they are typed in a shell."""
    return " ".join(
        as_flag(Parameter(name, given)) for value in values for name, given in said(value).items()
    )


# Of a source.
FamilyOption = Annotated[
    str | os.PathLike[str] | None,
    Option(
        "How to read a model that moegrow does not know (docs/adding-a-family.md).", "FILE.toml"
    ),
]
RevisionOption = Annotated[str | None, Option("A repository's branch, tag or commit.", "REV")]
TokenOption = Annotated[
    str | None,
    Option("A token for the Hub; better given in HF_TOKEN, or by hf auth login.", "TOKEN"),
]
LinksOption = Annotated[
    Sequence[str | os.PathLike[str]] | None,
    Option(
        "A folder outside the source into which its links may lead; may be given several times.",
        "DIR",
    ),
]
