"""Deepen and widen: pure functions from plan to plan."""

from dataclasses import replace

from moegrow import maps
from moegrow.errors import MoegrowError
from moegrow.families.layer_rules import Old, entries
from moegrow.families.layout import Layout
from moegrow.families.schema import lookup
from moegrow.growth import Growth, Noise
from moegrow.maps import Map, repeats
from moegrow.model_config.config_json import grown_config
from moegrow.model_config.quantization_config import QuantConfig
from moegrow.model_config.stored_dtype import expert_modules, quant_files, stored_config
from moegrow.planning import header_metadata, passes
from moegrow.planning.addressed_layers import check_identity
from moegrow.planning.outputs import check_count, outputs
from moegrow.planning.passes import Restored, regridded
from moegrow.planning.plan import AS_STORED, Plan, Source, Storage
from moegrow.planning.router import Compensation, compensate
from moegrow.planning.router_notes import FactorInScales
from moegrow.planning.summary import describe, with_factor
from moegrow.planning.unfamiliar import check_class


def outline(layout: Layout, family_text: str = "") -> Plan:
    """The plan that others grow from: no growth yet, and the outputs left out.

    `family_text` is the family file that the layout was read by, if it was the user's own.
    """
    nothing = Growth.none(layers=layout.layers, experts=layout.experts, top_k=layout.top_k)
    checkpoint = layout.checkpoint
    source = Source(
        checkpoint.location, checkpoint.config_digest, checkpoint.files, checkpoint.named
    )
    return Plan(
        source, layout.family.name, nothing, (), checkpoint.config_text, (),
        family_text=family_text,
    )  # fmt: skip


def start(layout: Layout, family_text: str = "") -> Plan:
    """The plan that copies the checkpoint as it is: the identity on both axes."""
    return spell_out(outline(layout, family_text), layout)


def spell_out(plan: Plan, layout: Layout) -> Plan:
    """The plan with its outputs, where they were left out."""
    return plan if plan.outputs else render(plan, layout, plan.growth)


def deepen(plan: Plan, layout: Layout, layer_map: Map, *, identity: bool = False) -> Plan:
    """The plan with layers mapped: new layer `i` is the plan's layer `layer_map[i]`.

    With `identity`, repeated layers begin as the identity: their output projections are zero.
    """
    silent = _silent(layout, layer_map) if identity else (False,) * len(layer_map)
    growth = plan.growth.deepen(layer_map, silent=silent)
    check_layers(plan, layout, growth)
    if identity:
        check_identity(layout, layer_map)
    return render(plan, layout, growth)


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
            "use --new-layers copy",
        )
    _check_needs(layout)
    _check_fixed(layout)
    _check_last(layout, growth)
    check_class(plan, layout)


def _silent(layout: Layout, layer_map: Map) -> tuple[bool, ...]:
    """Which layers of an identity growth are silent: the copies that are not the original."""
    copies_first = layout.family.depth.copies_first
    if copies_first and lookup(layout.config, copies_first):
        # Layers behind use what the last copy computed, so that must be the original.
        return repeats(layer_map[::-1])[::-1]
    return repeats(layer_map)


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
                "use --new-layers copy, or name the outputs in a family file: --family FILE.toml"
                " (docs/adding-a-family.md)",
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
    old = Old(layout.config, layout.layers, layout.moe_layers)
    for key, wanted in layout.family.depth.last.items():
        kinds = entries(old, key, layout.family.config.per_layer[key])
        last = growth.layers[-1]
        if isinstance(kinds, list) and last < len(kinds) and kinds[last] != wanted:
            fitting = [layer for layer in range(layout.layers) if kinds[layer] == wanted]
            raise MoegrowError(
                f"the last layer of {layout.family.name} is always {wanted} ({key}), and this"
                f" layer map ends with layer {last}, which is {kinds[last]}",
                f"end the layer map with one of the layers {maps.spell(fitting)}",
            )


def widen(
    plan: Plan,
    layout: Layout,
    expert_map: Map,
    *,
    top_k: int,
    weight_noise: Noise | None,
    router_noise: Noise | None,
) -> Plan:
    """The plan with experts mapped: new expert `j` is the plan's expert `expert_map[j]`.

    Copies get the noise given; what keeps the function unchanged is applied by the family's
    rules and named in the plan's steps.
    """
    growth = plan.growth.widen(
        expert_map, weight_noise=weight_noise, router_noise=router_noise, top_k=top_k
    )
    return render(plan, layout, growth)


def render(plan: Plan, layout: Layout, growth: Growth) -> Plan:
    """The plan of `growth`, made anew from the source.

    Nothing of what `plan` held is lost by that: it followed from its own growth, of which
    `growth` is the continuation.
    """
    if not 1 <= growth.top_k <= len(growth.experts):
        raise MoegrowError(
            f"top-k would be {growth.top_k} of {len(growth.experts)} experts",
            f"take a --top-k from 1 to {len(growth.experts)}",
        )
    check_count(layout, growth)
    compensation = compensate(layout, growth)
    new = replace(
        plan,
        growth=growth,
        steps=describe(layout, growth, compensation),
        outputs=outputs(layout, growth, compensation),
    )
    if plan.storage != AS_STORED:
        new = _restore(new, layout, compensation)
    else:
        new = replace(
            new,
            config=grown_config(layout, growth, compensation.settings),
            files=tuple(sorted(QuantConfig(layout).grown_files(growth).items())),
        )
    if passes.are_asked(layout, growth, compensation.output_scale):
        new = _factored(new, layout)
    noises = {*growth.weight_noise, *growth.router_noise}
    if any(noise and noise.is_rounded_by_draw for noise in noises):
        new = replace(new, outputs=tuple(regridded(new.outputs, layout)))
    return replace(new, metadata=header_metadata.grown(layout.checkpoint, new.outputs, growth))


def _factored(plan: Plan, layout: Layout) -> Plan:
    """The plan with the factors and zeros of quantised weights where those can hold them."""
    made = passes.Factors(layout)
    new = replace(plan, outputs=tuple(made.outputs(plan.outputs)))
    if not made.taken:
        return new
    factor = FactorInScales(tuple(sorted(made.taken)))
    return replace(new, steps=with_factor(plan.steps, factor))


def store(plan: Plan, layout: Layout, storage: Storage) -> Plan:
    """The plan with its weights stored as `storage` says, over what was said before."""
    merged = Storage(storage.dtype or plan.storage.dtype, storage.experts or plan.storage.experts)
    return render(replace(plan, storage=merged), layout, plan.growth)


def _restore(plan: Plan, layout: Layout, compensation: Compensation) -> Plan:
    """The plan with its outputs, its config and its files as its storage asks for them."""
    restored = Restored(layout, plan.storage)
    leaves = restored.leaves_quantised
    settings, growth = compensation.settings, plan.growth
    experts = expert_modules(layout, growth)
    config = stored_config(
        grown_config(layout, growth, settings, is_quantised=leaves), plan.storage,
        leaves_quantised=leaves, experts=experts,
    )  # fmt: skip
    files = quant_files(layout, growth, leaves_quantised=leaves, experts=experts)
    step = restored.step()
    return replace(
        plan,
        steps=(*plan.steps, *([step] if step else [])),
        config=config,
        files=tuple(sorted(files.items())),
        outputs=tuple(restored.outputs(plan.outputs)),
    )
