"""A checkpoint as its family sees it: which layer, expert and role each tensor belongs to."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moegrow.errors import MoegrowError, raise_all
from moegrow.families.catalogue import find_family, read_family
from moegrow.families.dense import dense_problems
from moegrow.families.family import Config, Family, lookup, number
from moegrow.families.perlayer import Old
from moegrow.families.places import Place, locator, stray_expert
from moegrow.source import foreign
from moegrow.source.checkpoint import Checkpoint
from moegrow.source.header import TensorSpec

# A tensor of a layer: what the headers say of it, and where it stands.
Tensor = tuple[TensorSpec, Place]

MOST = 1_000_000  # layers or experts that a config may speak of

# Tensors of a MoE block that have one row, or one block of rows, per expert.
PER_EXPERT = ("router", "router_bias", "balance_bias", "experts")


@dataclass(frozen=True, eq=False)  # what is found out about one is kept with it
class Layout:
    """A checkpoint with its family and what the two say together, found consistent.

    `places` has no entry for tensors outside all layers. `config` is the language model's part
    of the config, under the keys `nested`. `extra` counts rows of the router behind those of the
    experts. `moe_layers` are the numbers of the layers with experts; `prediction_layers` counts
    the multi-token-prediction layers that stand behind the last layer under the same names.
    """

    checkpoint: Checkpoint
    family: Family
    config: Config
    nested: tuple[str, ...]
    places: Mapping[str, Place]
    layers: int
    experts: int
    top_k: int
    extra: int
    moe_layers: frozenset[int]
    prediction_layers: int

    @property
    def router_rows(self) -> int:
        """Rows of a router's weight: experts, and what else can be chosen."""
        return self.experts + (1 if self.family.router.kind == "skip" else self.extra)

    @cached_property
    def stacks(self) -> Mapping[str, Mapping[int, list[Tensor]]]:
        """The tensors of each layer of each stack, in the order of their names."""
        stacks: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for name, place in self.places.items():
            stacks[place.stack][place.layer].append((self.checkpoint.tensors[name], place))
        for layers in stacks.values():
            for tensors in layers.values():
                tensors.sort()
        return stacks

    def expert_tensors(self) -> Iterator[Tensor]:
        """Every tensor that holds weights of routed experts."""
        for name, place in self.places.items():
            if place.role == "experts":
                yield self.checkpoint.tensors[name], place


def read_layout(checkpoint: Checkpoint, *, family_text: str = "") -> Layout:
    """The layout of a checkpoint, by the family of its config's model_type.

    `family_text` is a family file to read it by instead of those that moegrow knows.

    Raises MoegrowError where a tensor of a MoE block is not classified, an expert is missing
    from 0..E-1, or the config disagrees with the tensors; it names all that is wrong.
    """
    try:
        return _layout(checkpoint, family_text)
    except MoegrowError:
        found = None if family_text else foreign.of_tensors(checkpoint.tensors)
        if found is None:
            raise
        raise MoegrowError(
            f"{checkpoint.name} holds {found.what}", found.hint.format(place=checkpoint.location)
        ) from None


def _layout(checkpoint: Checkpoint, family_text: str) -> Layout:
    name = model_type(checkpoint.config)
    family = read_family(family_text, name) if family_text else find_family(name)
    nested, config = _text_config(checkpoint.config, family)
    locate = locator(family)
    found = {name: locate(name) for name in checkpoint.tensors}
    places = {name: place for name, place in found.items() if place}
    numbers = {place.layer for place in places.values() if not place.is_prediction}
    if not numbers:
        raise MoegrowError(
            f"{checkpoint.name} has no layers that are named as in {family.name}:"
            f" {' or '.join(family.tensors.layers)}…",
            f"its tensors are named like {next(iter(checkpoint.tensors))}",
        )
    layers = _layer_count(config, family)
    layout = Layout(
        checkpoint=checkpoint,
        family=family,
        config=config,
        nested=nested,
        places=places,
        layers=layers,
        experts=_setting(config, family.config.experts, "number of experts"),
        top_k=_setting(config, family.config.top_k, "number of experts per token"),
        extra=_extra(config, family),
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
        *_stray_problems(family, found),
        *_packed_problems(layout),
    ]
    hint = (
        "where tensors are missing, get the checkpoint again; where it holds others than models of"
        " its family do, a file can say what they are: --family FILE.toml"
        " (docs/adding-a-family.md)"
    )
    what = f"{checkpoint.name} is not laid out as {family.name}"
    raise_all(what, problems, "" if family_text else hint)
    return layout


