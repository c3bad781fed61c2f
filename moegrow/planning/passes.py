"""Rewrite outputs that are quantised or change dtype: factors, casts, requantizing."""

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, assert_never

from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import BITS, PLAIN
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.families.layout import Layout
from moegrow.growth import Growth
from moegrow.planning.notes import AxisSummary, ScalesLeftOut, StorageNote, Stored
from moegrow.planning.op import (
    COPY,
    ONE,
    Cast,
    Copy,
    Dequantize,
    Fill,
    Op,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    decoded,
    is_rounded_by_draw,
    perturbed,
)
from moegrow.planning.plan import Output, Piece, Storage
from moegrow.quant.decoding import AS_IT_IS, EXACT, is_power_of_two
from moegrow.quant.find_codec import find_codec
from moegrow.quant.formats import Weight

if TYPE_CHECKING:
    from moegrow.quant.codec import Codec


def are_asked(layout: Layout, growth: Growth, output_scale: Fraction) -> bool:
    """Whether a growth multiplies a weight, or sets one to zero."""
    tensors = layout.family.tensors
    return bool(output_scale != ONE or any(growth.silent) or tensors.not_in_first or tensors.beside)


class Factors:
    """The outputs of a growth, with what is to happen to quantised weights as it can, exactly.

    A factor that is a power of two multiplies the scales, or divides the divisor, and the codes
    are copied. Zeros are codes, and zero points, that stand for zero, whatever the scale. `taken`
    are the formats of the weights whose scales took a factor.
    """

    def __init__(self, layout: Layout) -> None:
        quantised = layout.quantised
        self._tensors = layout.checkpoint.tensors
        self._weights = quantised.weights
        self._owners = quantised.owners
        self.taken: set[str] = set()

    def outputs(self, outputs: Iterable[Output]) -> Iterator[Output]:
        """The outputs; what is no quantised weight, or is decoded, stays as it is asked for."""
        for output in outputs:
            if self._weights and any(_is_changed(piece.op) for piece in output.pieces):
                pieces = tuple(map(self._piece, output.pieces))
                yield output._replace(pieces=pieces)
            else:
                yield output

    def _piece(self, piece: Piece) -> Piece:
        weight = self._weights.get(self._owners.get(piece.source, piece.source))
        if weight is None or weight.problem:
            return piece
        roles = {name: role for role, name in weight.decoding.companions}
        role = "values" if piece.source == weight.values else roles.get(piece.source, "")
        return piece._replace(op=self._op(piece.op, weight, role))

    def _op(self, op: Op, weight: Weight, role: str) -> Op:
        """What happens to a tensor of a weight, which plays a role in it."""
        match op:
            case Fill(decoding=None):
                code = self._codec(weight).zeros().get(role)
                return COPY if code is None else Fill(Fraction(code), EXACT)
            case Perturb(noise, scale, shift) if scale != ONE and is_power_of_two(scale):
                if role == "values":
                    return perturbed(noise, ONE, shift)
                multiplied, factor = self._codec(weight).factor(scale)
                if role != multiplied:
                    return COPY
                self.taken.add(weight.format)
                return Rescale(factor)
            case Perturb():  # a scale that no plan is allowed to ask for
                return op
            case Copy() | Fill() | Cast() | Dequantize() | Requantize() | Rescale() | Renumber():
                return op
            case _:
                assert_never(op)

    def _codec(self, weight: Weight) -> "Codec":
        return find_codec(self._tensors[weight.values], weight.decoding, self._tensors)


def _is_changed(op: Op) -> bool:
    """Whether stored values are multiplied, or set to one number."""
    match op:
        case Fill(decoding=decoding):
            return decoding is None
        case Perturb(scale=scale):
            return scale != ONE
        case Renumber(factor):
            return factor != 1
        case Copy() | Cast() | Dequantize() | Requantize() | Rescale():
            return False
        case _:
            assert_never(op)


