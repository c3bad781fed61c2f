"""A checkpoint as its family sees it: which layer, expert and role each tensor belongs to."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moegrow.checkpoint import Checkpoint
from moegrow.errors import MoegrowError, raise_all
from moegrow.family import Family, Place, find_family
from moegrow.header import TensorSpec

# Tensors of a MoE block that have one row, or one block of rows, per expert.
PER_EXPERT = ("router", "router_bias", "balance_bias", "experts")


@dataclass(frozen=True)
class Layout:
    """A checkpoint with its family and what the two say together, found consistent.

    `places` has no entry for tensors outside all layers. `moe_layers` are the numbers of the
    layers with experts; `prediction_layers` counts the multi-token-prediction layers that stand
    behind the last layer under the same names.
    """

    checkpoint: Checkpoint
    family: Family
    config: Mapping[str, Any]
    places: Mapping[str, Place]
    layers: int
    experts: int
    top_k: int
    moe_layers: frozenset[int]
    prediction_layers: int

    @property
    def is_quantised(self) -> bool:
        """Whether weights are stored as packed or scaled numbers of a quantised format."""
        if self.checkpoint.config.get("quantization_config"):
            return True
        return bool(self.config.get("quantization_config"))

    def expert_tensors(self) -> Iterator[tuple[TensorSpec, Place]]:
        """Every tensor that holds weights of routed experts."""
        for name, place in self.places.items():
            if place.role == "experts":
                yield self.checkpoint.tensors[name], place


def read_layout(checkpoint: Checkpoint, family: Family | None = None) -> Layout:
    """The layout of a checkpoint, by the family of its config's model_type unless one is given.

    Raises MoegrowError where a tensor of a MoE block is not classified, an expert is missing
    from 0..E-1, or the config disagrees with the tensors; it names all that is wrong.
    """
    family = family or find_family(_model_type(checkpoint.config))
    config = text_config(checkpoint.config, family)
    locate = family.locator()
    found = {name: locate(name) for name in checkpoint.tensors}
    places = {name: place for name, place in found.items() if place}
    layers = _setting(config, family.config.layers, "number of layers")
    experts = _setting(config, family.config.experts, "number of experts")
    top_k = _setting(config, family.config.top_k, "number of experts per token")
    numbers = {place.layer for place in places.values() if not place.is_prediction}
    if not numbers:
        raise MoegrowError(
            f"{checkpoint.name} has no layers that are named as in {family.name}:"
            f" {' or '.join(family.tensors.layers)}…",
            f"its tensors are named like {next(iter(checkpoint.tensors))}",
        )
    layout = Layout(
        checkpoint=checkpoint,
        family=family,
        config=config,
        places=places,
        layers=layers,
        experts=experts,
        top_k=top_k,
        moe_layers=frozenset(
            place.layer
            for place in places.values()
            if place.role == "experts" and not place.is_prediction and place.layer < layers
        ),
        prediction_layers=max(0, max(numbers) + 1 - layers),
    )
    problems = [
        *_count_problems(layout, numbers),
        *_block_problems(layout),
        *_stray_problems(family, [name for name, place in found.items() if not place]),
    ]
    raise_all(f"{checkpoint.name} is not laid out as {family.name}", problems)
    return layout


def text_config(config: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """The part of the config that describes the language model: nested in multimodal configs."""
    nested = config.get(family.config.nested) if family.config.nested else None
    return nested if isinstance(nested, dict) else config


def _model_type(config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise MoegrowError(
            "config.json names no model_type", "add the one that transformers would load it by"
        )
    return model_type


def _setting(config: Mapping[str, Any], spellings: Iterable[str], what: str) -> int:
    """The number under any of the spellings; those that are present must agree."""
    found = {key: config[key] for key in spellings if config.get(key) is not None}
    if not found:
        raise MoegrowError(f"config.json does not say the {what}: no {' or '.join(spellings)}")
    for key, value in found.items():
        if type(value) is not int or not 0 < value <= 1_000_000:
            raise MoegrowError(f"config.json: {key} is {value!r}, not a sensible {what}")
    if len(set(found.values())) > 1:
        told = ", ".join(f"{key} {value}" for key, value in found.items())
        raise MoegrowError(f"config.json disagrees with itself on the {what}: {told}")
    return int(next(iter(found.values())))


def _count_problems(layout: Layout, numbers: set[int]) -> Iterator[str]:
    """Where the numbers of layers that the tensors show are not those of the config."""
    if layout.top_k > layout.experts:
        yield f"config.json asks for {layout.top_k} experts per token of {layout.experts}"
    if not layout.moe_layers:
        yield "no layer has experts"
    missing = [number for number in range(layout.layers) if number not in numbers]
    if missing:
        yield (
            f"config.json says {layout.layers} layers, and tensors of layer {missing[0]}"
            f" are missing{f' (and of {len(missing) - 1} more)' if missing[1:] else ''}"
        )
    promised = max(
        (layout.config.get(key) or 0 for key in layout.family.config.prediction_layers), default=0
    )
    if layout.prediction_layers > promised:
        yield (
            f"config.json says {layout.layers} layers"
            + (f" and {promised} for multi-token prediction" if promised else "")
            + f", and there are tensors of layer {max(numbers)}"
        )


def _block_problems(layout: Layout) -> Iterator[str]:
    """What is unclassified, missing or of the wrong size in the MoE blocks."""
    with_experts = {(place.stack, place.layer) for _, place in layout.expert_tensors()}
    # For each kind of per-expert matrix of a layer, the experts that have it.
    owners: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    routed = set()
    for name, place in layout.places.items():
        if (place.stack, place.layer) not in with_experts:
            continue
        spec = layout.checkpoint.tensors[name]
        if not place.role:
            if place.in_block:
                yield (
                    f"{name} {list(spec.shape)} is in a MoE block, and the family does not say"
                    " what it is"
                )
        elif place.expert is not None:
            owners[place.stack + str(place.layer), place.before, place.after].add(place.expert)
        elif place.role in PER_EXPERT:
            rows = spec.shape[0] if spec.shape else 0
            if rows != layout.experts:
                yield f"{name} has {rows} rows for {layout.experts} experts"
        if place.role == "router":
            routed.add((place.stack, place.layer))
    for stack, layer in sorted(with_experts - routed):
        yield f"{stack}{layer} has experts and no router"
    yield from _expert_problems(layout.experts, owners)


def _expert_problems(
    experts: int, owners: Mapping[tuple[str, str, str], set[int]]
) -> Iterator[str]:
    whole = set(range(experts))
    for (layer, before, after), present in owners.items():
        if missing := sorted(whole - present):
            yield f"{layer}.{before}{missing[0]}{after} is missing"
        if extra := sorted(present - whole):
            yield f"{layer}.{before}{extra[0]}{after} is beyond the {experts} experts of the config"


def _stray_problems(family: Family, names: Iterable[str]) -> Iterator[str]:
    """Experts in a place that the family does not know would keep their old number."""
    looks_like_expert = family.looks_like_expert()
    for name in names:
        if looks_like_expert(name):
            yield f"{name} looks like an expert and stands outside all layers"


def parameters(shapes: Iterable[tuple[int, ...]]) -> int:
    """Elements of tensors of these shapes."""
    return sum(map(math.prod, shapes))
