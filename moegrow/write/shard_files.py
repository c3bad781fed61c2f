"""Write shards under temporary names, and rename them when they are complete and synced."""

import os
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from moegrow.errors import MoegrowError
from moegrow.files.atomic import sync, temporary
from moegrow.files.byte_ranges import start_writing, write_all
from moegrow.kernels.perturb import Bytes
from moegrow.write import digests, direct_io
from moegrow.write.digests import Range, ShardDigests, crc32
from moegrow.write.shards import Shard

MOST_OPEN = 32  # files kept open between writes
AHEAD = 64 << 20  # bytes written to a file after which the kernel is told to begin with the disk
SYNCING = 2  # threads that wait for complete files to be on the disk


def forget(kept: ShardDigests) -> None:
    """The note of a run that nobody will go on with."""


@dataclass(frozen=True)
class Journal:
    """Which shards need not be written, and where the digests of each written one are noted.

    `note` is called just before a shard gets its name. `everything` asks for digests of all bytes,
    not only of those that were computed; those that the filesystem shares are read for that.
    """

    done: frozenset[int] = frozenset()
    note: Callable[[ShardDigests], None] = forget
    everything: bool = False


class Targets:
    """The files that are being written, opened as they are needed."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...], journal: Journal) -> None:
        self._folder = folder
        self._shards = shards
        self._journal = journal
        self._left = [shard.nbytes - len(shard.header) for shard in shards]
        self._open: dict[int, int] = {}
        self._direct: dict[int, int | None] = {}  # the same files, where that is of use
        self._begun: dict[int, Path] = {}
        self._computed: dict[int, dict[int, Range]] = {}  # by where they stop
        self._begins: dict[int, list[int]] = {}  # of the tensors, where copies have digests
        self._in_use: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=SYNCING)
        self._publishing: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for number in [*self._open]:
            self._close(number)
        for unfinished in self._begun.values():
            unfinished.unlink(missing_ok=True)

    @contextmanager
    def file(self, number: int) -> Iterator[int]:
        """The open file of a shard, as a descriptor; its header is written.

        An OSError that does not say where it came from is given the name of this file.
        """
        with self._lock:
            new = number not in self._begun
            if new:
                self._begun[number] = temporary(self._folder / self._shards[number].name)
            if number not in self._open:
                if len(self._open) >= MOST_OPEN:
                    for idle in [n for n in self._open if not self._in_use[n]]:
                        self._close(idle)
                flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
                self._open[number] = os.open(self._begun[number], flags, 0o666)
                size = self._shards[number].nbytes
                self._direct[number] = direct_io.open_direct(self._begun[number], size)
            self._in_use[number] += 1
            descriptor, path = self._open[number], self._begun[number]
            try:
                if new:
                    write_all(descriptor, memoryview(self._shards[number].header), 0)
            except OSError as error:
                raise _named(error, path) from error
        try:
            yield descriptor
        except OSError as error:
            raise _named(error, path) from error
        finally:
            with self._lock:
                self._in_use[number] -= 1

    def is_direct(self, number: int) -> bool:
        """Whether a shard is written past the page cache, which spares the kernel its copies."""
        with self.file(number):
            return self._direct[number] is not None

    def write(self, number: int, view: Bytes, offset: int, bounce: Bytes) -> None:
        """Write bytes at an offset of a shard; `bounce` is room for `direct.write`."""
        with self.file(number) as target:
            past = self._direct[number]
            if past is None:
                write_all(target, view.data, offset)
            else:
                direct_io.write(past, target, view, offset, bounce)

    def computed(self, number: int, offset: int, view: memoryview, *, goes_on: bool) -> None:
        """Take note of the digest of computed bytes, which are at `offset` of a shard.

        They may come from any thread, in any order, any number at a time; each byte once. Those
        that go on with a tensor where others have ended come after these.
        """
        with self._lock:
            ranges = self._computed.setdefault(number, {})
            before = ranges.pop(offset) if goes_on else Range(offset, offset, 0)
        stop = offset + view.nbytes
        part = Range(before.start, stop, crc32(view, before.crc))
        with self._lock:
            ranges[stop] = part

    def copied(self, number: int, offset: int, view: memoryview) -> None:
        """Take note of the digest of copied bytes, if one is wanted, for each tensor apart."""
        if not self._journal.everything:
            return
        if number not in self._begins:
            self._begins[number] = [at for _, at in self._shards[number].positions()]
        begins, stop = self._begins[number], offset + view.nbytes
        inside = begins[bisect_right(begins, offset) : bisect_left(begins, stop)]
        for start, end in pairwise([offset, *inside, stop]):
            self.computed(number, start, view[start - offset : end - offset], goes_on=False)

    def wrote(self, number: int, count: int) -> None:
        """Take note of bytes written; a file that is complete gets its name when it is durable.

        Making it so takes long and no work: others wait for the disk while this thread goes on.
        """
        # While these bytes are not counted the file is still there.
        left = self._left[number]
        if count < left and left // AHEAD != (left - count) // AHEAD:
            with self.file(number) as descriptor:
                start_writing(descriptor)
        with self._lock:
            self._left[number] -= count
            if not self._left[number]:
                self._publishing.append(self._pool.submit(self._publish, number))

    def finish(self) -> None:
        """Complete the files that hold no bytes behind their headers, and wait for all."""
        for number, shard in enumerate(self._shards):
            if number in self._journal.done:
                continue
            if shard.nbytes == len(shard.header):
                self.wrote(number, 0)
            elif left := self._left[number]:
                raise MoegrowError(f"{shard.name} lacks {left} of its {shard.nbytes} bytes")
        for future in self._publishing:
            future.result()

    def _publish(self, number: int) -> None:
        shard = self._shards[number]
        with self.file(number) as descriptor:
            written = os.fstat(descriptor).st_size
            if written != shard.nbytes:
                raise MoegrowError(
                    f"{shard.name} has {written} bytes and should have {shard.nbytes}"
                )
            os.fsync(descriptor)
            known: Iterable[Range] = self._computed.pop(number, {}).values()
            if self._journal.everything:
                known = digests.completed(shard, known, descriptor)
            self._journal.note(digests.entry(shard, digests.merged(shard, known)))
            self._begun[number].rename(self._folder / shard.name)
        with self._lock:
            del self._begun[number]
            if number in self._open:
                self._close(number)
        sync(self._folder)

    def _close(self, number: int) -> None:
        os.close(self._open.pop(number))
        past = self._direct.pop(number)
        if past is not None:
            os.close(past)


def _named(error: OSError, path: Path) -> OSError:
    """The error with the file where it happened, where it names none."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, error.strerror, str(path))
