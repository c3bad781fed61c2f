"""Deepen, widen and convert: pure functions from plan to plan."""

from dataclasses import replace

from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.growth import Growth, Noise
from moegrow.maps import Map, repeats
from moegrow.model_config import quantization_config
from moegrow.model_config.config_json import grown_config
from moegrow.model_config.stored_dtype import expert_modules, quant_files, stored_config
from moegrow.planning import header_metadata, passes
from moegrow.planning.addressed_layers import check_identity
from moegrow.planning.check_layers import check_layers
from moegrow.planning.outputs import check_count, outputs
from moegrow.planning.passes import Restored, regridded
from moegrow.planning.plan import AS_STORED, Plan, Source, Storage
from moegrow.planning.router import Compensation, compensate
from moegrow.planning.router_notes import FactorInScales
from moegrow.planning.summary import describe, with_factor


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


def _silent(layout: Layout, layer_map: Map) -> tuple[bool, ...]:
    """Which layers of an identity growth are silent: the copies that are not the original."""
    if layout.facts.copies_come_first:
        # Layers behind use what the last copy computed, so that must be the original.
        return repeats(layer_map[::-1])[::-1]
    return repeats(layer_map)


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
            "take a " + Parameter("top_k") + f" from 1 to {len(growth.experts)}",
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
            files=tuple(sorted(quantization_config.grown_files(layout, growth).items())),
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