def in_scales(outputs: Iterable[Output], layout: Layout) -> dict[str, Fraction]:
    """The factors that quantised weights have in their scales, by the outputs of their values."""
    multiplied = [
        (output.name, piece.source, piece.op.factor)
        for output in outputs
        for piece in output.pieces[:1]
        if isinstance(piece.op, Rescale)
    ]
    if not multiplied:
        return {}
    quantised, found = layout.quantised, {}
    tensors = layout.checkpoint.tensors
    owners = quantised.owners
    for name, source, factor in multiplied:
        if source not in owners:
            continue
        weight = quantised.weights[owners[source]]
        stem = weight.values.removesuffix(weight.ending)
        codec = find_codec(tensors[weight.values], weight.decoding, tensors)
        values = name.removesuffix(source.removeprefix(stem)) + weight.ending
        # The factor of a companion for that of the numbers, and the other way round, are the same.
        _, found[values] = codec.factor(factor)
    return found


# What is stored in float32 because less would change what a router chooses.
FULL = ("balance_bias", "expert_numbers")


class Restored:
    """The outputs of a growth as a storage asks for them, and what is said of that.

    Raises MoegrowError where a tensor looks quantised and no format that is known explains it.
    """

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._quantised = layout.quantised
        self._owners = self._quantised.owners
        self._check()

    @cached_property
    def own(self) -> str:
        """The dtype of most of what is not quantised, by bytes: the model's own."""
        sizes: Counter[str] = Counter()
        for spec in self._layout.checkpoint.tensors.values():
            if spec.dtype in PLAIN and spec.name not in self._owners:
                sizes[spec.dtype] += spec.stop - spec.start
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")

    @property
    def leaves_quantised(self) -> bool:
        """Whether some weights stay as they are quantised."""
        return any(self._wanted(name) == "" for name in self._quantised.weights)

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Scales of activations, where no weight stays quantised: loaders know none of a model
        that is not."""
        return frozenset(() if self.leaves_quantised else self._quantised.beside)

    def outputs(self, outputs: Iterable[Output]) -> Iterator[Output]:
        """The outputs, those that are decoded and rounded in place of those that hold the parts."""
        tensors = self._layout.checkpoint.tensors
        for output in outputs:
            source = output.pieces[0].source if output.pieces else ""
            dtype = self._wanted(source) if source else ""
            weight = self._quantised.weights.get(source)
            if source in self.left_out:
                continue
            if not dtype:
                yield output
            elif weight is not None:
                yield self._decoded(output, weight, tensors[source], dtype)
            elif source in self._owners:
                continue
            elif self._is_rounded(tensors[source], dtype):
                pieces = tuple(
                    piece._replace(op=decoded(piece.op, AS_IT_IS)) for piece in output.pieces
                )
                yield output._replace(dtype=dtype, pieces=pieces)
            else:
                yield output

    def _wanted(self, name: str) -> str:
        """The dtype that a tensor is wanted in, or "" where it stays as it is."""
        place = self._layout.places.get(name)
        is_expert = place is not None and place.role == "experts"
        return (is_expert and self._storage.experts) or self._storage.dtype

    def _is_rounded(self, spec: TensorSpec, dtype: str) -> bool:
        """Whether a tensor that is not quantised changes: not where it is finer for a reason."""
        place = self._layout.places.get(spec.name)
        if spec.dtype not in PLAIN or spec.dtype == dtype or (place and place.role in FULL):
            return False
        return BITS[spec.dtype] <= BITS[self.own]

    def _decoded(self, output: Output, weight: Weight, spec: TensorSpec, dtype: str) -> Output:
        """The output that holds the numbers of a quantised weight."""
        rows = weight.shape[0] if weight.shape else 1
        old = spec.shape[0] if spec.shape else 1
        pieces = []
        for piece in output.pieces:
            start, stop = piece.start, piece.stop
            if (start, stop) == (0, old):
                start, stop = 0, rows
            elif rows != old:
                raise MoegrowError(
                    f"{output.name} takes rows {start} to {stop} of {spec.name}, which lie across"
                    f" others in {weight.format}"
                )
            pieces.append(Piece(spec.name, start, stop, decoded(piece.op, weight.decoding)))
        if output.axis:
            raise MoegrowError(f"{output.name} is joined along columns, and {spec.name} is packed")
        total = sum(piece.stop - piece.start for piece in pieces)
        shape = (total, *weight.shape[1:]) if weight.shape else ()
        name = output.name.removesuffix(weight.ending) + weight.becomes
        return Output(name, dtype, shape, tuple(pieces))

    def _check(self) -> None:
        tensors, places = self._layout.checkpoint.tensors, self._layout.places
        wanted = {
            name
            for name in self._quantised.unknown
            if self._wanted(name) and (name not in places or places[name].role not in FULL)
        }
        problems = [f"{name} is stored as {tensors[name].dtype}" for name in sorted(wanted)]
        problems += [
            f"{name}: {weight.problem}"
            for name, weight in self._quantised.weights.items()
            if weight.problem and self._wanted(name)
        ]
        raise_all(
            f"{self._layout.checkpoint.name} is quantised in a way that moegrow does not decode",
            problems,
            "copies need no decoding: leave out "
            + Parameter("dtype")
            + " and "
            + Parameter("experts_dtype"),
        )

    def step(self) -> AxisSummary | None:
        """The summary of it, or None where everything stays as it is."""
        notes = tuple(self._notes())
        return AxisSummary("storage", notes) if notes else None

    def _notes(self) -> Iterator[StorageNote]:
        decoded: Counter[tuple[str, str]] = Counter()
        rounded: Counter[tuple[str, str]] = Counter()
        kept: Counter[str] = Counter()
        for name, spec in self._layout.checkpoint.tensors.items():
            dtype = self._wanted(name)
            if not dtype or name in self._owners or name in self.left_out:
                continue
            if name in self._quantised.weights:
                decoded[self._quantised.weights[name].format, dtype] += 1
            elif self._is_rounded(spec, dtype):
                rounded[spec.dtype, dtype] += 1
            elif spec.dtype in PLAIN and spec.dtype != dtype:
                kept[spec.dtype] += 1
        for (form, dtype), count in sorted(decoded.items()):
            yield Stored("decoded", count, form, dtype)
        for (old, dtype), count in sorted(rounded.items()):
            yield Stored("rounded", count, old, dtype)
        for old, count in sorted(kept.items()):
            yield Stored("kept", count, old, old)
        if self.left_out:
            yield ScalesLeftOut(len(self.left_out))


def regridded(outputs: Iterable[Output], layout: Layout) -> Iterator[Output]:
    """The outputs, with how its numbers are had in every piece of a quantised weight with noise
    that a draw rounds.

    The companions of such a weight, on whose scales its numbers are put back, take no noise: they
    are copied.
    """
    quantised = layout.quantised
    weights, owners = quantised.weights, quantised.owners
    for output in outputs:
        source = output.pieces[0].source if output.pieces else ""
        if source not in weights and source not in owners:
            yield output
        elif any(is_rounded_by_draw(piece.op) for piece in output.pieces):
            weight = weights.get(source)
            pieces = tuple(piece._replace(op=_remade(piece.op, weight)) for piece in output.pieces)
            yield output._replace(pieces=pieces)
        else:
            yield output


def _remade(op: Op, weight: Weight | None) -> Op:
    """An operation on a tensor of a quantised weight, whose noise a draw may round.

    `weight` is None where the tensor is one of its companions.
    """
    match op:
        case Perturb(noise, scale, shift):
            if noise is None or not noise.is_rounded_by_draw:
                return op
            if weight is None:
                return perturbed(None, scale, shift)
            if weight.problem:
                return op
            if scale == ONE and not shift:
                return Requantize(weight.decoding, noise)
            return Dequantize(weight.decoding, op)  # which no plan is allowed to ask for
        case Copy() | Fill() | Cast() | Dequantize() | Requantize() | Rescale() | Renumber():
            return op
        case _:
            assert_never(op)
