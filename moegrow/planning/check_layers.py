"""Refuse layer maps that repeat layers which cannot be repeated."""

from moegrow import maps
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layer_rules import entries
from moegrow.families.layout import Layout
from moegrow.growth import Growth
from moegrow.planning.plan import Plan
from moegrow.planning.unfamiliar import check_class


def check_layers(plan: Plan, layout: Layout, growth: Growth) -> None:
    """Raise MoegrowError where layers of the source cannot be repeated as a growth asks for.

    The growth of a plan that was read from a file may never have been held against its source.
    """
    silent = frozenset(
        old for old, is_silent in zip(growth.layers, growth.silent, strict=True) if is_silent
    )
    _check_outputs(layout, silent)
    if silent and (why := layout.family.depth.identity_is_not):
        raise MoegrowError(
            f"a layer of {layout.family.name} with zero outputs is not the identity: {why}",
            "use " + Parameter("new_layers", "copy"),
        )
    _check_needs(layout)
    _check_fixed(layout)
    _check_last(layout, growth)
    check_class(plan, layout)


def _check_outputs(layout: Layout, layers: frozenset[int]) -> None:
    """Every part of a layer that adds to the residual stream must have an output to make silent."""
    has: dict[int, set[str]] = {}
    adds: dict[int, set[str]] = {}
    for place in layout.places.values():
        is_main = place.layer in layers and not place.is_prediction
        if is_main and place.group in ("attention", "dense", "experts"):
            has.setdefault(place.layer, set()).add(place.group)
            if place.is_output:
                adds.setdefault(place.layer, set()).add(place.group)
    for layer in sorted(has):
        if left := sorted(has[layer] - adds.get(layer, set())):
            raise MoegrowError(
                f"layer {layer} has {left[0]} weights, and no output of them is known as one of"
                f" {layout.family.name}: it would not become the identity",
                "use "
                + Parameter("new_layers", "copy")
                + ", or name the outputs in a family file: "
                + Parameter("family", "FILE.toml")
                + " (docs/adding-a-family.md)",
            )


def _check_needs(layout: Layout) -> None:
    """Tensors that a model would otherwise compute anew from a layer's new number."""
    for has, needs in layout.family.depth.needs.items():
        layers = {
            suffix: {place.layer for place in layout.places.values() if place.suffix == suffix}
            for suffix in (f".{has}", f".{needs}")
        }
        if lacking := sorted(layers[f".{has}"] - layers[f".{needs}"]):
            raise MoegrowError(
                f"layer {lacking[0]} has no {needs}, which depends on the layer's number and would"
                " be computed anew, and differently, in the grown model",
                "load the checkpoint with transformers and save it, which writes them",
            )


def _check_fixed(layout: Layout) -> None:
    """Layers that compute something of their own number, which no key and no tensor says."""
    for has, why in layout.family.depth.fixed.items():
        layers = [place.layer for place in layout.places.values() if place.suffix == f".{has}"]
        if layers:
            raise MoegrowError(
                f"the layers of {layout.checkpoint.name} cannot be repeated: layer {min(layers)}"
                f" has {has}, and {why}",
                "grow it in width",
            )


def _check_last(layout: Layout, growth: Growth) -> None:
    """The last layer must be of the kind that the model takes its last layer for."""
    for key, wanted in layout.family.depth.last.items():
        kinds = entries(layout.layered, key, layout.family.config.per_layer[key])
        last = growth.layers[-1]
        if isinstance(kinds, list) and last < len(kinds) and kinds[last] != wanted:
            fitting = [layer for layer in range(layout.layers) if kinds[layer] == wanted]
            raise MoegrowError(
                f"the last layer of {layout.family.name} is always {wanted} ({key}), and this"
                f" layer map ends with layer {last}, which is {kinds[last]}",
                f"end the layer map with one of the layers {maps.spell(fitting)}",
            )
