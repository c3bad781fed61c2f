"""Compute the bytes of an output tensor in order."""

import math
from collections.abc import Iterator
from typing import NamedTuple, assert_never

import numpy as np

from moegrow.checkpoint.header import nbytes
from moegrow.kernels import cast, measure_noise
from moegrow.kernels.cast import Conversion
from moegrow.kernels.changes import change, constant, side, sigma
from moegrow.kernels.noise import CHUNK, Draw
from moegrow.kernels.perturb import Bytes, Change, Workspace
from moegrow.kernels.reader import READ, SourceReader, piece_range, rechunked
from moegrow.planning.op import (
    UNCHANGED,
    Cast,
    Copy,
    Dequantize,
    Fill,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    change_of,
    decoding_of,
    noise_of,
)
from moegrow.planning.plan import Output, Piece
from moegrow.quant import rescale, unpack
from moegrow.quant.decoding import AS_IT_IS, EXACT, Decoding
from moegrow.quant.stochastic_rounding import Floats, Levels


class Segment(NamedTuple):
    """Some consecutive bytes of an output, whether there is noise in them, and whether they are
    what stored ones stand for, or these times a power of two."""

    blocks: Iterator[Bytes]
    is_drawn: bool = False
    is_decoded: bool = False


def blocks(source: SourceReader, output: Output, workspace: Workspace) -> Iterator[Bytes]:
    """The bytes of an output in order, a bounded number at a time.

    Each block is valid until the next is asked for.
    """
    for segment in segments(source, output, workspace):
        yield from segment.blocks


def segments(source: SourceReader, output: Output, workspace: Workspace) -> Iterator[Segment]:
    """The bytes of an output in order, piece by piece; joined ones all together."""
    if output.axis:
        is_drawn = any(noise_of(piece.op) for piece in output.pieces)
        is_decoded = any(decoding_of(piece.op) for piece in output.pieces)
        yield Segment(_joined(source, output, workspace), is_drawn, is_decoded)
        return
    row = 0
    for piece in output.pieces:
        yield _segment(source, output, piece, row, workspace)
        row += piece.stop - piece.start


def _segment(
    source: SourceReader, output: Output, piece: Piece, row: int, workspace: Workspace
) -> Segment:
    """The bytes of a piece that begins at `row` of its output."""
    match piece.op:
        case Copy():
            return Segment(_stored(source, piece))
        case Fill(decoding=decoding) as fill:
            size = (piece.stop - piece.start) * nbytes(output.dtype, output.shape[1:])
            return Segment(constant(output.dtype, fill, size), is_decoded=decoding == EXACT)
        case Rescale(factor):
            multiplied = (
                rescale.multiplied(output.name, block, output.dtype, factor)
                for block in _stored(source, piece)
            )
            return Segment(multiplied, is_decoded=True)
        case Requantize(decoding):
            return Segment(_remade(source, output, piece, decoding, row, workspace), True)
        case Cast(change) | Dequantize(change=change):
            decoding = decoding_of(piece.op) or AS_IT_IS
            made = _decoded(source, output, piece, decoding, row, workspace)
            return Segment(made, change.noise is not None, True)
        case Perturb(noise):
            return Segment(_changed(source, output, piece, row, workspace), noise is not None)
        case Renumber():
            return Segment(_changed(source, output, piece, row, workspace))
        case _:
            assert_never(piece.op)


def _stored(source: SourceReader, piece: Piece) -> Iterator[Bytes]:
    """The rows of a piece as they are stored."""
    spec = source.spec(piece.source)
    return source.read(spec.file, *piece_range(spec, piece), READ)


def is_rounded(source: SourceReader, output: Output) -> bool:
    """Whether some of an output is decoded and rounded by loops, which can be compiled ones."""
    return output.dtype in ("BF16", "F16") and any(
        isinstance(piece.op, Cast | Dequantize) and not _is_looked_up(source, output, piece)
        for piece in output.pieces
    )


def _is_looked_up(source: SourceReader, output: Output, piece: Piece) -> bool:
    """Whether a piece is nothing but decoded, and that by looking each number up."""
    return piece.op == Cast() and cast.is_known(source.spec(piece.source).dtype, output.dtype)


