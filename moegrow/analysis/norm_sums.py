"""Sum squares over all weights of a checkpoint, read once on all cores."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moegrow.analysis import norm_slices
from moegrow.analysis.norm_slices import Cut, Run
from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import BITS, PLAIN
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.files import worker_threads
from moegrow.files.byte_ranges import cores
from moegrow.kernels.perturb import Bytes, Workspace, compiled_loops
from moegrow.kernels.reader import READ, SourceReader, rechunked
from moegrow.kernels.sum_squares import WIDEST, Lanes
from moegrow.planning.plan import Piece
from moegrow.quant.decoding import Decoding

LANES = 1024  # in which the squares of a long stretch of values are added
WORTH_LOADING = 1 << 30  # bytes from which on loading compiled loops takes less than they spare
DECODED = "F32"  # what decoders give


class SumsRead(NamedTuple):
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


Found = tuple[Squares, int]
Progress = Callable[[int], None]


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
    kept, worth = _Kept(), WORTH_LOADING
    with SourceReader(layout.checkpoint) as source:
        count = threads or layout.checkpoint.store.threads or cores()
        with worker_threads.pool(count) as pool:
            # Sums come out the same: the other threads need not wait until the loops are loaded.
            loops = pool.submit(compiled_loops, sum(task.nbytes for task in tasks), worth)

            def found(task: SumsRead) -> Found:
                if not kept.workspace.compiled and loops.done():
                    kept.workspace.compiled = loops.result()
                return _sum(source, task, kept.workspace, progress)

            asked = [pool.submit(found, task) for task in tasks]
            try:
                sums = [future.result() for future in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    together = list(zip(tasks, sums, strict=True))
    everything = readings(layout) if sample else tasks
    return Measured(
        squares={task.spec.name: squares for task, (squares, _) in together},
        nonfinite={task.spec.name: bad for task, (_, bad) in together if bad},
        is_sample=sample,
        values=sum(task.cut.length for task in tasks),
        of=sum(task.cut.length for task in everything),
        experts=len(norm_slices.experts_read(layout.experts, sample=sample)),
        of_experts=layout.experts,
    )


def readings(layout: Layout, *, sample: bool = False) -> list[SumsRead]:
    """What a profile reads, in the order in which it lies in the files.

    Layers behind the last, for prediction, are left out, and so is what only serves to decode
    others. Raises MoegrowError where any of it is quantised in a way that is not known.
    """
    quantised = layout.quantised
    owners, unknown = quantised.owners, frozenset(quantised.unknown)
    found = []
    for name, place in layout.places.items():
        if place.is_prediction or place.layer >= layout.layers:
            continue
        if name in owners or (not place.group and not place.is_norm):
            continue
        spec, weight = layout.checkpoint.tensors[name], quantised.weights.get(name)
        if weight and not weight.problem:
            spec = spec._replace(shape=weight.shape, dtype=DECODED)
        elif norm_slices.is_matrix(spec.shape) or name in unknown:
            check_readable(layout, spec)
        if its := norm_slices.cut(layout, spec, place, sample=sample):
            found.append(SumsRead(spec, its, weight.decoding if weight else None))
    return sorted(found, key=lambda one: (one.spec.file, one.spec.start))


def reading_bytes(layout: Layout, *, sample: bool = False) -> int:
    """How many bytes `measure` reads."""
    return sum(reading.nbytes for reading in readings(layout, sample=sample))


def check_readable(layout: Layout, spec: TensorSpec) -> None:
    """Raise MoegrowError where the stored values of a tensor are not its weights."""
    if spec.dtype not in PLAIN:
        raise MoegrowError(
            f"{spec.name} is stored as {spec.dtype}: the weights of {layout.checkpoint.name} are"
            " quantised in a way that moegrow does not decode, and norms of what is stored would be"
            " wrong",
            "make a bf16 copy first: load it with transformers, dequantise it, and save that",
        )


class _Kept(threading.local):
    """What each thread keeps from tensor to tensor."""

    def __init__(self) -> None:
        self.workspace = Workspace()


class _Group(NamedTuple):
    """Values of a tensor that are added together: in `width` lanes, which belong to some bins.

    The bins have them in turns, `period` lanes at a time.
    """

    first: int
    length: int
    width: int
    period: int
    bin: int
    bins: int


def _groups(run: Run) -> Iterator[_Group]:
    """A run as groups: all of it where the bins take turns fast enough, and else each turn's own.

    >>> [*_groups(Run(0, 6144, 2, 0, 3))]
    [_Group(first=0, length=6144, width=1020, period=2, bin=0, bins=3)]
    >>> [*_groups(Run(0, 1 << 17, 1 << 16, 4, 2))][1]
    _Group(first=65536, length=65536, width=1024, period=1024, bin=5, bins=1)
    """
    turn = run.period * run.bins
    if turn <= WIDEST:
        width = turn * max(1, LANES // turn)
        yield _Group(run.first, run.length, width, run.period, run.bin, run.bins)
        return
    most = max(1, WIDEST // run.period)  # stretches that are added at a time, each in its own lanes
    for start in range(0, run.length // run.period, run.bins):
        for number in range(0, run.bins, most):
            bins = min(most, run.bins - number)
            first = run.first + (start + number) * run.period
            length = bins * run.period
            if run.period <= WIDEST:
                yield _Group(first, length, length, run.period, run.bin + number, bins)
            else:
                yield _Group(first, length, LANES, LANES, run.bin + number, bins)


def _sum(
    source: SourceReader, reading: SumsRead, workspace: Workspace, progress: Progress
) -> Found:
    """The sums of one tensor, and how many values they leave out."""
    its, dtype = reading.cut, reading.spec.dtype
    sums, counts, left_out = np.zeros(its.bins), np.zeros(its.bins), 0
    for run in its.runs:
        for group in _groups(run):
            lanes = Lanes(group.width, workspace)
            most = max(1, READ // (group.width * BITS[dtype] // 8)) * group.width
            for block in _stored(source, reading, group.first, group.length, most):
                lanes.add(block, dtype)
            bins = slice(group.bin, group.bin + group.bins)
            by_bin = -1, group.bins, group.period
            sums[bins] += lanes.sums.reshape(by_bin).sum(axis=(0, 2))
            bad = lanes.left_out.reshape(by_bin).sum(axis=(0, 2))
            counts[bins] += group.length // group.bins - bad
            left_out += int(bad.sum())
        progress(reading.bytes_of(run.length))
    return Squares(tuple(sums.tolist()), tuple(counts.tolist())), left_out


def _stored(
    source: SourceReader, reading: SumsRead, first: int, count: int, most: int
) -> Iterator[Bytes]:
    """`count` values of a tensor from number `first` on, decoded, `most` of them at a time."""
    spec = reading.spec
    width = BITS[spec.dtype] // 8
    decoding = reading.decoding
    if decoding is None:
        start = spec.start + first * width
        yield from source.read(spec.file, start, start + count * width, most * width)
        return
    row = math.prod(spec.shape[1:])
    rows = first // row, -(-(first + count) // row)
    piece = Piece(spec.name, *rows)
    before = (first - rows[0] * row) * width
    left = count * width

    def wanted() -> Iterator[Bytes]:
        skip, rest = before, left
        for block in source.decoded(piece, decoding):
            part = block[skip : skip + rest]
            skip, rest = max(0, skip - block.size), rest - part.size
            yield part

    yield from rechunked(wanted(), most * width)
