"""The files of a result: complete and durable under their names, or not there."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from moegrow.errors import MoegrowError
from moegrow.ranges import write_all
from moegrow.shards import Shard

MOST_OPEN = 32  # files kept open between writes
SYNCING = 2  # threads that wait for complete files to be on the disk


class Targets:
    """The files that are being written, opened as they are needed."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        self._folder = folder
        self._shards = shards
        self._left = [shard.nbytes - len(shard.header) for shard in shards]
        self._open: dict[int, int] = {}
        self._begun: set[int] = set()
        self._in_use: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=SYNCING)
        self._publishing: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    @contextmanager
    def file(self, number: int) -> Iterator[int]:
        """The open file of a shard, as a descriptor; its header is written."""
        with self._lock:
            if number not in self._open:
                if len(self._open) >= MOST_OPEN:
                    for idle in [n for n in self._open if not self._in_use[n]]:
                        os.close(self._open.pop(idle))
                new = number not in self._begun
                flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
                self._open[number] = os.open(self._temporary(number), flags, 0o666)
                if new:
                    self._begun.add(number)
                    write_all(self._open[number], memoryview(self._shards[number].header), 0)
            self._in_use[number] += 1
            descriptor = self._open[number]
        try:
            yield descriptor
        finally:
            with self._lock:
                self._in_use[number] -= 1

    def wrote(self, number: int, count: int) -> None:
        """Take note of bytes written; a file that is complete gets its name when it is durable.

        Making it so takes long and no work: others wait for the disk while this thread goes on.
        """
        with self._lock:
            self._left[number] -= count
            if not self._left[number]:
                self._publishing.append(self._pool.submit(self._publish, number))

    def finish(self) -> None:
        """Complete the files that hold no bytes behind their headers, and wait for all."""
        for number, shard in enumerate(self._shards):
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
            self._temporary(number).rename(self._folder / shard.name)
        with self._lock:
            if number in self._open:
                os.close(self._open.pop(number))

    def _temporary(self, number: int) -> Path:
        return self._folder / (self._shards[number].name + ".tmp")
