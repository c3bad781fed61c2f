"""Engines that compute kinds of layers from their numbers: which of them a layer map does not suit,
and the options of depth that suit them all."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from moegrow import maps
from moegrow.errors import MoegrowError
from moegrow.families import layer_rules
from moegrow.families.layout import Layout
from moegrow.families.schema import Config, Names, Setting, lookup
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.maps import Map
from moegrow.model_config.config_json import grown_config
from moegrow.planning import depth_modes
from moegrow.planning.plan import Plan
from moegrow.planning.serving import Kinds, facts, language_model
from moegrow.recipes.recipe import Step

LONGEST_PERIOD = 64  # of a pattern of layers for which options are looked for


def warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence for each kind that engines compute otherwise, and one for what suits them all."""
    unsuited = misfits(layout, plan.growth.layers, plan.config)
    engines: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for kinds in unsuited:
        told = engines[kinds.what, kinds.ignores, kinds.rule is None, kinds.loads]
        told += [engine for engine in kinds.engines if engine not in told]
    for (what, ignores, is_leading, loads), names in engines.items():
        yield _sentence(names, what, ignores, is_leading=is_leading, loads=loads)
    if not unsuited:
        return
    found = suiting(plan, layout)
    if found:
        step, layers = found
        yield f"what suits all engines: depth {spelled(step)} ({layers} layers)"
    else:
        yield "no options of depth were found that suit all engines"


def _sentence(
    engines: list[str], what: str, ignores: Names, *, is_leading: bool, loads: bool
) -> str:
    several = len(engines) > 1
    names = " and ".join(filter(None, [", ".join(engines[:-1]), engines[-1]]))
    how = (
        f"{'take' if several else 'takes'} only the first layers for those without experts"
        if is_leading
        else f"{'compute' if several else 'computes'} {what} from the layer's number"
    )
    unread = f" and {'do' if several else 'does'} not read {' or '.join(ignores)}"
    result = "loads there and computes something else" if loads else "does not load there"
    return f"{names} {how}{unread if ignores else ''}: the result {result}"


def misfits(layout: Layout, layer_map: Map, config_text: str) -> list[Kinds]:
    """The kinds of layers that engines would compute otherwise than in the source.

    A layer map suits an engine where it takes each new layer for what it takes the old layer for
    that the new one is made from.
    """
    concerned = [kinds for kinds in facts().kinds if layout.family.name in kinds.types]
    if not concerned or layer_map == maps.identity(layout.layers):
        return []
    root = json_edit.loads(config_text, "config.json", infinities=True)
    config = language_model(root, layout)
    return [kinds for kinds in concerned if not _suits(kinds, layout, layer_map, config)]


def _suits(kinds: Kinds, layout: Layout, layer_map: Map, config: Config) -> bool:
    if kinds.unless and lookup(config, kinds.unless) is not None:
        return True
    sparse = layout.moe_layers
    if kinds.rule is None:
        # The layers without experts are counted, so the first with experts ends them.
        said = sorted(sparse) == [*range(layout.layers)][-len(sparse) :]
        behind = [old in sparse for old in layer_map]
        return not said or behind == sorted(behind)
    old = layer_rules.Old(layout.config, layout.layers, sparse)
    new = layer_rules.Old(config, len(layer_map), frozenset())
    try:
        before, after = (
            layer_rules.from_rule(kinds.rule, old),
            layer_rules.from_rule(kinds.rule, new),
        )
    except MoegrowError:
        return True  # the config has a pattern there that the engine computes nothing from
    if before is None or after is None:
        return True
    return all(after[place] == before[layer] for place, layer in enumerate(layer_map))


def suiting(plan: Plan, layout: Layout) -> tuple[Step, int] | None:
    """Options for the last depth step with which its result suits every engine.

    They are tried, by the same rules as the plan, on this very checkpoint; the first that fit are
    returned with the number of layers that they make. None where none fit, or the plan does.
    """
    unsuited = misfits(layout, plan.growth.layers, plan.config)
    period = math.lcm(*_periods(unsuited, layout))
    if not unsuited or period > LONGEST_PERIOD:
        return None
    steps = [step for step in plan.recipe or () if step["grow"] == "depth"]
    before = maps.identity(layout.layers)
    for step in steps[:-1]:
        before = maps.compose(depth_modes.layer_map(len(before), step), before)
    last = steps[-1] if steps else {}
    made, dense = len(plan.growth.layers), min(layout.moe_layers, default=0)
    for option in _options(last, len(before), made, period=period, dense=dense):
        layers = _mapped(option, before, layout)
        if layers is not None:
            return option, len(layers)
    return None


def _periods(unsuited: list[Kinds], layout: Layout) -> Iterator[int]:
    """After how many layers the rules of some kinds begin anew."""
    for kinds in unsuited:
        if kinds.rule is not None:
            every = kinds.rule.every
            found = every.read(layout.config) if isinstance(every, Setting) else every
            yield max(1, found)


def _options(last: Step, before: int, after: int, *, period: int, dense: int) -> Iterator[Step]:
    """Options like those of a depth step, for groups of whole periods, the plainest first."""
    kept = {key: last[key] for key in ("times", "to", "new_layers") if key in last}
    mode = last.get("mode")
    if mode == "expand":
        kept.setdefault("new_layers", "identity")
    sizes: list[Step] = [{}] if "times" in kept or "to" in kept else [{"times": "2x"}]
    if mode not in ("interpose", "stack"):
        sizes.insert(0, {"to": after})
    most = min(before, 4 * period + dense + 1)
    edges = [
        (first, behind)
        for behind in dict.fromkeys([last.get("keep_last", 0), before % period])
        for first in dict.fromkeys([last.get("keep_first", 0), *range(most)])
    ]
    for tried in ("stack", "interpose") if mode == "stack" else ("interpose",):
        for size, (first, behind) in product(sizes, edges):
            whole = {"keep_first": first, "keep_last": behind}
            step = {"grow": "depth", "mode": tried, **kept, **size}
            step |= {key: value for key, value in whole.items() if value}
            if tried == "stack":
                yield step
            elif (before - first - behind) % period == 0:
                yield step | ({"group": period} if period > 1 else {})


def _mapped(option: Step, before: Map, layout: Layout) -> Map | None:
    """The layers that options make, where the config can express them and they suit all engines."""
    try:
        layers = maps.compose(depth_modes.layer_map(len(before), option), before)
        growth = replace(_none(layout), layers=layers, silent=(False,) * len(layers))
        config = grown_config(layout, growth, {}, is_quantised=False)
    except MoegrowError:
        return None
    return None if misfits(layout, layers, config) else layers


def _none(layout: Layout) -> Growth:
    return Growth.none(layers=layout.layers, experts=layout.experts, top_k=layout.top_k)


def spelled(step: Mapping[str, Any]) -> str:
    """The options of a depth step as they are typed, without those that are the rule.

    >>> spelled({"grow": "depth", "mode": "interpose", "times": "2x", "keep_first": 4, "group": 4})
    '--keep-first 4 --group 4'
    """
    usual = {"grow": "depth", "mode": "interpose", "times": "2x"}
    return " ".join(
        f"--{key.replace('_', '-')} {value}"
        for key, value in step.items()
        if usual.get(key) != value
    )
