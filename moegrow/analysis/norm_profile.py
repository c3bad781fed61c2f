"""Profile weight norms layer by layer, measured or predicted from a plan."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

from moegrow.analysis import norm_slices
from moegrow.analysis.norm_sums import Measured, Squares, measure
from moegrow.families.layout import Layout
from moegrow.families.tensor_names import GROUPS, locator
from moegrow.planning.noise_forecast import on_weight
from moegrow.planning.op import (
    Cast,
    Copy,
    Dequantize,
    Fill,
    Op,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    change_of,
    decoding_of,
)
from moegrow.planning.open_source import Opened
from moegrow.planning.passes import in_scales
from moegrow.planning.plan import Output, Piece, Plan
from moegrow.quant.decoding import EXACT
from moegrow.quant.find_codec import decoded_shape

# The norms of one group, layer by layer; None where a layer has none of it.
Norms = tuple[float | None, ...]


@dataclass(frozen=True)
class Profile:
    """The norms of a checkpoint's layers, as arXiv 2510.08008 draws them.

    The norm of a matrix is its Frobenius norm ÷ √(its number of values), which is the root mean
    square of its values. `norms` has for each of `places.GROUPS` that the model has the norm of
    each layer: for "experts" the mean over the matrices of all experts of the layer, for
    "norms" that over its norms' weights, for the others that of all their values together.
    `nonfinite` counts, by tensor, values that are NaN or infinite and were left out. Of the `of`
    values that count, `values` were read, and of the `of_experts` experts of a layer `experts`.
    `is_predicted` where it is what a plan will make of its source.
    """

    name: str
    location: str
    family: str
    layers: int
    norms: Mapping[str, Norms]
    nonfinite: Mapping[str, int]
    is_sample: bool
    values: int
    of: int
    experts: int
    of_experts: int
    is_predicted: bool = False

    @property
    def share(self) -> str:
        """How much was read of what counts, in words."""
        part = 100 * self.values / max(self.of, 1)
        return "all" if part > 99.9 else f"{part:.2g} %"


def profile(
    layout: Layout,
    *,
    sample: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Profile:
    """The profile of a checkpoint, whose weights are read; see `squares.measure`."""
    return measured_profile(
        layout, measure(layout, sample=sample, threads=threads, progress=progress)
    )


def of(
    opened: Opened,
    *,
    sample: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Profile:
    """The profile of an opened source: of a checkpoint as it is, of a plan as it will be."""
    return both(opened, sample=sample, threads=threads, progress=progress)[0]


def both(
    opened: Opened,
    *,
    sample: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Profile, Profile]:
    """As `of`, and the profile of the checkpoint that the weights are in; for one, the same."""
    plan, layout = opened
    measured = measure(layout, sample=sample, threads=threads, progress=progress)
    old = measured_profile(layout, measured)
    return (predicted_profile(plan, layout, measured) if plan.steps else old), old


def measured_profile(layout: Layout, measured: Measured) -> Profile:
    """The profile of the checkpoint that was measured."""
    tensors = layout.checkpoint.tensors
    entries = (
        (
            norm_slices.group_of(place := layout.places[name], tensors[name].shape),
            place.layer,
            squares,
        )
        for name, squares in measured.squares.items()
    )
    return _profile(layout, measured, entries, layout.checkpoint.name, layout.layers)


def predicted_profile(plan: Plan, layout: Layout, measured: Measured) -> Profile:
    """The profile of what a plan makes of the checkpoint that was measured, whose layout it is.

    Nothing is read: copies have the norms of their originals, and noise adds its variance, with
    that of the copied weights taken for their mean square; where a draw rounds it on the grid of
    a quantised weight, what is foretold of that.
    """
    from moegrow.write.write_checkpoint import default_name

    locate = locator(layout.family)
    layers = len(plan.growth.layers)
    factors = in_scales(plan.outputs, layout)

    def entries() -> Iterator[tuple[str, int, Squares]]:
        for output in plan.outputs:
            place = locate(output.name)
            if place is None or place.is_prediction or place.layer >= layers:
                continue
            if found := _predicted(output, layout, measured):
                if output.name in factors:
                    square = float(factors[output.name]) ** 2
                    found = found._replace(sums=tuple(total * square for total in found.sums))
                yield norm_slices.group_of(place, output.shape), place.layer, found

    return _profile(layout, measured, entries(), default_name(plan), layers, is_predicted=True)


def _profile(
    layout: Layout,
    measured: Measured,
    entries: Iterable[tuple[str, int, Squares]],
    name: str,
    layers: int,
    *,
    is_predicted: bool = False,
) -> Profile:
    pooled: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    single: dict[tuple[str, int], list[float]] = defaultdict(list)
    for group, layer, squares in entries:
        both = list(zip(squares.sums, squares.counts, strict=True))
        if group in ("experts", "norms"):
            single[group, layer] += [math.sqrt(total / n) for total, n in both if n]
        else:
            pooled[group, layer] += both
    found: dict[tuple[str, int], float] = {
        key: math.fsum(values) / len(values) for key, values in single.items() if values
    }
    for key, pairs in pooled.items():
        count = math.fsum(n for _, n in pairs)
        if count:
            found[key] = math.sqrt(math.fsum(total for total, _ in pairs) / count)
    present = {group for group, _ in found}
    return Profile(
        name=name,
        location=layout.checkpoint.location,
        family=layout.family.name,
        layers=layers,
        norms={
            group: tuple(found.get((group, layer)) for layer in range(layers))
            for group in GROUPS
            if group in present
        },
        nonfinite=measured.nonfinite,
        is_sample=measured.is_sample,
        values=measured.values,
        of=measured.of,
        experts=measured.experts,
        of_experts=measured.of_experts,
        is_predicted=is_predicted,
    )


def _predicted(output: Output, layout: Layout, measured: Measured) -> Squares | None:
    """The sums of an output, from those of the tensors that it is made of."""
    sums: list[float] = []
    counts: list[float] = []
    for piece in output.pieces:
        squares = measured.squares.get(piece.source)
        if squares is None:
            return None
        tensors = layout.checkpoint.tensors
        shape = tensors[piece.source].shape
        if decoding := decoding_of(piece.op):
            shape = decoded_shape(tensors[piece.source], decoding, tensors)
        rows = shape[output.axis] if shape else 1
        both = _rows(squares, piece, rows, is_first=output.axis == 0)
        for total, count in _changed(both, piece.op, _realised(piece, layout)):
            sums.append(total)
            counts.append(count)
    return Squares(tuple(sums), tuple(counts))


def _realised(piece: Piece, layout: Layout) -> float:
    """How many times the variance of the noise that is asked for is added to the mean square of a
    piece: where a draw rounds it on the grid of a quantised weight, more or less than once."""
    if not isinstance(piece.op, Requantize):
        return 1.0
    noise = piece.op.noise
    tensors = layout.checkpoint.tensors
    weight = layout.quantised.weights[piece.source]
    return on_weight(
        tensors[piece.source], piece.op.decoding, tensors, noise.amount,
        by_draw=noise.is_rounded_by_draw, is_symmetric=weight.is_symmetric,
    ).growth  # fmt: skip


def _rows(
    squares: Squares, piece: Piece, rows: int, *, is_first: bool
) -> list[tuple[float, float]]:
    """The sums of the bins that a piece has, of a tensor with so many rows."""
    bins = len(squares.sums)
    if bins == 1 or not is_first:
        share = (piece.stop - piece.start) / rows
        return [(math.fsum(squares.sums) * share, math.fsum(squares.counts) * share)]
    own = slice(piece.start * bins // rows, piece.stop * bins // rows)
    return list(zip(squares.sums[own], squares.counts[own], strict=True))


def _changed(
    both: list[tuple[float, float]], op: Op, realised: float
) -> Iterator[tuple[float, float]]:
    """Sums after what happens to a piece: noise, its variance as many times as it is `realised`, a
    scale; or a constant."""
    match op:
        case Fill(value, decoding):
            # A code stands for zero.
            square = 0.0 if decoding == EXACT else float(value) ** 2
            yield from ((n * square, n) for _, n in both)
            return
        case Copy() | Perturb() | Cast() | Dequantize() | Requantize() | Rescale() | Renumber():
            change = change_of(op)
        case _:
            assert_never(op)
    count = math.fsum(n for _, n in both)
    variance = 0.0
    if change.noise and count:
        own = math.fsum(total for total, _ in both) / count
        is_uniform = change.noise.kind == "uniform"
        variance = realised * change.noise.amount**2 * (1 / 3 if is_uniform else own)
    for total, n in both:
        yield (total + n * variance) * float(change.scale) ** 2, n