def present(config: Config, spellings: Iterable[str]) -> list[str]:
    """The spellings of a setting that the config uses; none is ever added beside another."""
    return [key for key in spellings if lookup(config, key) is not None]


def promised_predictions(config: Config, family: Family) -> int:
    """How many multi-token-prediction layers the config speaks of."""
    return max((number(config, key) for key in family.config.prediction_layers), default=0)


def parameters(shapes: Iterable[tuple[int, ...]]) -> int:
    """Elements of tensors of these shapes."""
    return sum(map(math.prod, shapes))


def _text_config(config: Config, family: Family) -> tuple[tuple[str, ...], Config]:
    """The keys and the part of the config that describes the language model."""
    for path in family.config.nested:
        found = lookup(config, path)
        if isinstance(found, Mapping):
            return tuple(path.split(".")), _spelled(found, family)
    return (), _spelled(config, family)


def _spelled(config: Config, family: Family) -> Config:
    """The config, with what it spells otherwise also under the key that the family file uses."""
    spelled = dict(config)
    for spelling, key in family.config.spellings.items():
        value = config.get(spelling)
        if value is None:
            continue
        if spelled.get(key) not in (None, value):
            raise MoegrowError(
                f"config.json disagrees with itself: {key} {config[key]!r}, {spelling} {value!r}"
            )
        spelled[key] = value
    return spelled


def model_type(config: Config) -> str:
    found = config.get("model_type")
    if not isinstance(found, str):
        raise MoegrowError(
            "config.json names no model_type", "add the one that transformers would load it by"
        )
    return found


