"""The bytes of an output tensor, computed from its source block after block."""

import os
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import numpy as np

from moegrow.checkpoint import Checkpoint
from moegrow.errors import MoegrowError
from moegrow.header import nbytes
from moegrow.noise import Draw, Floats, deviation
from moegrow.plans import Output, Piece

BLOCK = 1 << 20  # elements computed at a time, a multiple of 4096
READ = 8 << 20  # bytes read at a time where nothing is computed

_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}


class Source:
    """The files of a checkpoint, opened as they are needed and closed together."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def locate(self, piece: Piece) -> tuple[int, int, int]:
        """File descriptor, position and number of bytes of a piece's rows."""
        spec = self._checkpoint.tensors[piece.source]
        row = nbytes(spec.dtype, spec.shape[1:])
        if spec.file not in self._open:
            path = self._checkpoint.folder / spec.file
            self._open[spec.file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        start = spec.start + piece.start * row
        return self._open[spec.file], start, (piece.stop - piece.start) * row

    def cut_short(self, piece: Piece) -> MoegrowError:
        """The error for a source file that has become shorter than its header says."""
        path = self._checkpoint.folder / self._checkpoint.tensors[piece.source].file
        return MoegrowError(
            f"{path} ends before the end of {piece.source}",
            "it was changed while it was read; nothing was published",
        )


def blocks(source: Source, output: Output) -> Iterator[bytes]:
    """The bytes of an output in order, a bounded number at a time."""
    row = 0
    for piece in output.pieces:
        yield from piece_blocks(source, output, piece, row)
        row += piece.stop - piece.start


def piece_blocks(source: Source, output: Output, piece: Piece, row: int) -> Iterator[bytes]:
    """The bytes of one piece of an output, which begins at the output's row `row`."""
    if piece.scale == 0:
        return _zeros(source, piece)
    if piece.is_copy:
        return _read(source, piece, READ)
    return _computed(source, output, piece, row)


def _zeros(source: Source, piece: Piece) -> Iterator[bytes]:
    _, _, left = source.locate(piece)
    empty = bytes(min(left, READ))
    while left:
        yield empty[:left]
        left -= min(left, READ)


def _read(source: Source, piece: Piece, size: int) -> Iterator[bytes]:
    """The piece's bytes as they stand in the source, `size` at a time."""
    descriptor, start, count = source.locate(piece)
    end = start + count
    while start < end:
        block = b""
        # Network filesystems may answer with less than was asked for.
        while len(block) < min(size, end - start):
            more = os.pread(descriptor, min(size, end - start) - len(block), start + len(block))
            if not more:
                raise source.cut_short(piece)
            block = block + more if block else more
        yield block
        start += len(block)


def _computed(source: Source, output: Output, piece: Piece, row: int) -> Iterator[bytes]:
    """The piece's bytes with noise and scale: ``round((x + α·σ·ε) · scale)``.

    Sums and products are separate float32 operations (float64 for F64), so no platform fuses
    them, and the result is rounded once, to nearest even, to the storage type.
    """
    dtype = output.dtype
    width = nbytes(dtype, (1,))
    exact: type[np.floating[Any]] = np.float64 if dtype == "F64" else np.float32
    amount, draw = exact(0), None
    if piece.noise:
        draw = Draw(piece.noise, output.name, row)
        sigma = 1.0
        if piece.noise.kind == "normal":
            sigma = deviation(
                _floats(block, dtype) for block in _read(source, piece, BLOCK * width)
            )
        amount = exact(piece.noise.amount * sigma)
    start = 0
    for block in _read(source, piece, BLOCK * width):
        values = _floats(block, dtype)
        if draw is not None and amount:
            values = values + draw.values(start, values.size).astype(exact) * amount
        yield _stored(_scaled(values, piece.scale), dtype)
        start += values.size


def _scaled(values: Floats, scale: Fraction) -> Floats:
    """Values times a fraction; 1/m is one division, so it is rounded once."""
    if scale.numerator != 1:
        values = values * values.dtype.type(scale.numerator)
    if scale.denominator != 1:
        values = values / values.dtype.type(scale.denominator)
    return values


def _floats(block: bytes, dtype: str) -> Floats:
    """Stored bytes as float32, or float64 for F64."""
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        wide = np.frombuffer(block, "<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    values: Floats = np.frombuffer(block, _STORED[dtype])
    return values.astype(np.float64 if dtype == "F64" else np.float32)


def _stored(values: Floats, dtype: str) -> bytes:
    """Values rounded to nearest even in the storage type, as bytes."""
    if dtype == "BF16":
        import torch

        rounded = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16)
        values = rounded.numpy().astype("<i2", copy=False)
    else:
        values = values.astype(_STORED[dtype])
    return values.tobytes()
