"""The bytes of an output tensor, in order, from those of its source."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from moegrow.errors import MoegrowError
from moegrow.formats import decoders, exactly
from moegrow.formats.decoding import EXACT
from moegrow.ground.ranges import read_all
from moegrow.numbers import arithmetic, rounding, straight
from moegrow.numbers.arithmetic import Bytes, Change, Scratch
from moegrow.numbers.conversion import Conversion
from moegrow.numbers.noise import CHUNK, Draw
from moegrow.plans import Output, Piece
from moegrow.source.checkpoint import Checkpoint
from moegrow.source.header import TensorSpec, nbytes

READ = 8 << 20  # bytes read at a time
KEPT = 32 << 20  # bytes fetched from far away that each thread keeps


class Source:
    """The files of a checkpoint, opened as they are needed and closed together."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        self._kept = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def spec(self, name: str) -> TensorSpec:
        """What the headers say of a tensor."""
        return self._checkpoint.tensors[name]

    def file(self, name: str) -> int | None:
        """The open file of a name, as a descriptor, or None where it is not on this machine."""
        with self._lock:
            if name not in self._open:
                descriptor = self._opened(name)
                if descriptor is None:
                    return None
                self._open[name] = descriptor
            return self._open[name]

    def _opened(self, name: str) -> int | None:
        descriptor = self._checkpoint.origin.open(name)
        if descriptor is None:
            return None
        expected = next(file.size for file in self._checkpoint.files if file.name == name)
        found = os.fstat(descriptor).st_size
        if found != expected:
            os.close(descriptor)
            raise MoegrowError(
                f"{self._checkpoint.location}/{name} had {expected} bytes and has {found}",
                "it was changed while it was read; nothing was published",
            )
        return descriptor

    def read_into(self, file: str, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes of a file from `start` on."""
        descriptor = self.file(file)
        try:
            if descriptor is None:
                self._checkpoint.origin.read_into(file, start, view)
            else:
                read_all(descriptor, start, view)
        except EOFError as end:
            raise self.cut_short(file, end.args[0]) from None
        except OSError as error:
            path = f"{self._checkpoint.location}/{file}"
            raise OSError(error.errno, error.strerror, path) from error

    def read(self, file: str, start: int, stop: int, size: int) -> Iterator[Bytes]:
        """The bytes of a file from `start` to `stop`, exactly `size` at a time.

        Each block is valid until the next is asked for.
        """
        if self.file(file) is None:
            yield from self._fetched(file, start, stop, size)
            return
        buffer = np.empty(min(size, stop - start), np.uint8)
        while start < stop:
            block = buffer[: min(size, stop - start)]
            self.read_into(file, start, block.data)
            yield block
            start += block.size

    def _fetched(self, file: str, start: int, stop: int, size: int) -> Iterator[Bytes]:
        """As `read`, from far away: what this thread has fetched last is not fetched again.

        So the pieces that are joined side by side, which take turns at the same bytes, and σ,
        which needs a piece before it is changed, cost no more than one request.
        """
        step = max(READ // max(size, 1), 1) * max(size, 1)
        kept = self._kept.__dict__.setdefault("blocks", {})
        for first in range(start, stop, step):
            key = file, first, min(stop, first + step)
            block = kept.pop(key, None)
            if block is None:
                block = np.empty(key[2] - first, np.uint8)
                self.read_into(file, first, block.data)
                block.flags.writeable = False
            kept[key] = block  # the last to be let go
            while len(kept) > 1 and sum(other.size for other in kept.values()) > KEPT:
                del kept[next(iter(kept))]
            for at in range(0, block.size, size):
                yield block[at : at + size]

    def decoded(self, piece: Piece) -> Iterator[Bytes]:
        """The numbers of a piece that is decoded, as bytes of float32, or float64 if they are that.

        Each block is valid until the next is asked for.
        """
        assert piece.decoding is not None
        rows = piece.start, piece.stop
        tensors, read = self._checkpoint.tensors, self._read_part
        for block in decoders.decoded(tensors[piece.source], piece.decoding, tensors, read, rows):
            yield block.view(np.uint8)

    def straight(self, piece: Piece, scratch: Scratch) -> Iterator[Bytes] | None:
        """The same numbers rounded to bf16 at once, or None where there is no loop that does it."""
        loops = straight.loops(scratch)
        if loops is None or piece.decoding is None:
            return None
        tensors = self._checkpoint.tensors
        spec, rows = tensors[piece.source], (piece.start, piece.stop)
        return straight.weights(loops, spec, piece.decoding, tensors, self._read_part, rows)

    def _read_part(self, spec: TensorSpec, start: int, stop: int) -> Bytes:
        """Bytes `start` to `stop` of a tensor."""
        found = np.empty(stop - start, np.uint8)
        self.read_into(spec.file, spec.start + start, found.data)
        return found

    def cut_short(self, file: str, position: int) -> MoegrowError:
        """The error for a file that has become shorter than its header says."""
        specs = self._checkpoint.tensors.values()
        name = next(spec.name for spec in specs if spec.file == file and spec.stop > position)
        return MoegrowError(
            f"{self._checkpoint.location}/{file} ends before the end of {name}",
            "it was changed while it was read; nothing was published",
        )


class Segment(NamedTuple):
    """Some consecutive bytes of an output, whether there is noise in them, and whether they are
    what stored ones stand for, or these times a power of two."""

    blocks: Iterator[Bytes]
    is_drawn: bool = False
    is_decoded: bool = False


def blocks(source: Source, output: Output, scratch: Scratch) -> Iterator[Bytes]:
    """The bytes of an output in order, a bounded number at a time.

    Each block is valid until the next is asked for.
    """
    for segment in segments(source, output, scratch):
        yield from segment.blocks


def segments(source: Source, output: Output, scratch: Scratch) -> Iterator[Segment]:
    """The bytes of an output in order, piece by piece; joined ones all together."""
    if output.axis:
        is_drawn = any(piece.noise for piece in output.pieces)
        is_decoded = any(piece.decoding for piece in output.pieces)
        yield Segment(_joined(source, output, scratch), is_drawn, is_decoded)
        return
    row = 0
    for piece in output.pieces:
        size = (piece.stop - piece.start) * nbytes(output.dtype, output.shape[1:])
        start, _ = piece_range(source.spec(piece.source), piece)
        file, stop = source.spec(piece.source).file, start + size
        if piece.decoding == EXACT:
            stored = source.read(file, start, stop, READ)
            multiplied = map(partial(_multiplied, output, piece.scale), stored)
            made = multiplied if piece.scale else constant(output.dtype, piece, size)
            yield Segment(made, is_decoded=True)
        elif piece.decoding and piece.scale:
            made = _decoded(source, output, piece, row, scratch)
            yield Segment(made, piece.noise is not None, True)
        elif piece.is_copy:
            yield Segment(source.read(file, start, stop, READ))
        elif not piece.scale:
            yield Segment(constant(output.dtype, piece, size))
        else:
            yield Segment(_changed(source, output, piece, row, scratch), piece.noise is not None)
        row += piece.stop - piece.start


def _multiplied(output: Output, factor: Fraction, stored: Bytes) -> Bytes:
    return exactly.multiplied(output.name, stored, output.dtype, factor)


def piece_range(spec: TensorSpec, piece: Piece) -> tuple[int, int]:
    """Where the rows of a piece lie in the source's file: the first byte, and that behind."""
    row = nbytes(spec.dtype, spec.shape[1:])
    return spec.start + piece.start * row, spec.start + piece.stop * row


def constant(dtype: str, piece: Piece, count: int) -> Iterator[Bytes]:
    """`count` bytes of a piece of scale 0, whose values are all its shift."""
    if not count:
        return
    block = np.zeros(min(count, READ), np.uint8)
    if piece.shift:
        # Like any other value that is scaled by 0 and shifted.
        Change(dtype, piece, None, 0.0, Scratch()).apply(block.copy(), 0, block)
    while count:
        yield block[:count]
        count -= min(count, block.size)


def change(output: Output, piece: Piece, row: int, deviation: float, scratch: Scratch) -> Change:
    """What a piece that begins at `row` of its output does to its values.

    `deviation` is what `sigma` says of the piece; where it is 0, the output is noted as still.
    """
    draw, amount = None, 0.0
    if piece.noise:
        draw = Draw(piece.noise, output.name, row)
        amount = piece.noise.amount * deviation
        if not deviation:
            scratch.still.add(output.name)
    return Change(output.dtype, piece, draw, amount, scratch)


def is_relative(piece: Piece) -> bool:
    """Whether noise in a piece is relative to the deviation of its values."""
    return piece.noise is not None and piece.noise.kind != "uniform"


def sigma(piece: Piece, dtype: str, read: Callable[[], Iterator[Bytes]], scratch: Scratch) -> float:
    """The deviation that noise in a piece is relative to: 1 where it is relative to nothing.


    `read` gives the blocks of the piece, anew each time that it is called, each of a multiple of
    CHUNK values but the last. Raises MoegrowError where the values have no deviation.
    """
    if not piece.noise or not is_relative(piece):
        return 1.0
    found = arithmetic.deviation(read(), dtype, scratch)
    if not math.isfinite(found) and piece.noise.kind == "finite":
        found = arithmetic.deviation_of_finite(read(), dtype, scratch)
    if not math.isfinite(found):
        raise MoegrowError(
            f"{piece.source} holds NaN, infinity or values beyond 1e18, so noise relative to"
            " their deviation means nothing",
            "moegrow inspect --values shows where; --allow-nonfinite takes the sigma of the others"
            " and leaves those as they are, --noise 0 copies all as it is",
        )
    return found


def _changed(
    source: Source, output: Output, piece: Piece, row: int, scratch: Scratch
) -> Iterator[Bytes]:
    """The bytes of a piece that is no copy."""
    spec = source.spec(piece.source)
    start, stop = piece_range(spec, piece)
    width = nbytes(spec.dtype, (1,))
    chunk = CHUNK * width

    def stored() -> Iterator[Bytes]:
        return source.read(spec.file, start, stop, max(1, READ // chunk) * chunk)

    deviation = sigma(piece, spec.dtype, stored, scratch)
    made = change(output, piece, row, deviation, scratch)
    first = 0
    for block in stored():
        new = np.empty_like(block)
        made.apply(block, first, new)
        rounding.note(scratch, output.name, made, first, block, new)
        first += block.size // width
        yield new


def _decoded(
    source: Source, output: Output, piece: Piece, row: int, scratch: Scratch
) -> Iterator[Bytes]:
    """The bytes of a piece whose values are decoded: changed as numbers, and rounded once."""
    kind = "F64" if source.spec(piece.source).dtype == "F64" else "F32"
    width = nbytes(kind, (1,))

    def values() -> Iterator[Bytes]:
        return rechunked(source.decoded(piece), READ // (CHUNK * width) * CHUNK * width)

    deviation = sigma(piece, kind, values, scratch)
    made = change(output._replace(dtype=kind), piece, row, deviation, scratch)
    converted = Conversion(output.name, kind, output.dtype, scratch)
    is_changed = not piece._replace(decoding=None).is_copy
    if not is_changed and output.dtype == "BF16":
        made_straight = source.straight(piece, scratch)
        if made_straight is not None:
            yield from made_straight
            return
    first = 0
    for block in values() if is_changed else source.decoded(piece):
        new = np.empty_like(block) if is_changed else block
        if is_changed:
            made.apply(block, first, new)
        stored = converted.stored(new)
        if piece.noise and not first:
            told = change(output, piece, row, deviation, scratch)
            rounding.note(scratch, output.name, told, 0, converted.stored(block), stored)
        first += block.size // width
        yield stored


def _joined(source: Source, output: Output, scratch: Scratch) -> Iterator[Bytes]:
    """An output whose pieces are joined along a later axis, some rows of all pieces at a time."""
    outer, later = (
        math.prod(output.shape[: output.axis]),
        math.prod(output.shape[output.axis + 1 :]),
    )
    # Pieces that are decoded are joined as numbers, and rounded at last.
    stored = source.spec(output.pieces[0].source).dtype
    is_decoded = output.pieces[0].decoding is not None
    kind = ("F64" if stored == "F64" else "F32") if is_decoded else output.dtype
    converted = Conversion(output.name, kind, output.dtype, scratch) if is_decoded else None
    width, inner = nbytes(kind, (1,)), later * nbytes(stored, (1,))
    widest = max(source.spec(piece.source).shape[output.axis] for piece in output.pieces)
    step = max(1, READ // max(1, inner * max(widest, output.rows)))

    def columns(piece: Piece) -> Iterator[Bytes]:
        spec = source.spec(piece.source)
        row = spec.shape[output.axis] * inner
        for block in source.read(spec.file, spec.start, spec.start + outer * row, step * row):
            rows = block.reshape(-1, row)[:, piece.start * inner : piece.stop * inner]
            rows = np.ascontiguousarray(rows)
            if is_decoded:
                found = decoders.numbers(rows.ravel(), stored).view(np.uint8)
                rows = found.reshape(len(rows), -1)
            yield rows

    def part(piece: Piece, first: int) -> Iterator[Bytes]:
        if piece._replace(decoding=None).is_copy:
            yield from columns(piece)
            return

        def values() -> Iterator[Bytes]:
            return rechunked((block.ravel() for block in columns(piece)), CHUNK * width)

        deviation = sigma(piece, kind, values, scratch)
        made = change(output._replace(dtype=kind), piece, first, deviation, scratch)
        done = 0
        for block in columns(piece):
            new = np.empty_like(block)
            made.apply(block.ravel(), done, new.ravel())
            rounding.note(scratch, output.name, made, done, block.ravel(), new.ravel())
            done += block.size // width
            yield new

    first = 0
    parts = []
    for piece in output.pieces:
        parts.append(part(piece, first))
        first += piece.stop - piece.start
    for together in zip(*parts, strict=True):
        joined = np.concatenate(together, axis=1).ravel()
        yield converted.stored(joined) if converted else joined


def rechunked(blocks: Iterator[Bytes], size: int) -> Iterator[Bytes]:
    """The same bytes, exactly `size` at a time but for the last."""
    rest = np.zeros(0, np.uint8)
    for block in blocks:
        rest = np.concatenate([rest, block]) if rest.size else block
        while rest.size >= size:
            yield rest[:size]
            rest = rest[size:]
        # The block is not valid any more when the next has come.
        rest = rest.copy()
    if rest.size:
        yield rest
