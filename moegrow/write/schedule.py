"""Schedule reads and writes in the order of the source's files, each byte read once."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise, zip_longest
from typing import NamedTuple, assert_never

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.kernels.reader import piece_range
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
    decoding_of,
    noise_of,
)
from moegrow.planning.plan import Output, Piece
from moegrow.write.shards import Shard

LONGEST = 32 << 20  # bytes of a job that only copies, so that threads share the work evenly


class CopyRun(NamedTuple):
    """Bytes `start` to `stop` of a source file, to be repeated from `offset` of a shard on."""

    file: str
    start: int
    stop: int
    shard: int
    offset: int

    @property
    def end(self) -> int:
        """The position in the shard behind the last byte."""
        return self.offset + self.stop - self.start

    def part(self, start: int, stop: int) -> "CopyRun":
        """The same for bytes `start` to `stop` of the source file."""
        return self._replace(start=start, stop=stop, offset=self.offset + start - self.start)


class ChangeRun(NamedTuple):
    """Bytes `start` to `stop` of a source file, all of a piece, to be changed and then written.

    The piece begins at `row` of the output, and at `offset` of the shard.
    """

    file: str
    start: int
    stop: int
    shard: int
    offset: int
    output: Output
    piece: Piece
    row: int


class Whole(NamedTuple):
    """An output that is not made piece by piece: joined along a later axis, constant, decoded.

    Its bytes go to every one of its places, each a shard and an offset there: what is decoded is
    read and computed once for all copies that are equal.
    """

    places: tuple[tuple[int, int], ...]
    output: Output

    @property
    def nbytes(self) -> int:
        """Bytes of it in all places."""
        return self.output.nbytes * len(self.places)


class Job(NamedTuple):
    """Bytes `start` to `stop` of a source file, to be read once, and everything made of them."""

    file: str
    start: int
    stop: int
    copies: tuple[CopyRun, ...]
    changes: tuple[ChangeRun, ...] = ()


class Moves(NamedTuple):
    """Everything that fills the shards behind their headers."""

    copies: list[CopyRun]
    changes: list[ChangeRun]
    wholes: list[Whole]


def moves(
    shards: Iterable[Shard], checkpoint: Checkpoint, *, without: Collection[int] = ()
) -> Moves:
    """What is to be copied, changed and made, copies as long as they can be.

    The shards whose numbers are in `without` are left out.
    """
    copies: list[CopyRun] = []
    changes: list[ChangeRun] = []
    wholes: dict[object, Whole] = {}
    for number, shard in enumerate(shards):
        if number in without:
            continue
        for output, offset in shard.positions():
            if output.axis or not all(_goes_in_place(piece.op) for piece in output.pieces):
                # Noise follows the name; without it, equal pieces are equal bytes.
                is_drawn = any(noise_of(piece.op) for piece in output.pieces)
                key = output.name if is_drawn else output[1:]
                first = wholes.get(key, Whole((), output))
                wholes[key] = first._replace(places=(*first.places, (number, offset)))
                continue
            row = 0
            for piece in output.pieces:
                spec = checkpoint.tensors[piece.source]
                start, stop = piece_range(spec, piece)
                if start == stop:
                    pass
                elif piece.is_copy:
                    _append(copies, CopyRun(spec.file, start, stop, number, offset))
                else:
                    changes.append(
                        ChangeRun(spec.file, start, stop, number, offset, output, piece, row)
                    )
                offset += stop - start
                row += piece.stop - piece.start
    return Moves(copies, changes, [*wholes.values()])


def _goes_in_place(op: Op) -> bool:
    """Whether bytes of an output come from as many of its source, in pieces of any size."""
    match op:
        case Copy() | Perturb():
            return True
        case Fill() | Cast() | Dequantize() | Requantize() | Rescale() | Renumber():
            return False
        case _:
            assert_never(op)


def ranges(
    copies: Iterable[CopyRun], changes: Iterable[ChangeRun]
) -> Mapping[str, list[tuple[int, int]]]:
    """The bytes of each source file that some copies and changes read."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for copy in copies:
        found[copy.file].append((copy.start, copy.stop))
    for change in changes:
        found[change.file].append((change.start, change.stop))
    return found


