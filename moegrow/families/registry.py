"""The registry of families: TOML files, parsed strictly and found by model type."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from msgspec.structs import replace

from moegrow.errors import MoegrowError, Parameter
from moegrow.families.schema import PARTIAL, Family, Names, Scalar
from moegrow.files import toml_text, typed_toml

DEFAULTS = "defaults.toml"  # of the config classes, by model type; not a family file

LARGEST_FAMILY = 1 << 18  # characters


@cache
def find_family(model_type: str) -> Family:
    """The family of the config's `model_type`; raises MoegrowError with the known names."""
    found = _index().get(model_type)
    if found is None:
        raise MoegrowError(
            f"the model type {model_type!r} is not known",
            _spelled_like(model_type)
            + "describe it in a file of your own and give it with "
            + Parameter("family", "FILE.toml")
            + f" (docs/adding-a-family.md); known: {', '.join(known_types())}",
        )
    family = read_family(found[1], model_type)
    defaults = {**_class_defaults().get(model_type, {}), **family.config.defaults}
    return replace(family, config=replace(family.config, defaults=defaults))


def _spelled_like(model_type: str) -> str:
    """The known type that differs from another in case and marks alone, as a question.

    Types whose names are merely alike are other models: mistral is not mixtral.
    """
    letters = re.sub(r"[\W_]", "", model_type.lower())
    alike = (name for name in known_types() if name.replace("_", "") == letters)
    return next((f"did you mean {name}? " for name in alike), "")


def home(model_type: str) -> str:
    """The name of the family file that describes a known model type."""
    return _index()[model_type][0]


def known_types() -> Names:
    """Every model type that a family file describes, in alphabetical order."""
    return tuple(sorted(_index()))


def read_family(text: str, model_type: str) -> Family:
    """The family of `model_type` from the text of a family file.

    Raises MoegrowError where the text is not TOML, is not about this type, or has keys that the
    schema does not know or lacks one.
    """
    if len(text) > LARGEST_FAMILY:
        raise MoegrowError(f"the family file has more than {LARGEST_FAMILY} characters")
    try:
        return _read(text, model_type)
    except RecursionError:
        raise MoegrowError("the family file nests too deeply to be read") from None


def _read(text: str, model_type: str) -> Family:
    table = toml_text.loads(text, "the family file")
    known = table.pop("model_types", [])
    if not isinstance(known, list) or model_type not in known:
        raise MoegrowError(
            f"the family file is about {known}, and config.json says {model_type!r}",
            f'write model_types = ["{model_type}"] at its top',
        )
    types = _table(table.pop("types", {}), "types")
    merged = _merge(table, _own(types, model_type))
    family = typed_toml.convert({"name": model_type, **merged}, Family, f"family {model_type}")
    _check_patterns(family)
    _check_marks(family)
    return family


def _own(types: Mapping[str, Any], model_type: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a family file says of one type alone, on top of what it says of the type it is like."""
    own = dict(_table(types.get(model_type, {}), f"types.{model_type}"))
    like = own.pop("like", None)
    if like is None:
        return own
    if not isinstance(like, str) or like not in types or like in (*seen, model_type):
        raise MoegrowError(
            f"family {model_type}: it is like {like!r}, which the file does not describe",
            f"types in the file: {', '.join(types)}",
        )
    return _merge(_own(types, like, (*seen, model_type)), own)


@cache
def _index() -> Mapping[str, tuple[str, str]]:
    """Model type → name and text of the family file that describes it."""
    found = [
        (entry.name, entry.read_text("utf-8"))
        for entry in files("moegrow.families").iterdir()
        if entry.name.endswith(".toml") and entry.name != DEFAULTS
    ]
    return {name: file for file in found for name in tomllib.loads(file[1])["model_types"]}


@cache
def _class_defaults() -> Mapping[str, dict[str, Scalar]]:
    """Model type → the values that its config class has for keys that config.json leaves out."""
    return typed_toml.load("moegrow.families", DEFAULTS, dict[str, dict[str, Scalar]])


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MoegrowError(f"family {where}: {value!r} is not a table")
    return value


def _check_patterns(family: Family) -> None:
    """Layers are found and renamed by these patterns, so a slip in them must not pass."""
    for pattern in family.tensors.layers:
        if not pattern.endswith("{layer}.") or pattern.count("{") != 1:
            raise MoegrowError(
                f"family {family.name}: {pattern!r} in layers must end in '{{layer}}.'"
            )
    for pattern in family.tensors.prediction_layers:
        if not re.fullmatch(r"[^{}*]*\{layer\}\.([^{}*]+\.)?", pattern):
            raise MoegrowError(
                f"family {family.name}: {pattern!r} in prediction_layers must have one '{{layer}}.'"
                " and end in a dot"
            )
    for pattern in family.tensors.beside:
        if not re.fullmatch(r"[^{}]*\{layer(-1)?\}", pattern):
            raise MoegrowError(f"family {family.name}: {pattern!r} in beside must end in a layer")
    if min(family.tensors.packed.values(), default=0) < 0 or not 0 < family.router.lists < 100:
        raise MoegrowError(f"family {family.name}: packed and lists must not be negative or large")
    scaling = family.router.scaling
    if scaling and type(scaling.default) not in (int, float):
        raise MoegrowError(f"family {family.name}: router.scaling needs a number as its default")


def _check_marks(family: Family) -> None:
    """What tells dense layers from sparse ones must fit the form that it is said in."""
    for key, form in family.config.per_layer.items():
        marks = [mark for mark in (form.dense, form.sparse) if mark is not None]
        listing = form.form in ("list", "text")
        if len(marks) > 1:
            raise MoegrowError(f"family {family.name}: {key} has dense and sparse; one is enough")
        if marks and not listing and (form.form not in ("numbers", *PARTIAL) or marks != [True]):
            raise MoegrowError(
                f"family {family.name}: {key} of the form {form.form!r} cannot have"
                f" {marks[0]!r} as dense or sparse",
                f"true goes with numbers, {', '.join(PARTIAL)}; an entry with list and text",
            )
