"""Plan every tensor of the result as pieces of source tensors."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

from moegrow import maps
from moegrow.checkpoint.header import TensorSpec
from moegrow.checkpoint.shard_index import MOST_TENSORS
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout, Tensor
from moegrow.families.tensor_names import NUMBER, TensorRole
from moegrow.growth import Growth
from moegrow.model_config.indexers import sharing_copies
from moegrow.planning.experts import Experts, whole
from moegrow.planning.op import ONE, ZERO
from moegrow.planning.plan import Output, Piece
from moegrow.planning.router import Compensation

_NUMBER = re.compile(NUMBER)

# Named tuples from tuples of their fields, without a call of their own constructors for each: a
# plan can have a million.
_OUTPUT: Callable[[tuple[Any, ...]], Output] = partial(tuple.__new__, Output)
_PIECE: Callable[[tuple[Any, ...]], Piece] = partial(tuple.__new__, Piece)


class Variant(NamedTuple):
    """What a new layer is made from: an old layer, and what of it is left out or silenced."""

    old: int
    silent: bool = False
    repeated: bool = False
    sharing: bool = False
    first: bool = False


class LayerKind(NamedTuple):
    """The tensors of one layer and what becomes of them, named by their suffixes.

    Most layers hold the same tensors as another: what becomes of them differs in names alone.
    Copies are made of the same pieces as their original: `made_of` are all that there are, and
    part `i` is made of `made_of[pieces[i]]`.
    """

    tensors: list[Tensor]
    parts: list[Output]
    made_of: list[tuple[Piece, ...]]
    pieces: list[int]


def outputs(layout: Layout, growth: Growth, compensation: Compensation) -> tuple[Output, ...]:
    """Every tensor of the new model, in the order of names and layers."""
    specs, stacks = layout.checkpoint.tensors, layout.stacks
    experts = Experts(layout, growth, compensation)
    variants = _variants(layout, growth)
    new: list[Output] = []
    for name in sorted(stacks.keys() | (specs.keys() - layout.places.keys())):
        if name in stacks:
            new += _stack(layout, name, stacks[name], variants, experts)
        else:
            new.append(_outside(layout, specs[name], growth))
    return tuple(new)


def check_count(layout: Layout, growth: Growth) -> None:
    """Raise MoegrowError where the new model would have more tensors than any has.

    It is asked before any of them is made: a factor is quickly typed, and a plan may be a
    stranger's.
    """
    times = Fraction(len(growth.experts), layout.experts)
    most_copies = max(Counter(growth.layers).values(), default=1)
    if len(layout.checkpoint.tensors) * most_copies * math.ceil(times) <= MOST_TENSORS:
        return
    sizes: Counter[int] = Counter()
    for place in layout.places.values():
        sizes[place.layer] += math.ceil(times) if place.expert is not None else 1
    count = sum(sizes[old] for old in growth.layers)
    if count > MOST_TENSORS:
        raise MoegrowError(
            f"the result would have {count} tensors, and the most that moegrow writes is"
            f" {MOST_TENSORS}",
            "take fewer layers or experts",
        )


def _variants(layout: Layout, growth: Growth) -> list[Variant]:
    """For each new layer what it is made from."""
    has_once = bool(layout.family.tensors.once)
    repeated = [has_once and is_copy for is_copy in maps.repeats(growth.layers)]
    sharing = sharing_copies(layout, growth)
    return [
        Variant(old, growth.silent[new], repeated[new], new in sharing, new == 0)
        for new, old in enumerate(growth.layers)
    ]


def _stack(
    layout: Layout,
    stack: str,
    layers: Mapping[int, list[Tensor]],
    variants: list[Variant],
    experts: Experts,
) -> list[Output]:
    """The tensors of one stack of layers.

    Prediction layers are not repeated: those in a stack of their own keep their numbers, those
    behind the last layer stay behind the last.
    """
    is_own = any(place.is_prediction for tensors in layers.values() for _, place in tensors)
    numbered: list[tuple[int, Variant]] = [] if is_own else list(enumerate(variants))
    for old in sorted(layers):
        if is_own or old >= layout.layers:
            numbered.append((old if is_own else old - layout.layers + len(variants), Variant(old)))
    lower = next(place.lower for tensors in layers.values() for _, place in tensors)
    kinds: dict[Hashable, LayerKind] = {}
    known: dict[Variant, tuple[LayerKind, list[tuple[Piece, ...]]]] = {}
    made: list[Output] = []
    for new, variant in numbered:
        if variant not in known:
            tensors = list(_tensors(layout, layers, variant, is_own))
            seen = [(place.suffix, place.role, spec.dtype, spec.shape) for spec, place in tensors]
            key = variant.silent, tuple(seen)
            if key not in kinds:
                parts = sorted(_parts(tensors, variant, experts), key=_natural)
                kinds[key] = _kind(tensors, parts)
            known[variant] = kinds[key], _pieces(kinds[key], tensors)
        kind, its_pieces = known[variant]
        if not kind.parts:
            continue
        prefix = f"{stack}{new - lower}"
        names, dtypes, shapes, _, axes = zip(*kind.parts, strict=True)
        named = map(prefix.__add__, names)
        made += map(_OUTPUT, zip(named, dtypes, shapes, its_pieces, axes, strict=True))
    return made


def _kind(tensors: list[Tensor], parts: list[Output]) -> LayerKind:
    numbers: dict[tuple[Piece, ...], int] = {}
    pieces = [numbers.setdefault(part.pieces, len(numbers)) for part in parts]
    return LayerKind(tensors, parts, list(numbers), pieces)


def _pieces(kind: LayerKind, tensors: list[Tensor]) -> list[tuple[Piece, ...]]:
    """The pieces of each part of a kind, taken from the tensors of another layer of it."""
    if not kind.parts:
        return []
    pairs = zip(kind.tensors, tensors, strict=True)
    own = {first.name: spec.name for (first, _), (spec, _) in pairs}
    sources, *others = zip(*chain.from_iterable(kind.made_of), strict=True)
    found = map(_PIECE, zip(map(own.__getitem__, sources), *others, strict=True))
    made_of = [tuple(islice(found, len(pieces))) for pieces in kind.made_of]
    return list(map(made_of.__getitem__, kind.pieces))


def _tensors(
    layout: Layout, layers: Mapping[int, list[Tensor]], variant: Variant, is_own: bool
) -> Iterator[Tensor]:
    """The tensors that a new layer is made from; `is_own` are prediction layers by themselves."""
    yield from _kept(layers.get(variant.old, []), variant)
    if is_own:
        return
    if layout.family.tensors.not_in_first or layout.family.tensors.beside:
        yield from _made(layout, layers, variant)


def _kept(tensors: list[Tensor], variant: Variant) -> Iterator[Tensor]:
    """The tensors of an old layer that its copy gets too."""
    for spec, place in tensors:
        if not (
            (place.is_once and variant.repeated)
            or (place.is_indexer and variant.sharing)
            or (place.is_not_in_first and variant.first)
        ):
            yield spec, place


def _made(layout: Layout, layers: Mapping[int, list[Tensor]], variant: Variant) -> Iterator[Tensor]:
    """What a copy of the first layer needs and the first layer itself does not have.

    The tensors of another layer, of the same type if there is one, stand for its shape; their
    layer is set to the old one, by which they are known to be made.
    """
    if variant.first or variant.old >= layout.layers:
        return
    has = {place.suffix for _, place in layers.get(variant.old, [])}
    types = layout.facts.layer_types

    def is_other_type(layer: int) -> bool:
        return max(layer, variant.old) < len(types) and types[layer] != types[variant.old]

    for layer in sorted(layers, key=is_other_type):
        for spec, place in layers[layer]:
            if place.is_not_in_first and place.suffix not in has and layer < layout.layers:
                has.add(place.suffix)
                yield spec, place._replace(role="made")


def _parts(tensors: list[Tensor], variant: Variant, experts: Experts) -> Iterator[Output]:
    """Every tensor of one new layer, named by its suffix."""
    is_moe = any(place.role == "experts" for _, place in tensors)
    for spec, place in tensors:
        if place.role == "made":
            yield _one(spec, place, whole(spec, scale=ZERO))
        elif variant.silent and place.is_one:
            yield _one(spec, place, whole(spec, scale=ZERO, shift=ONE))
        elif is_moe and place.role and place.role != "shared":
            yield from experts.outputs(spec, place, silent=variant.silent and place.is_output)
        else:
            silent = variant.silent and place.is_output
            yield _one(spec, place, whole(spec, scale=ZERO if silent else ONE))


def _one(spec: TensorSpec, place: TensorRole, piece: Piece) -> Output:
    return Output(place.suffix, spec.dtype, spec.shape, (piece,))


def _outside(layout: Layout, spec: TensorSpec, growth: Growth) -> Output:
    """A tensor outside all layers: as it is, unless it packs something of every layer."""
    axis = layout.family.tensors.packed.get(spec.name)
    if axis is None:
        return Output(spec.name, spec.dtype, spec.shape, (whole(spec),))
    rows = spec.shape[axis] // layout.layers
    pieces = tuple(Piece(spec.name, old * rows, (old + 1) * rows) for old in growth.layers)
    shape = (*spec.shape[:axis], rows * len(growth.layers), *spec.shape[axis + 1 :])
    return Output(spec.name, spec.dtype, shape, pieces, axis)


def _natural(part: Output) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts expert 10 behind expert 9."""
    words = part.name.split(".")
    return tuple((0, int(word)) if _NUMBER.fullmatch(word) else (1, word) for word in words)
