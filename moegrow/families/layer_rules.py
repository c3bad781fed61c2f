"""Evaluate the config keys and rules that set properties of single layers."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moegrow.errors import MoegrowError
from moegrow.families.schema import Config, PerLayer, Rule, Setting, lookup, number

# A layer's number as a key; Python also calls others digits, such as ².
_DIGITS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, eq=False)
class LayeredConfig:
    """A config with the layers that it speaks of: how many, and which of them have experts.

    `predictions` is the number of multi-token-prediction layers behind the last. `per_layer` are
    the keys that say something of single layers.
    """

    config: Config
    layers: int
    moe_layers: frozenset[int]
    predictions: int = 0
    per_layer: Mapping[str, PerLayer] = field(default_factory=dict)

    @property
    def period(self) -> int:
        """After how many layers all periodic keys begin anew."""
        return math.lcm(
            *(
                max(1, number(self.config, key, form.default or 1))
                for key, form in self.per_layer.items()
                if form.form == "period"
            )
        )


def entries(model: LayeredConfig, key: str, form: PerLayer) -> Any:
    """What the config has under a key of the form "list", or its rule says in its place."""
    old = lookup(model.config, key)
    if (old is None or old == []) and not is_stood_for(model, form):
        return from_rule(form.rule, model)
    return old


def is_stood_for(model: LayeredConfig, form: PerLayer) -> bool:
    """Whether another key says what a list would say, be it that there are none of a kind."""
    return bool(form.unless) and lookup(model.config, form.unless) is not None


def partial(model: LayeredConfig, key: str, form: PerLayer) -> Callable[[int], bool]:
    """Whether a layer is one of those that a key of a partial form means."""
    if form.form == "period":
        period, offset = periodic(model, key, form)
        return lambda layer: layer % period == offset % period
    old = number(model.config, key, form.default)
    if form.form == "prefix":
        return lambda layer: layer < old
    if form.form == "suffix":
        return lambda layer: layer >= model.layers - old
    return lambda layer: old < 0 or layer <= old


def dense_numbered(model: LayeredConfig, key: str, form: PerLayer) -> frozenset[int]:
    """The layers that the config makes dense by a key of the form "dense_numbers"."""
    old = lookup(model.config, key)
    if old is None:
        old = _marked(from_rule(form.rule, model))
    check_numbers(old, key)
    meant = set(old)
    step = number(model.config, form.step, 1)
    return frozenset(
        layer
        for layer in range(model.layers)
        if layer in meant or (step > 1 and (layer + 1) % step)
    )


def periodic(model: LayeredConfig, key: str, form: PerLayer) -> tuple[int, int]:
    """The period of a rule and its offset."""
    offset = form.offset.read(model.config) if isinstance(form.offset, Setting) else form.offset
    return max(1, number(model.config, key, form.default or 1)), offset


def numbered(table: Mapping[str, Any]) -> dict[int, Any]:
    """The entries of a table under numbers of layers, which may be padded with zeros.

    >>> numbered({"00": 1, "11": 2, "full_attention": 3})
    {0: 1, 11: 2}
    """
    return {int(name): value for name, value in table.items() if is_number(name)}


def is_number(name: str) -> bool:
    """Whether a key of a table is a layer's number."""
    return _DIGITS.fullmatch(name) is not None


def from_rule(rule: Rule | None, model: LayeredConfig) -> list[Any] | None:
    """The list that the model derives itself, or None where no rule applies."""
    if rule is None or (rule.when and not lookup(model.config, rule.when)):
        return None
    every, start, before = (
        value.read(model.config) if isinstance(value, Setting) else value
        for value in (rule.every, rule.start, rule.before)
    )
    for value in (every, start, before):
        if type(value) is not int:
            raise MoegrowError(
                f"config.json has a pattern of layers ({value!r}) that moegrow does not read",
                "load the checkpoint with transformers and save it, which writes the list",
            )
    below = number(model.config, rule.below, model.layers) if rule.below else None

    def is_hit(layer: int) -> bool:
        if layer < start:
            return bool(before > 0 and (layer + 1) % before == 0)
        return (
            (every > 0 and (layer - start) % every == rule.at % every)
            or (rule.rest and every > 0 and layer >= model.layers // every * every)
            or layer < rule.first
            or (rule.last and layer == model.layers - 1)
            or (below is not None and layer >= below)
            or (rule.moe and layer in model.moe_layers)
        )

    return [rule.hit if is_hit(layer) else rule.miss for layer in range(model.layers)]


def listed(value: Any, key: str) -> list[int] | None:
    """Numbers of layers that stand in a list or in a text with commas between them; else None."""
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}(\s*,\s*[0-9]{1,9})*\s*", value):
        return [int(number) for number in value.split(",")]
    check_numbers(value, key)
    return list(value)


def check_numbers(value: Any, key: str) -> None:
    if not isinstance(value, list) or not all(type(entry) is int for entry in value):
        raise MoegrowError(f"config.json: {key} is {value!r}, not a list of layers' numbers")


def _marked(marks: list[Any] | None) -> list[int]:
    return [layer for layer, mark in enumerate(marks or ()) if mark]
