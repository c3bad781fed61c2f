"""Map layers that share the selected keys of an earlier layer's indexer."""

from typing import Any

from moegrow import maps
from moegrow.errors import MoegrowError, Parameter
from moegrow.families import layer_rules
from moegrow.families.layout import Layout
from moegrow.families.schema import lookup
from moegrow.families.settings import present
from moegrow.growth import Growth

FULL, SHARED = "full", "shared"


def sharing_copies(layout: Layout, growth: Growth) -> frozenset[int]:
    """The new layers that become sharing ones: copies with no other full layer before them.

    A full copy would select keys anew for every sharing layer behind it; as a sharing layer it
    uses what its original selected, and needs no indexer of its own. So does a copy that begins as
    the identity, wherever it stands, where a layer that computes would use what it selects. Where
    no layer of the source shares, there is none behind it, and engines that give every layer an
    indexer find them all.
    """
    indexer, full = layout.family.depth.shared_indexer, _full_layers(layout)
    if not indexer or not indexer.chains or len(full) == layout.layers:
        return frozenset()
    sharing = set()
    nearest = None
    for new, (old, next_old) in enumerate(zip(growth.layers, _next_computing(growth), strict=True)):
        if old not in full:
            continue
        is_used = growth.silent[new] and next_old is not None and next_old not in full
        if nearest is not None and (nearest == old or is_used):
            sharing.add(new)
        else:
            nearest = old
    return frozenset(sharing)


def _next_computing(growth: Growth) -> list[int | None]:
    """For each new layer what the next one is made from that does not begin as the identity."""
    found: list[int | None] = []
    following = None
    for old, is_silent in zip(growth.layers[::-1], growth.silent[::-1], strict=True):
        found.append(following)
        following = following if is_silent else old
    return found[::-1]


def indexer_types(layout: Layout, growth: Growth) -> dict[str, Any]:
    """The changes to the config's list and letters; a list where a rule stood for them.

    The letters are written beside the list where layers share and an engine reads them alone.
    """
    indexer = layout.family.depth.shared_indexer
    if not indexer or not (full := _full_layers(layout)):
        return {}
    kinds = _layer_types(layout)
    types = lookup(layout.config, indexer.key) or [
        FULL if layer in full or kinds[layer : layer + 1] == [indexer.unused] else SHARED
        for layer in range(layout.layers)
    ]
    if not isinstance(types, list) or len(types) < layout.layers:
        raise MoegrowError(
            f"config.json: {indexer.key} is {types!r}, not a list with an entry for each of"
            f" {layout.layers} layers"
        )
    sharing = sharing_copies(layout, growth)
    new = [SHARED if i in sharing else types[old] for i, old in enumerate(growth.layers)]
    behind = types[layout.layers : layout.layers + layout.prediction_layers]
    if new[:1] == [SHARED]:
        raise MoegrowError(
            f"layer {growth.layers[0]} uses what a layer before it selects, and this layer map"
            " puts it first",
            "begin with a layer that selects for itself:"
            " " + Parameter("layers", f"{min(full)},{maps.spell(growth.layers)}"),
        )
    for number, kind in enumerate(new):
        if kind == SHARED and not indexer.chains and new[number - 1] == SHARED:
            raise MoegrowError(
                f"layer {growth.layers[number]} shares the indexer of the layer right before it,"
                " and this layer map puts another sharing layer between them",
                "use "
                + Parameter("group", 2)
                + " or another length that keeps such layers together",
            )
    told = present(layout.config, filter(None, (indexer.key, indexer.pattern))) or [indexer.key]
    if indexer.letters_too and SHARED in new:
        told = [*dict.fromkeys((*told, indexer.pattern))]
    letters = "".join("F" if kind == FULL else "S" for kind in new)
    return {
        key: letters
        if key == indexer.pattern and not isinstance(lookup(layout.config, key), list)
        else new + behind
        for key in told
    }


def _layer_types(layout: Layout) -> list[Any]:
    """The entry of each layer in layer_types; none where the family has no such list."""
    form = layout.family.config.per_layer.get("layer_types")
    found = layer_rules.entries(layout.layered, "layer_types", form) if form else None
    return found if isinstance(found, list) else []


def _full_layers(layout: Layout) -> frozenset[int]:
    """The layers that have an indexer of their own, prediction layers left aside."""
    return frozenset(
        place.layer
        for place in layout.places.values()
        if place.is_indexer and not place.is_prediction and place.layer < layout.layers
    )
