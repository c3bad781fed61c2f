"""Find serving engines that a layer map does not suit, and the depth options that suit all."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from moegrow import maps
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.families.model_facts import ModelFacts
from moegrow.families.schema import Names
from moegrow.growth import Growth
from moegrow.maps import Map
from moegrow.model_config.config_json import grown_config
from moegrow.options import typed
from moegrow.planning import depth_modes
from moegrow.planning.plan import Plan
from moegrow.planning.serving import Kinds, facts, result_facts
from moegrow.steps import Depth, Mode

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
    found = _suiting(unsuited, plan, layout)
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
    result = result_facts(config_text, layout)
    return [kinds for kinds in concerned if not _suits(kinds, layout, layer_map, result)]


def _suits(kinds: Kinds, layout: Layout, layer_map: Map, result: ModelFacts) -> bool:
    if kinds.unless and result.has(kinds.unless):
        return True
    sparse = layout.moe_layers
    if kinds.rule is None:
        # The layers without experts are counted, so the first with experts ends them.
        said = sorted(sparse) == [*range(layout.layers)][-len(sparse) :]
        behind = [old in sparse for old in layer_map]
        return not said or behind == sorted(behind)
    try:
        before = layout.facts.list_by(kinds.rule, layout.layers, sparse)
        after = result.list_by(kinds.rule, len(layer_map), frozenset())
    except MoegrowError:
        return True  # the config has a pattern there that the engine computes nothing from
    if before is None or after is None:
        return True
    return all(after[place] == before[layer] for place, layer in enumerate(layer_map))


def suiting(plan: Plan, layout: Layout) -> tuple[Depth, int] | None:
    """Options for the last depth step with which its result suits every engine.

    They are tried, by the same rules as the plan, on this very checkpoint; the first that fit are
    returned with the number of layers that they make. None where none fit, or the plan does.
    """
    return _suiting(misfits(layout, plan.growth.layers, plan.config), plan, layout)


def _suiting(unsuited: list[Kinds], plan: Plan, layout: Layout) -> tuple[Depth, int] | None:
    period = math.lcm(*_periods(unsuited, layout))
    if not unsuited or period > LONGEST_PERIOD:
        return None
    steps = [step for step in plan.recipe or () if isinstance(step, Depth)]
    before = maps.identity(layout.layers)
    for step in steps[:-1]:
        before = maps.compose(depth_modes.layer_map(len(before), step), before)
    last = steps[-1] if steps else Depth()
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
            yield layout.facts.period_of(kinds.rule)


def _options(last: Depth, before: int, after: int, *, period: int, dense: int) -> Iterator[Depth]:
    """Options like those of a depth step, for groups of whole periods, the plainest first."""
    mode, times, to = last.mode, last.times, last.to
    new_layers = last.new_layers or ("identity" if mode == "expand" else None)
    sizes = [("2x" if times is None and to is None else times, to)]
    if mode not in ("interpose", "stack") and times is None:
        sizes.insert(0, (None, after))
    most = min(before, 4 * period + dense + 1)
    edges = [
        (first, behind)
        for behind in dict.fromkeys([last.keep_last, before % period])
        for first in dict.fromkeys([last.keep_first, *range(most)])
    ]
    modes: tuple[Mode, ...] = ("stack", "interpose") if mode == "stack" else ("interpose",)
    for tried in modes:
        for (times, to), (first, behind) in product(sizes, edges):
            step = Depth(
                mode=tried, times=times, to=to, keep_first=first, keep_last=behind,
                new_layers=new_layers,
            )  # fmt: skip
            if tried == "stack":
                yield step
            elif (before - first - behind) % period == 0:
                yield replace(step, group=period)


def _mapped(option: Depth, before: Map, layout: Layout) -> Map | None:
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


def spelled(step: Depth) -> str:
    """The options of a depth step as they are typed, without those that are the rule.

    >>> spelled(Depth(mode="interpose", times="2x", keep_first=4, group=4))
    '--keep-first 4 --group 4'
    """
    plain = replace(step, times=None) if step.times == "2x" else step
    return typed(replace(plain, mode=None) if step.mode == "interpose" else plain)
