"""Find incomplete checkpoints: layers that lack tensors, and adapters that are not merged.

A layer lacks a tensor that all others of its kind have, as after a lost shard. Layers are of a kind
where both have experts or both have none, and nothing in the config tells them apart: no list with
an entry for each layer, no number or rule of the family's keys."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

from moegrow.dtypes import PLAIN
from moegrow.errors import MoegrowError
from moegrow.families.layer_rules import LayeredConfig, entries, listed, numbered, partial
from moegrow.families.layout import Layout, Tensor
from moegrow.families.name_variants import module, parts_of_quantised
from moegrow.families.schema import PARTIAL, Config, PerLayer, lookup
from moegrow.families.tensor_names import named

# Parts of names that PEFT gives to what it wraps (`base_layer` is what was there before) and to
# what it adds: LoRA and DoRA, and modules that are trained whole.
_PARTS = re.compile(
    r"(?:^|\.)(base_layer|lora_(?:A|B|embedding_A|embedding_B|magnitude_vector|bias)"
    r"|modules_to_save|original_module)(?:\.|$)"
)

_BEGINNINGS = ("base_layer", "lora_", "modules_to_save", "original_module")

HINT = (
    "merge it with PEFT first: PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload()"
    '.save_pretrained("merged"), then grow merged'
)


def check_merged(name: str, tensors: Collection[str]) -> None:
    """Raise MoegrowError where tensors of the checkpoint `name` are parts of an adapter.

    Layers wrapped by it have other names than loaders look for, and its factors are no weights of
    experts, which noise could be added to. An adapter alone is not meant.
    """
    everything = "\n".join(tensors)
    if not any(part in everything for part in _BEGINNINGS):
        return
    found = [tensor for tensor in tensors if _PARTS.search(tensor)]
    if found and len(found) < len(tensors):
        parts = sorted({match[1] for tensor in found if (match := _PARTS.search(tensor))})
        raise MoegrowError(
            f"{name} holds an adapter that is not merged into its weights: {len(found)} tensors are"
            f" named by {', '.join(parts)}, such as {found[0]}",
            HINT,
        )


# What a layer has, by names without its number and those of experts, and whether it is quantised.
Names = dict[str, bool]

MOST_UNLIKE = 32  # layers of one kind that all differ: then none of them is the odd one


def lacking_problems(layout: Layout) -> Iterator[str]:
    """A sentence for each layer that lacks what most layers of its kind have."""
    layers = _names(layout)
    told = _told(layout)
    kinds: dict[Hashable, list[int]] = defaultdict(list)
    for layer in sorted(layers):
        kinds[(layer in layout.moe_layers, *(key(layer) for key in told))].append(layer)
    for kind in kinds.values():
        yield from _odd_ones(layers, frozenset(kind))


def _names(layout: Layout) -> dict[int, Names]:
    """What each layer has of which the family does not say that layers may lack it."""
    is_optional = named(layout.family.tensors.optional)
    found: dict[int, Names] = defaultdict(dict)
    for stack, layers in layout.stacks.items():
        for layer, tensors in layers.items():
            if layer < layout.layers and not tensors[0][1].is_prediction:
                found[layer] |= _names_of(stack, tensors, is_optional)
    return found


def _names_of(stack: str, tensors: list[Tensor], is_optional: Callable[[str], bool]) -> Names:
    endings = parts_of_quantised()
    found: Names = {}
    for spec, place in tensors:
        if place.is_once or place.is_not_in_first or place.is_indexer:
            continue
        name = place.suffix if place.expert is None else f"{place.before}*{place.after}"
        name = name or stack
        if name not in found and not is_optional(name[1:]):
            found[name] = spec.dtype not in PLAIN or name.endswith(endings)
    return found


def _odd_ones(layers: Mapping[int, Names], kind: frozenset[int]) -> Iterator[str]:
    """The layers of one kind that lack some of what more than half of the kind have.

    Half are enough where all layers of other kinds have it too.
    """
    kinds: dict[frozenset[str], list[int]] = defaultdict(list)
    for layer in sorted(kind):
        kinds[frozenset(layers[layer])].append(layer)
    if len(kinds) > MOST_UNLIKE:
        return

    def is_elsewhere(name: str) -> bool:
        has = [name in its for layer, its in layers.items() if layer not in kind]
        return bool(has) and all(has)

    for lesser, few in kinds.items():
        for fuller, many in kinds.items():
            if lesser < fuller and len(few) <= len(many):
                lost = [
                    name
                    for name in sorted(fuller - lesser)
                    if len(few) < len(many) or is_elsewhere(name)
                    if not _may_lack(name, layers[few[0]], layers[many[0]])
                ]
                if lost:
                    more = f" (and {len(lost) - 1} more)" if lost[1:] else ""
                    also = f" and {len(few) - 1} others" if few[1:] else ""
                    lacks = "lack" if few[1:] else "lacks"
                    yield (
                        f"layer {few[0]}{also} {lacks} {lost[0].lstrip('.')}{more}, which"
                        f" {'other layers' if many[1:] else 'another layer'} of its kind"
                        f" {'have' if many[1:] else 'has'}"
                    )


def _may_lack(name: str, lesser: Names, fuller: Names) -> bool:
    """Whether a tensor is part of how a module is stored, which may differ from layer to layer."""
    of = module(name)
    here = [known for other, known in lesser.items() if module(other) == of]
    there = [known for other, known in fuller.items() if module(other) == of]
    return bool(here) and any((*here, *there))


def _told(layout: Layout) -> list[Callable[[int], Hashable]]:
    """What the config says of a layer: a function from its number to a value for each key."""
    model = layout.layered
    lists = _lists(layout.config, layout.layers, layout.layers + layout.prediction_layers)
    found: list[Callable[[int], Hashable]] = [_entry(listed) for listed in lists]
    for key, form in layout.family.config.per_layer.items():
        try:
            tells = _key(model, key, form)
        except MoegrowError:  # told where the key is grown
            continue
        if tells:
            found.append(tells)
    return found


def _lists(table: Config, least: int, most: int) -> Iterator[list[Any] | str]:
    """Every list in a config that is as long as there are layers, at any depth, and such patterns
    with a letter for each layer."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lists(value, least, most)
            continue
        is_pattern = isinstance(value, str) and "pattern" in key
        if (is_pattern or isinstance(value, list)) and least <= len(value) <= most:
            yield value


def _entry(values: list[Any] | str) -> Callable[[int], Hashable]:
    return lambda layer: str(values[layer])


def _key(model: LayeredConfig, key: str, form: PerLayer) -> Callable[[int], Hashable] | None:
    """What a key of the family says of a layer, where it says something of single ones."""
    told = lookup(model.config, key)
    if form.form == "dense_numbers":
        return None  # which layers have experts counts by itself
    if form.form in PARTIAL:
        return partial(model, key, form)
    if form.form == "list":
        values = entries(model, key, form)
        is_whole = isinstance(values, list) and len(values) >= model.layers
        return _entry(values) if is_whole else None
    if form.form == "numbers":
        numbers = {number - form.base for number in listed(told, key) or ()}
        return numbers.__contains__
    if form.form == "table" and isinstance(told, Mapping):
        of_layers = numbered(told)
        return lambda layer: str(of_layers.get(layer))
    if form.form == "owners" and isinstance(told, list) and len(told) >= model.layers:
        return lambda layer: told[layer] == layer
    return None
