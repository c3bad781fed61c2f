"""How a model family names its layers, experts, routers and config keys: read from TOML files."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from moegrow.errors import MoegrowError

NUMBER = r"(0|[1-9]\d*)"

# What a tensor of a MoE block can be; the first list of a family file that matches decides.
ROLES = ("router", "router_bias", "balance_bias", "shared", "experts")


class Place(NamedTuple):
    """Where a tensor of a layer stands: its name is `{stack}{layer}.{before}{expert}{after}`.

    `role` is one of ROLES or "" for what is not part of a MoE block; `is_output` marks the
    matrices whose result is added to the residual stream.
    """

    stack: str
    layer: int
    before: str
    expert: int | None
    after: str
    role: str
    is_output: bool
    in_block: bool
    is_prediction: bool

    @property
    def suffix(self) -> str:
        """The name behind the layer's number."""
        return f"{self.before}{'' if self.expert is None else self.expert}{self.after}"


@dataclass(frozen=True)
class Setting:
    """A config key with the value that counts where the key is absent or null."""

    key: str
    default: Any = None

    def read(self, config: Mapping[str, Any]) -> Any:
        value = config.get(self.key)
        return self.default if value is None else value


@dataclass(frozen=True)
class Rule:
    """The per-layer list that a model derives when its config has none.

    Layer `i` is a `hit` when `i + 1` is a multiple of `every` or `i` is not below the config's
    `below`, else a `miss`. The rule applies only where the config's `when` is true.
    """

    every: int | Setting
    hit: Any = True
    miss: Any = False
    below: str = ""
    when: str = ""


@dataclass(frozen=True)
class PerLayer:
    """A config key that says something layer by layer.

    form: "list" (one entry a layer), "numbers" (numbers of the layers meant), "dense_numbers"
    (numbers of dense layers, beside a `step` key that makes others dense too) or "prefix" (how
    many layers come first).
    """

    form: str
    default: int = 0
    step: str = ""
    rule: Rule | None = None


@dataclass(frozen=True)
class ConfigKeys:
    """The spellings of what the config says; `nested` names the table of a multimodal config."""

    layers: tuple[str, ...]
    experts: tuple[str, ...]
    top_k: tuple[str, ...]
    nested: str = ""
    prediction_layers: tuple[str, ...] = ()
    per_layer: Mapping[str, PerLayer] = field(default_factory=dict)


@dataclass(frozen=True)
class Groups:
    """Config keys of a router that keeps the best groups of experts before it picks experts.

    score: "sum" (of the two best experts) or "maximum", which does not notice copies. With
    `when`, the router does so only where the config's `when` is `is`.
    """

    count: str
    kept: str
    score: str
    when: str = ""
    # Named for the TOML key: `when = "topk_method", is = "group_limited_greedy"`.
    equals: str = field(default="", metadata={"toml": "is"})


@dataclass(frozen=True)
class Router:
    """How scores become weights, as far as copies of experts can change the result."""

    scores: str
    normalised: bool | Setting = True
    multiplies: str = "output"
    scaling: Setting | None = None
    groups: Groups | None = None


@dataclass(frozen=True)
class Tensors:
    """Patterns of tensor names; `{layer}` and `{expert}` are numbers, `*` is anything."""

    layers: tuple[str, ...]
    block: tuple[str, ...]
    router: tuple[str, ...]
    experts: tuple[str, ...]
    outputs: tuple[str, ...]
    prediction_layers: tuple[str, ...] = ()
    router_bias: tuple[str, ...] = ()
    balance_bias: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One model type: where its tensors stand, what its config calls things, how it routes."""

    name: str
    tensors: Tensors
    config: ConfigKeys
    router: Router

    def locator(self) -> Callable[[str], Place | None]:
        """A function from a tensor's name to its Place, or None for one outside all layers."""
        stacks = _alternatives(self.tensors.layers + self.tensors.prediction_layers)
        predictions = {pattern.split("{layer}")[0] for pattern in self.tensors.prediction_layers}
        roles = [(role, re.compile(_alternatives(getattr(self.tensors, role)))) for role in ROLES]
        outputs = re.compile(_alternatives(self.tensors.outputs))
        layer = re.compile(f"(?P<name>{stacks})(?P<suffix>.+)")

        @cache
        def classify(suffix: str) -> tuple[str, int | None, str, str, bool, bool]:
            in_block = suffix.startswith(self.tensors.block)
            is_output = bool(outputs.fullmatch(suffix))
            for role, pattern in roles:
                if found := pattern.fullmatch(suffix):
                    for number in (i for i, text in enumerate(found.groups(), 1) if text):
                        before, after = suffix[: found.start(number)], suffix[found.end(number) :]
                        return before, int(found[number]), after, role, is_output, in_block
                    return suffix, None, "", role, is_output, in_block
            return suffix, None, "", "", is_output, in_block

        def locate(name: str) -> Place | None:
            found = layer.fullmatch(name)
            if not found:
                return None
            number = next(i for i, text in enumerate(found.groups()[1:-1], 2) if text)
            stack = name[: found.start(number)]
            before, expert, after, role, is_output, in_block = classify(found["suffix"])
            return Place(
                stack, int(found[number]), before, expert, after, role, is_output, in_block,
                stack in predictions,
            )  # fmt: skip

        return locate

    def looks_like_expert(self) -> Callable[[str], bool]:
        """Whether a name ends like one of this family's expert tensors, wherever it stands."""
        tail = re.compile(rf"(?:.*\.)?(?:{_alternatives(self.tensors.experts)})")
        return lambda name: bool(tail.fullmatch(name))