def _layer_count(config: Config, family: Family) -> int:
    """The number of layers, also of models that only list their layers."""
    for key in present(config, family.config.layers_lists):
        listed = lookup(config, key)
        if not isinstance(listed, list | str):
            raise MoegrowError(f"config.json: {key} is {listed!r}, not a list of layers")
        return _sensible(len(listed), f"the length of {key}", "number of layers")
    for key in present(config, family.config.doubled_layers):
        if not present(config, family.config.layers):
            return _sensible(number(config, key) // 2, f"half of {key}", "number of layers")
    return _setting(config, family.config.layers, "number of layers")


def _extra(config: Config, family: Family) -> int:
    """The number of rows of the router behind those of the experts."""
    key = family.router.extra
    if not key or not number(config, key):
        return 0
    return _sensible(number(config, key), key, "number of rows of the router")


def _setting(config: Config, spellings: Iterable[str], what: str) -> int:
    """The number under any of the spellings; those that are present must agree.

    A list with one number per layer counts as that number where all are equal.
    """
    found = {}
    for key in present(config, spellings):
        value = lookup(config, key)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        found[key] = _sensible(value, key, what)
    if not found:
        raise MoegrowError(f"config.json does not say the {what}: no {' or '.join(spellings)}")
    if len(set(found.values())) > 1:
        told = ", ".join(f"{key} {value}" for key, value in found.items())
        raise MoegrowError(f"config.json disagrees with itself on the {what}: {told}")
    return int(next(iter(found.values())))


def _sensible(value: Any, key: str, what: str) -> int:
    """A number of layers or experts, which others count up to."""
    if type(value) is not int or not 0 < value <= MOST:
        raise MoegrowError(f"config.json: {key} is {value!r}, not a sensible {what}")
    return value


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
    model = Old(layout.config, layout.layers, layout.moe_layers)
    yield from dense_problems(model, layout.family.config.per_layer)
    promised = promised_predictions(layout.config, layout.family)
    if layout.prediction_layers > promised:
        yield (
            f"config.json says {layout.layers} layers"
            + (f" and {promised} for multi-token prediction" if promised else "")
            + f", and there are tensors of layer {max(numbers)}"
        )


def _block_problems(layout: Layout) -> Iterator[str]:
    """What is unclassified, missing or of the wrong size in the MoE blocks."""
    for stack, layers in layout.stacks.items():
        for layer, tensors in layers.items():
            roles = {place.role for _, place in tensors}
            if "experts" not in roles:
                continue
            yield from _layer_problems(layout, f"{stack}{layer}", tensors)
            if "router" not in roles:
                yield f"{stack}{layer} has experts and no router"


def _layer_problems(layout: Layout, layer: str, tensors: list[Tensor]) -> Iterator[str]:
    # For each kind of matrix that belongs to one expert, the experts that have it.
    owners: dict[tuple[str, str], set[int]] = defaultdict(set)
    for spec, place in tensors:
        if not place.role:
            if place.in_block:
                yield (
                    f"{spec.name} {list(spec.shape)} is in a MoE block, and the family does not"
                    " say what it is"
                )
        elif place.expert is not None:
            owners[place.before, place.after].add(place.expert)
        elif place.role in PER_EXPERT:
            yield from _row_problems(layout, spec, place)
    for (before, after), present in owners.items():
        yield from _expert_problems(layout, f"{layer}{before}", present, after)


def _row_problems(layout: Layout, spec: TensorSpec, place: Place) -> Iterator[str]:
    """A tensor with a row per expert must have as many as there are experts."""
    rows = spec.shape[place.axis] if len(spec.shape) > place.axis else 0
    fits = rows in (layout.experts, layout.router_rows)
    if layout.family.router.kind == "grid" and place.role == "router":
        fits = rows == 2 * math.isqrt(layout.experts)
    elif place.is_stacked:
        fits = rows > 0 and rows % layout.experts == 0
    if is_of_all(spec, place):
        fits = True
    if not fits:
        what = "columns" if place.axis else "rows"
        yield f"{spec.name} has {rows} {what} for {layout.experts} experts"


def is_of_all(spec: TensorSpec, place: Place) -> bool:
    """Whether a tensor is one scale that all experts of a layer share, as ModelOpt has for experts
    that are one tensor."""
    return (
        place.role == "experts"
        and place.expert is None
        and _SCALE.search(spec.name) is not None
        and math.prod(spec.shape) == 1
    )


_SCALE = re.compile(r"scale(?:_inv|_2)?$")


def _expert_problems(layout: Layout, before: str, present: set[int], after: str) -> Iterator[str]:
    """Where the experts that have a matrix are not all that there are; `before` and `after`
    stand around their numbers in its name."""
    count = layout.experts * layout.family.router.lists
    if len(present) == max(present) + 1 and len(present) in (count, layout.router_rows):
        return
    missing = next((expert for expert in range(count) if expert not in present), None)
    extra = min((expert for expert in present if expert >= count), default=None)
    if missing is not None:
        yield f"{before}{missing}{after} is missing"
    if extra is not None:
        yield f"{before}{extra}{after} is beyond the {count} experts of the config"


def _packed_problems(layout: Layout) -> Iterator[str]:
    """A table of all layers side by side must have room for each, all of the same size."""
    for name, axis in layout.family.tensors.packed.items():
        spec = layout.checkpoint.tensors.get(name)
        if spec and (axis >= len(spec.shape) or spec.shape[axis] % layout.layers):
            yield f"{name} {list(spec.shape)} has no {layout.layers} equal parts along axis {axis}"


def _stray_problems(family: Family, found: Mapping[str, Place | None]) -> Iterator[str]:
    """Experts in a place that the family does not know would keep their old number."""
    is_stray = stray_expert(family)
    for name, place in found.items():
        if place is None and is_stray(name):
            yield f"{name} looks like an expert and stands outside all layers"
        elif place and not place.role and not place.in_block and is_stray(name):
            yield f"{name} looks like an expert and is deeper in its layer than experts are"