def _changed(
    source: SourceReader, output: Output, piece: Piece, row: int, workspace: Workspace
) -> Iterator[Bytes]:
    """The bytes of a piece that is no copy."""
    spec = source.spec(piece.source)
    start, stop = piece_range(spec, piece)
    width = nbytes(spec.dtype, (1,))
    chunk = CHUNK * width

    def stored() -> Iterator[Bytes]:
        return source.read(spec.file, start, stop, max(1, READ // chunk) * chunk)

    deviation = sigma(piece, spec.dtype, stored, workspace)
    made = change(output, piece, row, deviation, workspace)
    first = 0
    for block in stored():
        new = np.empty_like(block)
        made.apply(block, first, new)
        measure_noise.note(workspace, output.name, made, first, block, new)
        first += block.size // width
        yield new


def _decoded(
    source: SourceReader,
    output: Output,
    piece: Piece,
    decoding: Decoding,
    row: int,
    workspace: Workspace,
) -> Iterator[Bytes]:
    """The bytes of a piece whose values are decoded: changed as numbers, and rounded once."""
    is_changed = change_of(piece.op) != UNCHANGED
    made_straight = None if is_changed else _straight(source, output, piece, decoding, workspace)
    if made_straight is not None:
        yield from made_straight
        return
    kind = "F64" if source.spec(piece.source).dtype == "F64" else "F32"
    width = nbytes(kind, (1,))

    def values() -> Iterator[Bytes]:
        return rechunked(source.decoded(piece, decoding), READ // (CHUNK * width) * CHUNK * width)

    deviation = sigma(piece, kind, values, workspace)
    made = change(output._replace(dtype=kind), piece, row, deviation, workspace)
    converted = Conversion(output.name, kind, output.dtype, workspace)
    drawn_side = side(output, piece, row)
    first = 0
    for block in values() if is_changed else source.decoded(piece, decoding):
        new = np.empty_like(block) if is_changed else block
        if is_changed:
            made.apply(block, first, new)
        stored = converted.stored(new, drawn_side, first)
        if noise_of(piece.op) and not first:
            told = change(output, piece, row, deviation, workspace)
            measure_noise.note(workspace, output.name, told, 0, converted.stored(block), stored)
        first += block.size // width
        yield stored


def _straight(
    source: SourceReader, output: Output, piece: Piece, decoding: Decoding, workspace: Workspace
) -> Iterator[Bytes] | None:
    """The same bytes with no numbers kept between, or None where that is not possible."""
    if _is_looked_up(source, output, piece):
        old = source.spec(piece.source).dtype
        blocks = _stored(source, piece)
        return (cast.looked_up(output.name, block, old, output.dtype) for block in blocks)
    return source.straight(piece, decoding, workspace) if output.dtype == "BF16" else None


class _Making:
    """What a change makes of the numbers of a piece that stays quantised, which is noted."""

    def __init__(self, made: Change, drawn_side: Draw, name: str, workspace: Workspace) -> None:
        self._made = made
        self._side = drawn_side
        self._name = name
        self._workspace = workspace

    def numbers(self, old: Floats, start: int) -> Floats:
        new = np.empty_like(old)
        self._made.apply(old.view(np.uint8), start, new.view(np.uint8))
        return new

    def levels(self, start: int, count: int) -> Levels:
        return self._side.levels(start, count)

    def made(self, old: Floats, new: Floats, start: int) -> None:
        stored = old.view(np.uint8), new.view(np.uint8)
        measure_noise.note(self._workspace, self._name, self._made, start, *stored)


def _remade(
    source: SourceReader,
    output: Output,
    piece: Piece,
    decoding: Decoding,
    row: int,
    workspace: Workspace,
) -> Iterator[Bytes]:
    """The bytes of a piece that stays quantised: changed as numbers, and put back on its grid."""
    drawn_side = side(output, piece, row)
    assert drawn_side is not None
    start, stop = source.decoded_rows(piece, decoding)
    read = source.reading(piece)

    def values() -> Iterator[Bytes]:
        blocks = source.decoded(piece._replace(start=start, stop=stop), decoding, read)
        return rechunked(blocks, READ // (CHUNK * 4) * CHUNK * 4)

    deviation = sigma(piece, "F32", values, workspace)
    made = change(output._replace(dtype="F32"), piece, row, deviation, workspace)
    making = _Making(made, drawn_side, output.name, workspace)
    yield from source.remade(piece, decoding, read, making)


def _joined(source: SourceReader, output: Output, workspace: Workspace) -> Iterator[Bytes]:
    """An output whose pieces are joined along a later axis, some rows of all pieces at a time."""
    outer, later = (
        math.prod(output.shape[: output.axis]),
        math.prod(output.shape[output.axis + 1 :]),
    )
    # Pieces that are decoded are changed as numbers, and rounded at last.
    stored = source.spec(output.pieces[0].source).dtype
    is_decoded = decoding_of(output.pieces[0].op) is not None
    kind = ("F64" if stored == "F64" else "F32") if is_decoded else output.dtype
    converted = Conversion(output.name, kind, output.dtype, workspace) if is_decoded else None
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
                found = unpack.numbers(rows.ravel(), stored).view(np.uint8)
                rows = found.reshape(len(rows), -1)
            yield rows

    def finished(rows: Bytes, drawn_side: Draw | None = None, start: int = 0) -> Bytes:
        if converted is None:
            return rows
        return converted.stored(rows.ravel(), drawn_side, start).reshape(len(rows), -1)

    def part(piece: Piece, first: int) -> Iterator[Bytes]:
        if change_of(piece.op) == UNCHANGED:
            yield from map(finished, columns(piece))
            return

        def values() -> Iterator[Bytes]:
            return rechunked((block.ravel() for block in columns(piece)), CHUNK * width)

        deviation = sigma(piece, kind, values, workspace)
        made = change(output._replace(dtype=kind), piece, first, deviation, workspace)
        drawn_side = side(output, piece, first)
        done = 0
        for block in columns(piece):
            new = np.empty_like(block)
            made.apply(block.ravel(), done, new.ravel())
            measure_noise.note(workspace, output.name, made, done, block.ravel(), new.ravel())
            yield finished(new, drawn_side, done)
            done += block.size // width

    first = 0
    parts = []
    for piece in output.pieces:
        parts.append(part(piece, first))
        first += piece.stop - piece.start
    for together in zip(*parts, strict=True):
        yield np.concatenate(together, axis=1).ravel()
