"""Read the files of a source in chunks, opened on first use, dequantized on request."""

import os
import threading
from collections.abc import Iterator
from typing import Self

import numpy as np

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.checksums import Begun, Ordered
from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.errors import MoegrowError
from moegrow.files.byte_ranges import read_all
from moegrow.kernels.perturb import Bytes, Workspace, code_loops
from moegrow.planning.plan import Piece
from moegrow.quant.codec import Making
from moegrow.quant.decoding import Decoding
from moegrow.quant.find_codec import find_codec, find_decoder
from moegrow.quant.unpack import Read

READ = 8 << 20  # bytes read at a time
KEPT = 32 << 20  # bytes fetched from far away that each thread keeps


class SourceReader:
    """The files of a checkpoint, opened as they are needed and closed together."""

    def __init__(self, checkpoint: Checkpoint, ordered: Ordered | None = None) -> None:
        """What comes from far away is held against `ordered`, the sums of its files."""
        self._checkpoint = checkpoint
        self._ordered = ordered
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
        descriptor = self._checkpoint.store.open(name)
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
                self._checkpoint.store.read_into(file, start, view)
                if self._ordered:
                    self._ordered.take(file, start, view)
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

    def decoded(
        self, piece: Piece, decoding: Decoding, read: Read | None = None
    ) -> Iterator[Bytes]:
        """The decoded numbers of a piece, as bytes of float32, or float64 if they are that.

        Each block is valid until the next is asked for. `read` is what reads bytes of tensors.
        """
        rows = piece.start, piece.stop
        codec = find_decoder(self.spec(piece.source), decoding, self._checkpoint.tensors)
        for block in codec.dequantize(read or self._read_part, rows):
            yield block.view(np.uint8)

    def remade(
        self, piece: Piece, decoding: Decoding, read: Read, making: Making
    ) -> Iterator[Bytes]:
        """The bytes of a piece whose decoded numbers become others, on the grid they were on."""
        codec = find_codec(self.spec(piece.source), decoding, self._checkpoint.tensors)
        return codec.requantize(read, (piece.start, piece.stop), making)

    def decoded_rows(self, piece: Piece, decoding: Decoding) -> tuple[int, int]:
        """The rows of a piece, once they are decoded, of which `start` and `stop` are stored."""
        codec = find_decoder(self.spec(piece.source), decoding, self._checkpoint.tensors)
        return codec.rows((piece.start, piece.stop))

    def reading(self, piece: Piece) -> Read:
        """What reads bytes of tensors; from far away those of the piece are fetched once."""
        spec = self._checkpoint.tensors[piece.source]
        if self.file(spec.file) is not None:
            return self._read_part
        row = nbytes(spec.dtype, spec.shape[1:])
        first, last = piece.start * row, piece.stop * row
        held = self._read_part(spec, first, last)

        def read(other: TensorSpec, start: int, stop: int) -> Bytes:
            if other is spec and first <= start <= stop <= last:
                return held[start - first : stop - first]
            return self._read_part(other, start, stop)

        return read

    def straight(
        self, piece: Piece, decoding: Decoding, workspace: Workspace
    ) -> Iterator[Bytes] | None:
        """The same numbers rounded to bf16 at once, or None where there is no loop that does it."""
        loops = code_loops(workspace)
        if loops is None:
            return None
        codec = find_decoder(self.spec(piece.source), decoding, self._checkpoint.tensors)
        return codec.fused(loops, self._read_part, (piece.start, piece.stop))

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


def far(checkpoint: Checkpoint) -> Begun:
    """The weight files that are not on this machine, with what has been read of each so far."""
    found = {}
    for name, begun in checkpoint.begun.items():
        descriptor = checkpoint.store.open(name)
        if descriptor is None:
            found[name] = begun
        else:
            os.close(descriptor)
    return found


def piece_range(spec: TensorSpec, piece: Piece) -> tuple[int, int]:
    """Where the rows of a piece lie in the source's file: the first byte, and that behind."""
    row = nbytes(spec.dtype, spec.shape[1:])
    return spec.start + piece.start * row, spec.start + piece.stop * row


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
