"""The buffers of a worker thread of the engine."""

from collections.abc import Iterable, Iterator
from types import ModuleType

from moegrow.files.byte_ranges import BLOCK
from moegrow.kernels.perturb import Bytes, Workspace
from moegrow.write.direct_io import BOUNCE, placed, room

WRITE = 4 << 20  # bytes computed and written at a time
CACHED = 256 << 10  # the same where the kernel copies them, few enough to be in a core's cache then


class Worker:
    """What one thread keeps from job to job."""

    def __init__(self, compiled: ModuleType | None) -> None:
        self.workspace = Workspace(compiled)
        self.bounce = room(BOUNCE)
        self._new = room(max(WRITE, CACHED))
        self._held = room(0)

    def new(self, size: int, offset: int) -> Bytes:
        """Memory for bytes that are computed, to be written at an offset."""
        return placed(self._new, size, offset)

    def buffer(self, size: int, offset: int) -> Bytes:
        """Memory for bytes that are valid until the next call, to be written at an offset."""
        if self._held.size < size + BLOCK:
            self._held = room(size)
        return placed(self._held, size, offset)


def gathered(blocks: Iterable[Bytes], offset: int, worker: Worker) -> Iterator[tuple[int, Bytes]]:
    """The same bytes in portions, with the position of each, that end where a block of the file
    does: those can go past the page cache as they are."""
    done = held = 0
    size = max(WRITE, BLOCK)
    room = worker.new(size - offset % BLOCK, offset)
    for block in blocks:
        at = 0
        while at < block.size:
            count = min(block.size - at, room.size - held)
            room[held : held + count] = block[at : at + count]
            at, held = at + count, held + count
            if held == room.size:
                yield done, room
                done, held = done + held, 0
                room = worker.new(size, offset + done)
    if held:
        yield done, room[:held]


def parts(block: Bytes, size: int) -> Iterator[tuple[int, Bytes]]:
    """A block in parts of `size` bytes, with the position of each."""
    for first in range(0, block.size, size):
        yield first, block[first : first + size]