def made_from(shards: Iterable[Shard], checkpoint: Checkpoint, file: str) -> frozenset[int]:
    """The numbers of the shards that hold bytes of a source file, or what was made of them."""
    inside = {name for name, spec in checkpoint.tensors.items() if spec.file == file}

    def reads(piece: Piece) -> bool:
        decoding = decoding_of(piece.op)
        companions = decoding.companions if decoding else ()
        return piece.source in inside or any(name in inside for _, name in companions)

    return frozenset(
        number
        for number, shard in enumerate(shards)
        if any(reads(piece) for output in shard.outputs for piece in output.pieces)
    )


def _append(copies: list[CopyRun], new: CopyRun) -> None:
    """Add a copy to a list, as a part of the last one where both sides go on there."""
    last = copies[-1] if copies else None
    if last and last._replace(start=last.stop, stop=new.stop, offset=last.end) == new:
        copies[-1] = last._replace(stop=new.stop)
    else:
        copies.append(new)


def jobs(
    copies: Iterable[CopyRun], changes: Iterable[ChangeRun], *, side_by_side: int = 1
) -> Iterator[Job]:
    """The jobs for some copies and changes, in the order of the source's files.

    Those of `side_by_side` files come in turns, so that as many threads seldom write to the same
    file, for which they would wait for each other.

    No byte is in two jobs unless changes overlap, or begin and end within each other's bytes.
    """
    copies_of: dict[str, list[CopyRun]] = defaultdict(list)
    changes_of: dict[str, dict[tuple[int, int], list[ChangeRun]]] = defaultdict(dict)
    for copy in copies:
        copies_of[copy.file].append(copy)
    for change in changes:
        changes_of[change.file].setdefault((change.start, change.stop), []).append(change)
    files = sorted(copies_of.keys() | changes_of.keys())
    for first in range(0, len(files), side_by_side):
        rows = (
            sorted(_jobs(file, copies_of[file], changes_of[file]), key=lambda job: job.start)
            for file in files[first : first + side_by_side]
        )
        for turn in zip_longest(*rows):
            yield from filter(None, turn)


def _jobs(
    file: str, copies: list[CopyRun], changes: dict[tuple[int, int], list[ChangeRun]]
) -> Iterator[Job]:
    """The jobs of one source file, in no order."""
    ranges = sorted(changes)
    shared: dict[tuple[int, int], list[CopyRun]] = defaultdict(list)
    apart: list[CopyRun] = []
    for copy in copies:
        position = copy.start
        for at in range(bisect_left(ranges, (copy.start, 0)), len(ranges)):
            start, stop = ranges[at]
            if start >= copy.stop:
                break
            if start < position or stop > copy.stop:
                continue
            if position < start:
                apart.append(copy.part(position, start))
            shared[start, stop].append(copy.part(start, stop))
            position = stop
        if position < copy.stop:
            apart.append(copy.part(position, copy.stop))
    for start, stop in ranges:
        together = tuple(changes[start, stop])
        yield Job(file, start, stop, tuple(shared[start, stop]), together)
    yield from _fans(file, apart)


def _fans(file: str, copies: list[CopyRun]) -> Iterator[Job]:
    """Jobs that only copy: every stretch of the file with all the copies that it goes to."""
    edges = sorted({edge for copy in copies for edge in (copy.start, copy.stop)})
    waiting = sorted(copies, key=lambda copy: -copy.start)
    active: list[CopyRun] = []
    for start, stop in pairwise(edges):
        active = [copy for copy in active if copy.stop > start]
        while waiting and waiting[-1].start == start:
            active.append(waiting.pop())
        if active:
            for first in range(start, stop, LONGEST):
                last = min(stop, first + LONGEST)
                yield Job(file, first, last, tuple(copy.part(first, last) for copy in active))
