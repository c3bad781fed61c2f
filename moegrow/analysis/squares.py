"""Sums of the squares of a checkpoint's weights, read at the speed of the disk."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moegrow.analysis import cuts
from moegrow.analysis.cuts import Cut, Run
from moegrow.config.quantconfig import quantised_in
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.formats.decoding import Decoding
from moegrow.ground import waiting
from moegrow.ground.ranges import cores
from moegrow.numbers import arithmetic
from moegrow.numbers.arithmetic import Bytes, Scratch
from moegrow.numbers.stream import READ, Source, rechunked
from moegrow.plans import Piece
from moegrow.source.header import BITS, TensorSpec

Floats = npt.NDArray[np.float64]

STEP = 1 << 15  # values that are squared at a time: what they need stays in a core's cache
LARGEST = 1e150  # beyond it, squares are no finite float64
DECODED = "F32"  # what decoders give
READABLE = ("F64", "F32", "F16", "BF16")


class Reading(NamedTuple):
    """What is read of a tensor: `spec` is that of the numbers, which may have to be decoded."""

    spec: TensorSpec
    cut: Cut
    decoding: Decoding | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the file that are read, about as many where they are decoded."""
        return self.bytes_of(self.cut.length)

    def bytes_of(self, values: int) -> int:
        return (self.spec.stop - self.spec.start) * values // math.prod(self.spec.shape)


class Squares(NamedTuple):
    """For each bin of a tensor, the sum of the squares of its finite values and their number."""

    sums: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """The sums of every tensor that counts in a profile, by name.

    `nonfinite` counts, by tensor, the values that are NaN or infinite, which the sums leave out.
    `values` of all the `of` values that count were read; of each layer `experts` of `of_experts`.
    """

    squares: Mapping[str, Squares]
    nonfinite: Mapping[str, int]
    is_sample: bool
    values: int
    of: int
    experts: int
    of_experts: int


