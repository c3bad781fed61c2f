"""Deepen and widen: pure functions from plan to plan."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from moegrow.compensation import Compensation, compensate
from moegrow.config import grown_config
from moegrow.errors import MoegrowError
from moegrow.family import Place
from moegrow.header import TensorSpec
from moegrow.layout import PER_EXPERT, Layout
from moegrow.maps import Map, repeats
from moegrow.plans import Growth, Noise, Output, Piece, Plan, Source
from moegrow.steps import describe

ZERO = Fraction(0)


def start(layout: Layout, commands: tuple[str, ...] = ()) -> Plan:
    """The plan that copies the checkpoint as it is: the identity that others grow from."""
    nothing = Growth.none(layers=layout.layers, experts=layout.experts, top_k=layout.top_k)
    checkpoint = layout.checkpoint
    source = Source(checkpoint.folder, checkpoint.config_digest, checkpoint.files)
    empty = Plan(source, layout.family.name, nothing, (), checkpoint.config_text, (), commands)
    return render(empty, layout, nothing)


def deepen(plan: Plan, layout: Layout, layer_map: Map, *, identity: bool = False) -> Plan:
    """The plan with layers mapped: new layer `i` is the plan's layer `layer_map[i]`.

    With `identity`, repeated layers begin as the identity: their output projections are zero.
    """
    silent = repeats(layer_map) if identity else (False,) * len(layer_map)
    return render(plan, layout, plan.growth.deepen(layer_map, silent=silent))


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
    compensation = compensate(layout, growth)
    return replace(
        plan,
        growth=growth,
        steps=describe(layout, growth, compensation),
        config=grown_config(layout, growth, compensation.settings),
        outputs=tuple(outputs(layout, growth, compensation)),
    )


class _Part(NamedTuple):
    """A tensor of the new model, but for the number of the layer it ends up in."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def outputs(layout: Layout, growth: Growth, compensation: Compensation) -> Iterator[Output]:
    """Every tensor of the new model, in the order of names and layers."""
    specs = layout.checkpoint.tensors
    experts = _Experts.of(layout, growth)
    by_layer: dict[tuple[str, int], list[tuple[TensorSpec, Place]]] = defaultdict(list)
    for name, place in layout.places.items():
        by_layer[place.stack, place.layer].append((specs[name], place))
    stacks = {stack for stack, _ in by_layer}
    outside = {name for name in specs if name not in layout.places}
    for name in sorted(stacks | outside):
        if name in outside:
            yield Output(name, specs[name].dtype, specs[name].shape, (_whole(specs[name]),))
            continue
        made: dict[tuple[int, bool], list[_Part]] = {}
        for new, old, silent in _layers(name, by_layer, layout, growth):
            if (old, silent) not in made:
                parts = _parts(by_layer[name, old], experts, compensation.output_scale, silent)
                made[old, silent] = sorted(parts, key=_natural)
            prefix = f"{name}{new}."
            for part in made[old, silent]:
                yield Output(prefix + part.suffix, part.dtype, part.shape, part.pieces)


def _layers(
    stack: str, by_layer: Mapping[tuple[str, int], object], layout: Layout, growth: Growth
) -> Iterator[tuple[int, int, bool]]:
    """New number, old number and silence of each layer of a stack of layers.

    Prediction layers are not repeated: those of a stack of their own keep their numbers, those
    behind the last layer stay behind the last.
    """
    numbers = sorted(layer for name, layer in by_layer if name == stack)
    own_stack = any(
        stack == pattern.split("{layer}")[0] for pattern in layout.family.tensors.prediction_layers
    )
    if own_stack:
        yield from ((number, number, False) for number in numbers)
        return
    for new, old in enumerate(growth.layers):
        yield new, old, growth.silent[new]
    for old in numbers:
        if old >= layout.layers:
            yield old - layout.layers + len(growth.layers), old, False


class _Experts(NamedTuple):
    """The growth along the experts' axis: for each new expert its source and its noises."""

    sources: Map
    copies: Mapping[int, list[int]]
    noise: Mapping[str, tuple[Noise | None, ...]]

    @classmethod
    def of(cls, layout: Layout, growth: Growth) -> "_Experts":
        copies: dict[int, list[int]] = defaultdict(list)
        for new, old in enumerate(growth.experts):
            copies[old].append(new)
        # Uniform noise is meant for the router's bias; a router without one takes it in its rows.
        uniform = "router_bias" if layout.family.tensors.router_bias else "router"
        noise = {"experts": growth.weight_noise}
        for role in ("router", "router_bias"):
            noise[role] = tuple(
                noise if noise and (uniform if noise.kind == "uniform" else "router") == role
                else None
                for noise in growth.router_noise
            )  # fmt: skip
        noise["balance_bias"] = (None,) * len(growth.experts)
        return cls(growth.experts, copies, noise)


def _parts(
    tensors: list[tuple[TensorSpec, Place]], experts: _Experts, output_scale: Fraction, silent: bool
) -> Iterator[_Part]:
    """Every tensor of one layer, with its experts mapped."""
    is_moe = any(place.role == "experts" for _, place in tensors)
    for spec, place in tensors:
        scale = Fraction(1)
        if place.is_output:
            scale = ZERO if silent else output_scale if place.role == "experts" else scale
        if not is_moe or place.role not in PER_EXPERT:
            yield _Part(place.suffix, spec.dtype, spec.shape, (_whole(spec, scale),))
        elif place.expert is not None:
            for new in experts.copies[place.expert]:
                piece = _whole(spec, scale, experts.noise[place.role][new])
                yield _Part(f"{place.before}{new}{place.after}", spec.dtype, spec.shape, (piece,))
        else:
            shape = (len(experts.sources), *spec.shape[1:])
            pieces = _rows(spec, experts.sources, experts.noise[place.role], scale)
            yield _Part(place.suffix, spec.dtype, shape, pieces)


def _rows(
    spec: TensorSpec, sources: Map, noises: tuple[Noise | None, ...], scale: Fraction
) -> tuple[Piece, ...]:
    """The rows of a tensor with one row per expert; neighbours without noise are one piece."""
    pieces: list[Piece] = []
    for old, noise in zip(sources, noises, strict=True):
        last = pieces[-1] if pieces else None
        if last and last.noise is None and (noise is None or not scale) and last.stop == old:
            pieces[-1] = last._replace(stop=old + 1)
        else:
            pieces.append(Piece(spec.name, old, old + 1, noise if scale else None, scale))
    return tuple(pieces)


def _whole(spec: TensorSpec, scale: Fraction = Fraction(1), noise: Noise | None = None) -> Piece:
    """All rows of a tensor; a tensor without dimensions has one. Zeros take no noise."""
    rows = spec.shape[0] if spec.shape else 1
    return Piece(spec.name, 0, rows, noise if scale else None, scale)


def _natural(part: _Part) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts expert 10 behind expert 9."""
    return tuple((0, int(word)) if word.isdigit() else (1, word) for word in part.suffix.split("."))
