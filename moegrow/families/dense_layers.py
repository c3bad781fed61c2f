"""Find the layers without experts, and check them against the config."""

from collections.abc import Iterator, Mapping

from moegrow.families.layer_rules import LayeredConfig, dense_numbered, listed, partial
from moegrow.families.schema import PARTIAL, PerLayer, lookup


def dense_problems(model: LayeredConfig, per_layer: Mapping[str, PerLayer]) -> Iterator[str]:
    """Where keys of the config make other layers dense than those without experts.

    Keys of partial forms speak together: a layer is dense where one of them says so.
    """
    told: dict[str, frozenset[int]] = {}
    partly: dict[str, frozenset[int]] = {}
    for key, form in per_layer.items():
        dense = dense_layers(model, key, form)
        if dense is not None:
            (partly if form.form in PARTIAL else told)[key] = dense
    if partly:
        told[" and ".join(partly)] = frozenset().union(*partly.values())
    for keys, dense in told.items():
        for layer in sorted(dense ^ (frozenset(range(model.layers)) - model.moe_layers))[:1]:
            told_kind = "dense" if layer in dense else "sparse"
            has = "has" if layer in model.moe_layers else "has no"
            yield f"by {keys} layer {layer} is {told_kind}, and it {has} experts"


def dense_layers(model: LayeredConfig, key: str, form: PerLayer) -> frozenset[int] | None:
    """The layers that a key says have no experts; None where it does not speak of that."""
    told = lookup(model.config, key)
    if form.form == "dense_numbers":
        # Without any of this, the model type has no such key.
        is_used = told is not None or form.rule or lookup(model.config, form.step) is not None
        return dense_numbered(model, key, form) if is_used else None
    mark = form.dense if form.sparse is None else form.sparse
    if mark is None or (told is None and form.form not in PARTIAL):
        return None
    everything = frozenset(range(model.layers))
    if form.form in ("list", "text"):
        if not isinstance(told, list | str) or len(told) < model.layers:
            return None
        meant = frozenset(layer for layer in everything if told[layer] == mark)
    elif form.form == "numbers":
        meant = frozenset(layer - form.base for layer in listed(told, key) or ()) & everything
    else:
        meant = frozenset(filter(partial(model, key, form), everything))
    return meant if form.sparse is None else everything - meant