def measure(
    layout: Layout,
    *,
    sample: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Measured:
    """The sums of squares of a checkpoint's layers: read whole, or with `sample` a little of each.

    A sample reads the same weights each time. `threads`: as many as there are cores unless
    given. `progress` is called with the bytes read. Raises MoegrowError where weights are
    quantised in a way that is not known.
    """
    tasks = readings(layout, sample=sample)
    with Source(layout.checkpoint) as source:
        count = threads or layout.checkpoint.origin.threads or cores()
        with waiting.pool(count) as pool:
            asked = [pool.submit(_measure, source, task, progress) for task in tasks]
            try:
                found = [future.result() for future in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    together = list(zip(tasks, found, strict=True))
    everything = readings(layout) if sample else tasks
    return Measured(
        squares={task.spec.name: squares for task, (squares, _) in together},
        nonfinite={task.spec.name: bad for task, (_, bad) in together if bad},
        is_sample=sample,
        values=sum(task.cut.length for task in tasks),
        of=sum(task.cut.length for task in everything),
        experts=len(cuts.experts_read(layout.experts, sample=sample)),
        of_experts=layout.experts,
    )


def readings(layout: Layout, *, sample: bool = False) -> list[Reading]:
    """What a profile reads, in the order in which it lies in the files.

    Layers behind the last, for prediction, are left out, and so is what only serves to decode
    others. Raises MoegrowError where any of it is quantised in a way that is not known.
    """
    quantised = quantised_in(layout)
    owners = quantised.owners
    found = []
    for name, place in layout.places.items():
        if place.is_prediction or place.layer >= layout.layers:
            continue
        if name in owners or (not place.group and not place.is_norm):
            continue
        spec, weight = layout.checkpoint.tensors[name], quantised.weights.get(name)
        if weight and not weight.problem:
            spec = spec._replace(shape=weight.shape, dtype=DECODED)
        elif cuts.is_matrix(spec.shape):
            check_readable(layout, spec)
        if its := cuts.cut(layout, spec, place, sample=sample):
            found.append(Reading(spec, its, weight.decoding if weight else None))
    return sorted(found, key=lambda one: (one.spec.file, one.spec.start))


def reading_bytes(layout: Layout, *, sample: bool = False) -> int:
    """How many bytes `measure` reads."""
    return sum(reading.nbytes for reading in readings(layout, sample=sample))


def check_readable(layout: Layout, spec: TensorSpec) -> None:
    """Raise MoegrowError where the stored values of a tensor are not its weights."""
    if spec.dtype not in READABLE:
        raise MoegrowError(
            f"{spec.name} is stored as {spec.dtype}: the weights of {layout.checkpoint.name} are"
            " quantised in a way that moegrow does not decode, and norms of what is stored would be"
            " wrong",
            "make a bf16 copy first: load it with transformers, dequantise it, and save that",
        )


def _measure(
    source: Source, reading: Reading, progress: Callable[[int], None]
) -> tuple[Squares, int]:
    """The sums of one tensor, and how many values they leave out."""
    its = reading.cut
    sums, counts, scratch, bad = np.zeros(its.bins), np.zeros(its.bins), Scratch(), 0
    for run in its.runs:
        bad += _add(source, reading, run, sums, counts, scratch)
        progress(reading.bytes_of(run.length))
    return Squares(tuple(sums.tolist()), tuple(counts.tolist())), bad


def _stored(source: Source, reading: Reading, first: int, count: int, most: int) -> Iterator[Bytes]:
    """`count` values of a tensor from number `first` on, decoded, `most` of them at a time."""
    spec = reading.spec
    width = BITS[spec.dtype] // 8
    if reading.decoding is None:
        start = spec.start + first * width
        yield from source.read(spec.file, start, start + count * width, most * width)
        return
    row = math.prod(spec.shape[1:])
    rows = first // row, -(-(first + count) // row)
    piece = Piece(spec.name, *rows, decoding=reading.decoding)
    before = (first - rows[0] * row) * width
    left = count * width

    def wanted() -> Iterator[Bytes]:
        skip, rest = before, left
        for block in source.decoded(piece):
            part = block[skip : skip + rest]
            skip, rest = max(0, skip - block.size), rest - part.size
            yield part

    yield from rechunked(wanted(), most * width)


def _add(
    source: Source, reading: Reading, run: Run, sums: Floats, counts: Floats, scratch: Scratch
) -> int:
    """Count one run in; gives the number of values that are left out."""
    dtype = reading.spec.dtype
    width = BITS[dtype] // 8
    bad = 0
    if run.period > STEP:
        for number, first in enumerate(range(0, run.length, run.period)):
            for block in _stored(source, reading, run.first + first, run.period, READ // width):
                for at in range(0, block.size, STEP * width):
                    values = _floats(block[at : at + STEP * width], dtype, scratch)
                    slot = run.bin + number % run.bins
                    bad += _count(values[None], sums, counts, np.array([slot]))
        return bad
    # Whole turns of the bins, and as many of them as fit.
    turn = run.period * (run.bins if run.period * run.bins <= STEP else 1)
    group = STEP // turn * turn
    number = 0
    most = max(1, READ // (group * width)) * group
    for block in _stored(source, reading, run.first, run.length, most):
        for at in range(0, block.size, group * width):
            values = _floats(block[at : at + group * width], dtype, scratch)
            rows = values.reshape(-1, run.period)
            slots = run.bin + (number + np.arange(len(rows))) % run.bins
            number += len(rows)
            if run.period == 1:
                # Neighbours in turns: each bin's values are one strided row.
                rows, slots = rows.reshape(-1, run.bins).T, slots[: run.bins]
            bad += _count(rows, sums, counts, slots)
    return bad


def _floats(stored: Bytes, dtype: str, scratch: Scratch) -> Floats:
    """At most STEP stored values as float64, to be used and written to."""
    values = arithmetic.numbers(stored, dtype, scratch)
    wide: Floats = scratch.take("wide", np.float64, values.size)
    np.copyto(wide, values)
    return wide


def _count(rows: Floats, sums: Floats, counts: Floats, slots: npt.NDArray[Any]) -> int:
    """Add the squares of each row to the bin in `slots`; gives how many values are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        # Not the product of vectors, whose library starts threads of its own.
        found = np.einsum("ij,ij->i", rows, rows)
        bad = 0
        kept: Any = rows.shape[1]
        if not np.isfinite(found).all():
            is_bad = ~(np.abs(rows) < LARGEST)
            rows = np.where(is_bad, 0.0, rows)
            found = np.einsum("ij,ij->i", rows, rows)
            kept, bad = rows.shape[1] - is_bad.sum(axis=1), int(is_bad.sum())
    np.add.at(sums, slots, found)
    np.add.at(counts, slots, kept)
    return bad
