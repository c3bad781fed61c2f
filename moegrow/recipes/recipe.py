"""Parse recipes from TOML, and write them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec

from moegrow.errors import MoegrowError, Parameter, UsageError, choose
from moegrow.files import toml_text
from moegrow.options import described
from moegrow.steps import KINDS, Step, to_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1  # goes up when an older reader would misunderstand a recipe
LARGEST = 64 << 10  # bytes of a recipe
MOST_STEPS = 16
LONGEST = 4096  # characters of one text


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps of growth in their order; None is left open.

    `seed` is for steps that have none of their own. `source`, `output` and `family` are paths
    from where the command runs.
    """

    steps: tuple[Step, ...]
    about: str | None = None
    paper: str | None = None
    source: str | None = None
    output: str | None = None
    seed: int | None = None
    family: str | None = None
    max_shard_size: str | None = None


def read_recipe(text: str, name: str) -> Recipe:
    """The recipe that a TOML text spells out; `name` is what errors call it.

    Raises MoegrowError where a key is not known, a value is of another kind, or there are no
    steps or too many. Whether the values make sense is for the commands to say.
    """
    if len(text.encode("utf-8", "replace")) > LARGEST:
        raise MoegrowError(f"{name} has more than {LARGEST} bytes, which no recipe needs")
    table = toml_text.loads(text, name)
    version = table.pop("moegrow_recipe", None)
    if version != FORMAT or type(version) is not int:
        raise MoegrowError(
            f"{name} is not a recipe that moegrow can read: moegrow_recipe is {version!r},"
            f" not {FORMAT}",
            f"a recipe begins with moegrow_recipe = {FORMAT}",
        )
    steps = table.pop("step", None)
    if not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
        count = len(steps) if isinstance(steps, list) else "no list of"
        raise MoegrowError(
            f"{name} has {count} steps, and needs 1 to {MOST_STEPS}",
            'each begins with [[step]] and says grow = "depth" or grow = "width"',
        )
    numbered = enumerate(steps, 1)
    told = tuple(read_step(step, f"{name}, step {number}") for number, step in numbered)
    read = _read(table, Recipe, name, steps=told)
    if read.output is not None and not is_below(read.output):
        raise MoegrowError(
            f"{name}: the output {read.output[:60]!r} leads out of the folder where the command"
            " runs",
            "a recipe writes below that folder; " + Parameter("output") + " writes anywhere",
        )
    return read


def read_step(table: object, name: str) -> Step:
    """A step from a table, strictly."""
    if not isinstance(table, dict):
        raise MoegrowError(f"{name} is {repr(table)[:60]}, not a table")
    kind = table.get("grow")
    if not isinstance(kind, str) or kind not in KINDS:
        raise MoegrowError(
            f"{name}: grow is {repr(kind)[:60]}",
            choose(kind, KINDS, 'say grow = "depth" or grow = "width"'),
        )
    return _read({key: table[key] for key in table if key != "grow"}, KINDS[kind], name)


T = TypeVar("T", bound="DataclassInstance")


def _read(table: Mapping[str, object], kind: type[T], name: str, **more: Any) -> T:
    """A table as a value of this kind: every key is known, and its value of the field's type."""
    known = {key: entry for key, entry in described(kind).items() if key not in more}
    for key, value in table.items():
        if key not in known:
            raise MoegrowError(f"{name}: the key {key[:60]!r} is not known", choose(key, known))
        # Whether a word is one of those listed is for the value to say.
        kinds = tuple(each if each in _WANTED else str for each in known[key].kinds)
        try:
            more[key] = msgspec.convert(value, Union[kinds])  # noqa: UP007
        except msgspec.ValidationError:
            wanted = " or ".join(_WANTED[each] for each in kinds)
            raise MoegrowError(f"{name}: {key} is {repr(value)[:60]}, not {wanted}") from None
        if isinstance(value, str) and len(value) > LONGEST:
            raise MoegrowError(f"{name}: {key} has {len(value)} characters, more than {LONGEST}")
    try:
        return kind(**more)
    except UsageError as error:
        raise UsageError(f"{name}: " + error.said, error.advice) from None


_WANTED = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def is_below(path: str) -> bool:
    """Whether a path stays below the folder that it begins in, by its text alone.

    >>> [is_below(path) for path in ("grown", "runs/grown", "../grown", "/grown", "~/grown", ".")]
    [True, True, False, False, False, False]
    """
    parts = path.split("/")
    names = [part for part in parts if part not in ("", ".")]
    return bool(names) and parts[0] != "" and ".." not in parts and not path.startswith("~")


def to_toml(recipe: Recipe) -> str:
    """The text of a recipe: what `read_recipe` reads as an equal one."""
    keys = [field.name for field in fields(recipe) if field.name != "steps"]
    lines = [f"moegrow_recipe = {FORMAT}", *_lines((key, getattr(recipe, key)) for key in keys)]
    for step in recipe.steps:
        lines += ["", "[[step]]", *_lines(to_table(step).items())]
    return "\n".join(lines) + "\n"


def _lines(entries: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{key} = {_spelled(value)}" for key, value in entries if value is not None]


def _spelled(value: str | int | float) -> str:
    r"""A value as TOML spells it; JSON does so too, but for marks that it leaves unescaped.

    >>> _spelled('a "b"'), _spelled(3), _spelled(1e-05), _spelled(True), _spelled("\x7f")
    ('"a \\"b\\""', '3', '1e-05', 'true', '"\\U0000007f"')
    """
    text = json.dumps(value, ensure_ascii=False)
    # What steers a terminal stays out of it: a recipe is shown, and may be a stranger's.
    return "".join(mark if mark.isprintable() else f"\\U{ord(mark):08x}" for mark in text)
