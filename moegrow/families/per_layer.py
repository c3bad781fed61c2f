"""Map config values that are given layer by layer, for each form that they can have."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moegrow import maps
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layer_rules import (
    LayeredConfig,
    check_numbers,
    dense_numbered,
    entries,
    from_rule,
    is_number,
    is_stood_for,
    listed,
    numbered,
    partial,
    periodic,
)
from moegrow.families.schema import PerLayer, lookup, number
from moegrow.maps import Map

# What a form gives back: the new value of its key and of others, by key.
Changes = dict[str, Any]


Form = Callable[[LayeredConfig, str, PerLayer, Map], Changes]


def grown(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """The changes that a layer map makes to a key of the config.

    Raises MoegrowError where the config cannot express the map.
    """
    if form.when and not lookup(model.config, form.when):
        return {}
    return _FORMS[form.form](model, key, form, layer_map)


def _list(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """One entry per layer: written out even where a rule stands for it, for rules do not grow."""
    old = entries(model, key, form)
    if (old is None or old == []) and form.required and not is_stood_for(model, form):
        raise MoegrowError(
            f"config.json has no {key}, and what the model derives without it changes with the"
            " number of layers",
            "load the checkpoint with transformers and save it, which writes the list",
        )
    if old is None or type(old) in (int, float):
        return {}  # one number for all layers stays
    if not isinstance(old, list):
        raise MoegrowError(f"config.json: {key} is {old!r}, not a list with an entry a layer")
    if len(old) < model.layers:
        raise MoegrowError(f"config.json: {key} has {len(old)} entries for {model.layers} layers")
    behind = old[model.layers : model.layers + model.predictions]
    return {key: [old[layer] for layer in layer_map] + behind}


def _text(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """One character per layer."""
    old = lookup(model.config, key)
    if not isinstance(old, str) or len(old) != model.layers:
        return {}
    return {key: "".join(old[layer] for layer in layer_map)}


def _numbers(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """Numbers of the layers meant, in a list or in a text with commas between them.

    Those of prediction layers behind the last move with these.
    """
    told = lookup(model.config, key)
    old = listed(told, key)
    if old is None:
        marks = from_rule(form.rule, model)
        if marks is None:
            return {}
        old = [layer + form.base for layer, mark in enumerate(marks) if mark]
    repeated, meant = maps.repeats(layer_map), set(old)
    if form.once:
        _check_places(key, [layer - form.base for layer in sorted(meant)], layer_map)
    new = [
        position + form.base
        for position, layer in enumerate(layer_map)
        if layer + form.base in meant and not (form.once and repeated[position])
    ]
    last = model.layers + form.base
    new += [
        layer - model.layers + len(layer_map)
        for layer in old
        if last <= layer < last + model.predictions
    ]
    return {key: ",".join(map(str, new)) if isinstance(told, str) else new}


def _check_places(key: str, old: list[int], layer_map: Map) -> None:
    """Raise MoegrowError where a layer would have another place among those that a key means.

    The sizes of what they alone have depend on that place.
    """
    new = [layer for layer in dict.fromkeys(layer_map) if layer in set(old)]
    for layer, expected in zip(new, old, strict=False):
        if layer != expected:
            raise MoegrowError(
                f"what the layers in {key} have depends on their place among each other, and this"
                f" layer map puts layer {layer} where layer {expected} was",
                "keep these layers in their order: use "
                + Parameter("mode", "interpose")
                + ", or another "
                + Parameter("layers"),
            )


def _dense_numbers(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """Numbers of dense layers; a step that makes others dense too stays where it is still true.

    Elsewhere it becomes 1, and what it has said is spelled out.
    """
    old = lookup(model.config, key)
    step = number(model.config, form.step, 1)
    was_dense = dense_numbered(model, key, form)
    dense = [new for new, layer in enumerate(layer_map) if layer in was_dense]
    listed_before = set(old or ())
    kept = [new for new, layer in enumerate(layer_map) if layer in listed_before]
    by_step = {new for new in range(len(layer_map)) if step > 1 and (new + 1) % step}
    if step > 1 and not form.rule and by_step.union(kept) == set(dense):
        return {key: kept} if kept != (old or []) else {}
    changes: Changes = {key: dense} if dense != (old or []) or form.rule else {}
    return changes | ({form.step: 1} if step > 1 else {})


def _prefix(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """How many layers come first: the grown ones must come first too, unless a list tells more."""
    old = number(model.config, key, form.default)
    marks = [*map(partial(model, key, form), layer_map)]
    new = sum(marks)
    if form.unless and not all(marks[:new]):
        new = marks.index(False)
    elif not all(marks[:new]):
        wrong = layer_map[marks.index(True, marks.index(False))]
        raise MoegrowError(
            f"config.json can only say how many layers come first ({key}), and this layer map puts"
            f" layer {wrong}, one of the first {old}, behind others",
            "use "
            + Parameter("mode", "interpose")
            + ", or "
            + Parameter("keep_first", old)
            + " so that later passes leave them out",
        )
    return {key: new} if new != old else {}


def _suffix(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """How many layers come last: the grown ones must come last too."""
    old = number(model.config, key, form.default)
    marks = [*map(partial(model, key, form), layer_map)]
    new = sum(marks)
    if new and not all(marks[-new:]):
        raise MoegrowError(
            f"config.json can only say how many layers come last ({key}), and this layer map puts"
            f" one of the last {old} before others",
            "use "
            + Parameter("mode", "interpose")
            + ", or "
            + Parameter("keep_last", old)
            + " so that only the last pass has them",
        )
    return {key: new} if new != old else {}


def _last(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """The number of the last layer meant, -1 for the last of all: all after it must stay after."""
    old = number(model.config, key, form.default)
    if old < 0:
        return {}
    behind = [layer > old for layer in layer_map]
    if any(behind) and not all(behind[behind.index(True) :]):
        raise MoegrowError(
            f"config.json can only say which layer is the last with experts ({key}), and this"
            f" layer map puts one of those after layer {old} before others",
            "use " + Parameter("mode", "interpose"),
        )
    return {key: len(layer_map) - sum(behind) - 1}


def _table(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """Layer number → settings; keys that are no numbers, such as layer types, stay."""
    old = lookup(model.config, key)
    if not isinstance(old, dict) or not any(map(is_number, old)):
        return {}
    entry = numbered(old)
    width = max(map(len, old))
    padded = all(len(name) == width for name in old) and width > 1 and "0" * width in old
    new = {
        f"{position:0{width}d}" if padded else str(position): entry[layer]
        for position, layer in enumerate(layer_map)
        if layer in entry
    }
    for layer in (layer for layer in entry if layer >= model.layers):
        new[str(layer - model.layers + len(layer_map))] = entry[layer]
    return {key: new | {name: value for name, value in old.items() if not is_number(name)}}


def _owners(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """For each layer the number of the layer whose values it uses.

    Copies of an owner own themselves; others use the nearest copy of their owner before them,
    and of several in a row the first. Models keep the values of the last owner alone, so there is
    no other between, unless the source has it there too.
    """
    old = lookup(model.config, key)
    if old is None:
        return {}
    check_numbers(old, key)
    if len(old) < model.layers:
        raise MoegrowError(f"config.json: {key} has {len(old)} entries for {model.layers} layers")
    new = []
    firsts: dict[int, int] = {}  # for each layer the first of its last copies in a row
    for position, layer in enumerate(layer_map):
        owner = old[layer]
        if owner != layer and owner not in firsts:
            raise MoegrowError(
                f"layer {layer} uses the keys and values of layer {owner}, and this layer map puts"
                f" no copy of layer {owner} before it",
                "put it first: " + Parameter("layers", maps.spell((owner, *layer_map))),
            )
        new.append(position if owner == layer else firsts[owner])
        if not position or layer_map[position - 1] != layer:
            firsts[layer] = position
    known = {(owner, other) for _, owner, other in _owners_between(old[: model.layers])}
    for layer, *between in _owners_between(new):
        owner, other = (layer_map[position] for position in between)
        if (owner, other) not in known:
            raise MoegrowError(
                f"layer {layer_map[layer]} uses the keys and values of layer {owner}, and this"
                f" layer map puts layer {other} between them, whose own are kept in their place",
                f"put another copy of layer {owner} right before it:"
                " "
                + Parameter("layers", maps.spell((*layer_map[:layer], owner, *layer_map[layer:]))),
            )
    return {key: new}


def _owners_between(owners: list[int]) -> Iterator[tuple[int, int, int]]:
    """Each layer with its owner and another one between the two that layers behind it use."""
    used = sorted({owner for layer, owner in enumerate(owners) if owner != layer})
    for layer, owner in enumerate(owners):
        for other in used:
            if owner < other < layer:
                yield layer, owner, other


def _period(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """A rule without a list form: it must also hold for the grown model, as it stands."""
    is_meant, (period, _) = partial(model, key, form), periodic(model, key, form)
    for position, layer in enumerate(layer_map):
        if is_meant(position) != is_meant(layer):
            raise MoegrowError(
                f"config.json can only say that one of every {period} layers is of a kind ({key}),"
                f" and this layer map puts old layer {layer} at {position}",
                "use "
                + Parameter("group")
                + f" with a multiple of {model.period} that divides the layers",
            )
    return {}


def _span(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """Length of blocks of layers: they grow evenly where every layer is repeated in place."""
    old = number(model.config, key, form.default)
    if not old:
        return {}
    times, rest = divmod(len(layer_map), model.layers)
    if rest or layer_map != maps.interpose(model.layers, to=len(layer_map)):
        raise MoegrowError(
            f"config.json can only say how long a block of layers is ({key} {old}), so every layer"
            " must be repeated equally often, in place",
            "use " + Parameter("mode", "interpose") + " with a whole " + Parameter("times"),
        )
    return {key: old * times}


def _groups(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """How many layers belong together: a layer map must keep every group whole, as it stands."""
    size = max(1, number(model.config, key, form.default or 1))
    for first in range(0, len(layer_map), size):
        group = layer_map[first : first + size]
        start = group[0] - group[0] % size
        if group != tuple(range(start, min(start + size, model.layers))):
            raise MoegrowError(
                f"config.json says that {size} layers belong together ({key}), and this layer map"
                f" makes new layers {first}-{first + len(group) - 1} of old layers"
                f" {maps.spell(group)}",
                "use " + Parameter("group") + f" with a multiple of {size} that divides the layers",
            )
    return {}


def _point(model: LayeredConfig, key: str, form: PerLayer, layer_map: Map) -> Changes:
    """How many layers come before a point of the model: as many as before the next one's copy."""
    if lookup(model.config, key) is None:
        return {}
    old = number(model.config, key)
    copies = (position for position, layer in enumerate(layer_map) if layer >= old)
    return {key: next(copies, len(layer_map))} if old <= model.layers else {}


_FORMS: Mapping[str, Form] = {
    "list": _list,
    "text": _text,
    "numbers": _numbers,
    "dense_numbers": _dense_numbers,
    "prefix": _prefix,
    "suffix": _suffix,
    "last": _last,
    "table": _table,
    "owners": _owners,
    "period": _period,
    "span": _span,
    "point": _point,
    "groups": _groups,
}
