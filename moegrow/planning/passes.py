"""Rewrite outputs that are quantised or change dtype: factors, casts, requantizing."""

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property

from moegrow.checkpoint.header import BITS, TensorSpec
from moegrow.errors import MoegrowError, raise_all
from moegrow.families.layout import Layout
from moegrow.growth import Growth
from moegrow.model_config.quantization_config import quantised_in
from moegrow.planning.notes import AxisSummary, ScalesLeftOut, StorageNote, Stored
from moegrow.planning.plan import ONE, Output, Piece, Storage
from moegrow.quant.decoding import AS_IT_IS, EXACT, is_power_of_two
from moegrow.quant.formats import PLAIN, Weight

# The companion that takes a factor: the first of these that a weight has.
_TAKES = ("factor", "divisor", "scale")


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
        quantised = quantised_in(layout)
        self._weights = quantised.weights
        self._owners = quantised.owners
        self.taken: set[str] = set()

    def outputs(self, outputs: Iterable[Output]) -> Iterator[Output]:
        """The outputs; what is no quantised weight, or is decoded, stays as it is asked for."""
        for output in outputs:
            if self._weights and any(_is_changed(piece) for piece in output.pieces):
                pieces = tuple(map(self._piece, output.pieces))
                yield output._replace(pieces=pieces)
            else:
                yield output

    def _piece(self, piece: Piece) -> Piece:
        weight = self._weights.get(self._owners.get(piece.source, piece.source))
        if weight is None or weight.problem or not _is_changed(piece):
            return piece
        roles = {name: role for role, name in weight.decoding.companions}
        role = "values" if piece.source == weight.values else roles.get(piece.source, "")
        copy = Piece(piece.source, piece.start, piece.stop)
        if not piece.scale:
            code = zeros(weight).get(role)
            if code is None:
                return copy
            return copy._replace(scale=piece.scale, shift=Fraction(code), decoding=EXACT)
        if not is_power_of_two(piece.scale):
            return piece  # which no plan is allowed to ask for
        if role == "values":
            return piece._replace(scale=ONE)
        if role != next(taker for taker in _TAKES if taker in roles.values()):
            return copy
        self.taken.add(weight.format)
        scale = 1 / piece.scale if role == "divisor" else piece.scale
        return copy._replace(scale=scale, decoding=EXACT)


def _is_changed(piece: Piece) -> bool:
    return piece.scale != ONE and piece.decoding is None


def in_scales(outputs: Iterable[Output], layout: Layout) -> dict[str, Fraction]:
    """The factors that quantised weights have in their scales, by the outputs of their values."""
    multiplied = [
        (output.name, piece)
        for output in outputs
        for piece in output.pieces[:1]
        if piece.decoding == EXACT and piece.scale
    ]
    if not multiplied:
        return {}
    quantised, found = quantised_in(layout), {}
    owners = quantised.owners
    for name, piece in multiplied:
        if piece.source not in owners:
            continue
        weight = quantised.weights[owners[piece.source]]
        stem = weight.values.removesuffix(weight.ending)
        role = next(role for role, name in weight.decoding.companions if name == piece.source)
        values = name.removesuffix(piece.source.removeprefix(stem)) + weight.ending
        found[values] = 1 / piece.scale if role == "divisor" else piece.scale
    return found


def zeros(weight: Weight) -> dict[str, int]:
    """What to store for the codes of a weight and its zero points, so that it is zero."""
    decoding = weight.decoding
    if decoding.codec not in ("packed", "gptq", "awq"):
        return {"values": 0, "zero": 0}
    bits = decoding.setting("bits")
    # The middle of the codes, which symmetric weights take for zero without looking it up.
    middle = 1 << (bits - 1)
    return {
        "values": _word(middle, bits),
        "zero": _word(middle - decoding.setting("zero_shift"), bits),
    }


def _word(code: int, bits: int) -> int:
    """A signed word of 32 bits, full of one code.

    >>> hex(_word(8, 4) + (1 << 32))
    '0x88888888'
    """
    word = sum(code << at for at in range(0, 32, bits))
    return word - (1 << 32) if word >> 31 else word


# What is stored in float32 because less would change what a router chooses.
FULL = ("balance_bias", "expert_numbers")


class Restored:
    """The outputs of a growth as a storage asks for them, and what is said of that.

    Raises MoegrowError where a tensor looks quantised and no format that is known explains it.
    """

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._quantised = quantised_in(layout)
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
                pieces = tuple(piece._replace(decoding=AS_IT_IS) for piece in output.pieces)
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
            pieces.append(
                Piece(spec.name, start, stop, piece.noise, piece.scale, piece.shift,
                      weight.decoding)
            )  # fmt: skip
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
            "copies need no decoding: leave out --dtype and --experts-dtype",
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
    quantised = quantised_in(layout)
    weights, owners = quantised.weights, quantised.owners
    for output in outputs:
        source = output.pieces[0].source if output.pieces else ""
        if source not in weights and source not in owners:
            yield output
        elif any(piece.is_rounded_by_draw for piece in output.pieces):
            weight = weights.get(source)
            yield output._replace(pieces=tuple(_piece(piece, weight) for piece in output.pieces))
        else:
            yield output


def _piece(piece: Piece, weight: Weight | None) -> Piece:
    if not piece.is_rounded_by_draw or piece.decoding is not None:
        return piece
    if weight is None:
        return piece._replace(noise=None)
    return piece if weight.problem else piece._replace(decoding=weight.decoding)
