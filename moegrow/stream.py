"""The bytes of an output tensor, computed from its source block after block."""

import math
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from moegrow.checkpoint import Checkpoint
from moegrow.errors import MoegrowError
from moegrow.header import TensorSpec, nbytes
from moegrow.noise import Draw, Floats, deviation
from moegrow.plans import Output, Piece

BLOCK = 1 << 20  # elements computed at a time
READ = 8 << 20  # bytes read at a time where nothing is computed

_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
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

    def spec(self, name: str) -> TensorSpec:
        """What the headers say of a tensor."""
        return self._checkpoint.tensors[name]

    def file(self, name: str) -> int:
        """The open file that holds a tensor, as a descriptor."""
        file = self.spec(name).file
        if file not in self._open:
            path = self._checkpoint.folder / file
            self._open[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[file]

    def read(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        """The bytes of a tensor's file from `start` to `stop`, exactly `size` at a time."""
        descriptor = self.file(name)
        while start < stop:
            block = b""
            # Network filesystems may answer with less than was asked for.
            while len(block) < (wanted := min(size, stop - start)):
                more = os.pread(descriptor, wanted - len(block), start + len(block))
                if not more:
                    raise self.cut_short(name)
                block = block + more if block else more
            yield block
            start += len(block)

    def cut_short(self, name: str) -> MoegrowError:
        """The error for a source file that has become shorter than its header says."""
        return MoegrowError(
            f"{self._checkpoint.folder / self.spec(name).file} ends before the end of {name}",
            "it was changed while it was read; nothing was published",
        )


class Segment(NamedTuple):
    """Some consecutive bytes of an output.

    Where they are a copy, `copy` says of which tensor and which bytes of its file; `blocks` are
    the bytes themselves in any case. `is_drawn` tells whether there is noise in them.
    """

    blocks: Iterator[bytes]
    copy: tuple[str, int, int] | None = None
    is_drawn: bool = False


def blocks(source: Source, output: Output) -> Iterator[bytes]:
    """The bytes of an output in order, a bounded number at a time."""
    for segment in segments(source, output):
        yield from segment.blocks


def segments(source: Source, output: Output) -> Iterator[Segment]:
    """The bytes of an output in order, in segments that are copies or computed."""
    if output.axis:
        is_drawn = any(piece.noise for piece in output.pieces)
        yield Segment(_joined(source, output), None, is_drawn)
        return
    first = 0
    for piece in output.pieces:
        spec = source.spec(piece.source)
        row = nbytes(spec.dtype, spec.shape[1:])
        start, stop = spec.start + piece.start * row, spec.start + piece.stop * row
        if piece.is_copy:
            copied = source.read(piece.source, start, stop, READ)
            yield Segment(copied, (piece.source, start, stop))
        elif not piece.scale:
            yield Segment(_constant(output.dtype, piece, stop - start))
        else:
            width = nbytes(output.dtype, (1,))

            def read(
                name: str = piece.source, start: int = start, stop: int = stop, width: int = width
            ) -> Iterator[Floats]:
                return (
                    _numbers(block, output.dtype)
                    for block in source.read(name, start, stop, BLOCK * width)
                )

            computed = (
                _stored(values, output.dtype) for values in _computed(output, piece, first, read)
            )
            yield Segment(computed, None, bool(piece.noise))
        first += piece.stop - piece.start


def _joined(source: Source, output: Output) -> Iterator[bytes]:
    """An output whose pieces are joined along a later axis, some rows of all pieces at a time."""
    outer = math.prod(output.shape[: output.axis])
    inner = math.prod(output.shape[output.axis + 1 :])
    widest = max(source.spec(piece.source).shape[output.axis] for piece in output.pieces)
    step = max(1, BLOCK // max(1, inner * max(widest, output.rows)))

    def reader(piece: Piece) -> Callable[[], Iterator[Floats]]:
        def columns() -> Iterator[Floats]:
            spec = source.spec(piece.source)
            row = nbytes(spec.dtype, spec.shape[output.axis :])
            rows = source.read(piece.source, spec.start, spec.start + outer * row, step * row)
            for block in rows:
                values = _numbers(block, output.dtype).reshape(-1, spec.shape[output.axis], inner)
                yield values[:, piece.start : piece.stop]

        return columns

    first = 0
    parts = []
    for piece in output.pieces:
        parts.append(_computed(output, piece, first, reader(piece)))
        first += piece.stop - piece.start
    for together in zip(*parts, strict=True):
        yield _stored(np.concatenate(together, axis=1), output.dtype)


def _constant(dtype: str, piece: Piece, count: int) -> Iterator[bytes]:
    """`count` bytes of a piece whose values are all its shift."""
    if not piece.shift:
        empty = bytes(min(count, READ))
    else:
        number = _stored(np.full(1, float(piece.shift), np.float64).astype(_exact(dtype)), dtype)
        empty = number * (min(count, READ) // len(number))
    while count:
        yield empty[:count]
        count -= min(count, len(empty))


def _computed(
    output: Output, piece: Piece, row: int, read: Callable[[], Iterator[Floats]]
) -> Iterator[Floats]:
    """The values of a piece: ``(x + α·σ·ε) · scale + shift``.

    Sums and products are separate float32 operations (float64 for F64), so no platform fuses
    them; what is stored is rounded once more, to nearest even, to the storage type.
    """
    exact = _exact(output.dtype)
    amount, draw = exact(0), None
    if piece.noise:
        draw = Draw(piece.noise, output.name, row)
        sigma = deviation(read()) if piece.noise.kind == "normal" else 1.0
        if not math.isfinite(sigma):
            raise MoegrowError(
                f"{piece.source} holds NaN or infinity, so noise relative to it means nothing",
                "look at the source first; --noise 0 copies it as it is",
            )
        amount = exact(piece.noise.amount * sigma)
    start = 0
    for values in read():
        if draw is not None and amount:
            noise = draw.values(start, values.size).reshape(values.shape)
            values = values + noise.astype(exact) * amount
        start += values.size
        yield _scaled(values, piece)


def _scaled(values: Floats, piece: Piece) -> Floats:
    """Values times a fraction plus another; 1/m is one division, so it is rounded once."""
    number = values.dtype.type
    if piece.scale.numerator != 1:
        values = values * number(piece.scale.numerator)
    if piece.scale.denominator != 1:
        values = values / number(piece.scale.denominator)
    if piece.shift:
        values = values + number(float(piece.shift))
    return values


def _exact(dtype: str) -> Any:
    """The type that a dtype's values are computed in."""
    if dtype.startswith("I"):
        return np.int64
    return np.float64 if dtype == "F64" else np.float32


def _numbers(block: bytes, dtype: str) -> Floats:
    """Stored bytes as the type they are computed in."""
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        wide = np.frombuffer(block, "<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    values: Floats = np.frombuffer(block, _STORED[dtype])
    return values.astype(_exact(dtype))


def _stored(values: Floats, dtype: str) -> bytes:
    """Values rounded to nearest even in the storage type, as bytes."""
    if dtype == "BF16":
        import torch

        rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
        values = rounded.view(torch.int16).numpy().astype("<i2", copy=False)
    else:
        values = values.astype(_STORED[dtype])
    return values.tobytes()
