"""The new config.json: the old text with only the keys changed that the maps change."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from moegrow import jsontext
from moegrow.errors import MoegrowError
from moegrow.family import PerLayer, Rule, Setting
from moegrow.layout import Layout
from moegrow.maps import Map
from moegrow.plans import Growth

Config = Mapping[str, Any]
Changes = dict[str, Any]


def grown_config(layout: Layout, growth: Growth, settings: Mapping[str, Any]) -> str:
    """The text of the new config.json; `settings` are what the width compensation sets.

    Raises MoegrowError where the config cannot express the layer map.
    """
    keys = layout.family.config
    changes: Changes = dict(settings)
    if growth.layers != tuple(range(layout.layers)):
        changes |= {key: len(growth.layers) for key in present(layout.config, keys.layers)}
        for key, form in keys.per_layer.items():
            changes |= _FORMS[form.form](layout, growth.layers, key, form)
    changes |= {key: len(growth.experts) for key in present(layout.config, keys.experts)}
    changes |= dict.fromkeys(present(layout.config, keys.top_k), growth.top_k)
    config = layout.config
    nested = (keys.nested,) if config is not layout.checkpoint.config else ()
    return jsontext.replace(
        layout.checkpoint.config_text,
        {
            (*nested, key): value
            for key, value in changes.items()
            if key not in config or config[key] != value
        },
    )


def present(config: Config, spellings: tuple[str, ...]) -> list[str]:
    """The spellings of a setting that the config uses; none is ever added beside another."""
    return [key for key in spellings if config.get(key) is not None]


def scaled(setting: Setting, config: Config, scale: Fraction) -> Changes:
    """The change that multiplies a number in the config by `scale`."""
    value = setting.read(config) * scale.numerator / scale.denominator
    return {setting.key: value}


def _list(layout: Layout, layers: Map, key: str, form: PerLayer) -> Changes:
    """One entry per layer: written out even where a rule stands for it, for rules do not grow."""
    old = layout.config.get(key)
    if old is None or old == []:
        old = _from_rule(form.rule, layout.config, layout.layers)
    if old is None:
        return {}
    if not isinstance(old, list) or len(old) < layout.layers:
        raise MoegrowError(
            f"config.json: {key} has {len(old) if isinstance(old, list) else old!r} entries"
            f" for {layout.layers} layers"
        )
    return {key: [old[layer] for layer in layers]}


def _numbers(layout: Layout, layers: Map, key: str, form: PerLayer) -> Changes:
    """Numbers of the layers meant."""
    old = layout.config.get(key)
    if old is None:
        marks = _from_rule(form.rule, layout.config, layout.layers)
        if marks is None:
            return {}
        old = [layer for layer, mark in enumerate(marks) if mark]
    return {key: [new for new, layer in enumerate(layers) if layer in old]}


def _dense_numbers(layout: Layout, layers: Map, key: str, form: PerLayer) -> Changes:
    """Numbers of dense layers; a step that makes others dense too becomes 1 and is spelled out."""
    old = layout.config.get(key) or []
    step = layout.config.get(form.step) or 1
    dense = [
        new for new, layer in enumerate(layers) if layer in old or (step > 1 and (layer + 1) % step)
    ]
    changes: Changes = {}
    if dense != old:
        changes[key] = dense
    if step > 1:
        changes[form.step] = 1
    return changes


def _prefix(layout: Layout, layers: Map, key: str, form: PerLayer) -> Changes:
    """How many layers come first: the grown ones must come first too."""
    old = Setting(key, form.default).read(layout.config)
    first = [layer < old for layer in layers]
    new = sum(first)
    if not all(first[:new]):
        raise MoegrowError(
            f"config.json can only say how many dense layers come first ({key}), and this layer"
            f" map puts layer {layers[first.index(True, first.index(False))]}, one of the first"
            f" {old}, behind others",
            f"use --mode interpose, or --keep-first {old} so that later passes leave them out",
        )
    return {key: new} if new != old else {}


_FORMS: Mapping[str, Callable[[Layout, Map, str, PerLayer], Changes]] = {
    "list": _list,
    "numbers": _numbers,
    "dense_numbers": _dense_numbers,
    "prefix": _prefix,
}


def _from_rule(rule: Rule | None, config: Config, layers: int) -> list[Any] | None:
    """The list that the model derives itself, or None where no rule applies."""
    if rule is None or (rule.when and not config.get(rule.when)):
        return None
    every = rule.every.read(config) if isinstance(rule.every, Setting) else rule.every
    below = config.get(rule.below, layers) if rule.below else layers
    return [
        rule.hit if (layer + 1) % every == 0 or layer >= below else rule.miss
        for layer in range(layers)
    ]