def find_family(model_type: str) -> Family:
    """The family of the config's `model_type`; raises MoegrowError with the nearest known names."""
    found = _index().get(model_type)
    if found is None:
        raise MoegrowError(
            f"the model type {model_type!r} is not known",
            f"known: {', '.join(known_types())}",
        )
    return read_family(found, model_type)


def known_types() -> tuple[str, ...]:
    """Every model type that a family file describes, in alphabetical order."""
    return tuple(sorted(_index()))


def read_family(text: str, model_type: str) -> Family:
    """The family of `model_type` from the text of a family file.

    Raises MoegrowError where the text has keys that the schema does not know or lacks one.
    """
    table = tomllib.loads(text)
    types = table.pop("types", {})
    del table["model_types"]
    own = types.get(model_type, {})
    if "like" in own:
        own = _merge(types.get(own["like"], {}), {k: v for k, v in own.items() if k != "like"})
    family: Family = _build(Family, {"name": model_type, **_merge(table, own)}, model_type)
    return family


@cache
def _index() -> Mapping[str, str]:
    """Model type → text of the family file that describes it."""
    texts = [
        entry.read_text("utf-8")
        for entry in files("moegrow").joinpath("families").iterdir()
        if entry.name.endswith(".toml")
    ]
    return {name: text for text in texts for name in tomllib.loads(text)["model_types"]}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


# Which dataclass a table of a family file becomes, by the name of its field.
_TABLES: Mapping[str, type] = {
    "tensors": Tensors, "config": ConfigKeys, "router": Router, "groups": Groups,
    "scaling": Setting, "normalised": Setting, "every": Setting, "rule": Rule,
}  # fmt: skip


def _build(cls: type, table: Mapping[str, Any], where: str) -> Any:
    """The dataclass `cls` filled from a TOML table, strictly: no key unknown, none missing."""
    known = {entry.metadata.get("toml", entry.name): entry for entry in fields(cls)}
    for key in table:
        if key not in known:
            raise MoegrowError(
                f"family {where}: the key {key!r} is not known", f"known: {', '.join(known)}"
            )
    values: dict[str, Any] = {}
    for key, entry in known.items():
        if key in table:
            values[entry.name] = _value(key, table[key], f"{where}.{key}")
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise MoegrowError(f"family {where}: the key {key!r} is missing")
    return cls(**values)


def _value(key: str, value: Any, where: str) -> Any:
    if key == "per_layer":
        return {name: _build(PerLayer, table, f"{where}.{name}") for name, table in value.items()}
    if isinstance(value, dict):
        return _build(_TABLES[key], value, where)
    return tuple(value) if isinstance(value, list) else value


def _alternatives(patterns: tuple[str, ...]) -> str:
    """One regular expression for any of the patterns; without patterns it matches nothing."""
    return "(?:" + "|".join(map(_expression, patterns)) + ")" if patterns else r"(?!)"


def _expression(pattern: str) -> str:
    special = {"{layer}": NUMBER, "{expert}": NUMBER, "*": ".*"}
    parts = re.split(r"(\{layer\}|\{expert\}|\*)", pattern)
    return "".join(special.get(part, re.escape(part)) for part in parts)
