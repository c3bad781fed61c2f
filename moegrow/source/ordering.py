"""Files that are read in pieces by several threads, held against the SHA-256 of all their bytes."""

import heapq
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moegrow.ground import waiting
from moegrow.source.sums import Known, Sum, sum_of

BUFFERED = 256 << 20  # bytes of all files together that wait for those before them
PAUSE = 0.1  # seconds after which a thread that waits looks whether the run has ended

Range = tuple[int, int]
# The files, each with the number of bytes that a hashlib object has taken of it already.
Begun = Mapping[str, tuple[int, Any]]


@dataclass
class _Progress:
    """How much of a file has been summed up, and what has come too early for that."""

    sum: Sum
    size: int
    position: int
    is_busy: bool = False
    early: list[tuple[int, bytes]] = field(default_factory=list)  # a heap


class Ordered:
    """The sums of some files, whose bytes may come in any order and from any thread.

    A SHA-256 takes bytes in order alone. What comes too early is kept, as far as BUFFERED goes.
    Where that is full, a thread waits for those before it, once `expect` has made sure that they
    will come; until then the file cannot be checked any more.
    """

    def __init__(self, where: Known, begun: Begun) -> None:
        self._files: dict[str, _Progress] = {}
        for name, (position, state) in begun.items():
            if where.sha256(name) and (known := sum_of(where, name, state.copy())):
                self._files[name] = _Progress(known, where.size(name), position)
        self._held = 0
        self._may_wait = False
        self._changed = threading.Condition()
        self.unchecked: list[str] = []

    def expect(self, ranges: Mapping[str, Iterable[Range]]) -> None:
        """Say what else is going to be read of each file, in the order of its bytes.

        A file of which some bytes have not come and will not come cannot be checked.
        """
        with self._changed:
            for name, file in [*self._files.items()]:
                early = [(start, start + len(block)) for start, block in file.early]
                if not _covers([*ranges.get(name, ()), *early], file.position, file.size):
                    self._give_up(name)
            self._may_wait = True

    def take(self, name: str, start: int, view: memoryview) -> None:
        """Take bytes that have come; raises WrongBytesError where they complete a wrong file."""
        if name not in self._files:
            return
        stop = start + len(view)
        with self._changed:
            while True:
                file = self._files.get(name)
                if file is None or stop <= file.position:
                    return
                if start <= file.position and not file.is_busy:
                    file.is_busy = True
                    break
                if self._held + len(view) <= BUFFERED:
                    heapq.heappush(file.early, (start, bytes(view)))
                    self._held += len(view)
                    return
                if not self._may_wait:
                    self._give_up(name)
                    return
                self._changed.wait(PAUSE)
                waiting.check()
        self._sum_up(name, file, view[file.position - start :])

    def finish(self) -> list[str]:
        """The names of the files that could not be checked, sorted."""
        with self._changed:
            for name in [*self._files]:
                self._give_up(name)
        return sorted(self.unchecked)

    def _sum_up(self, name: str, file: _Progress, block: memoryview) -> None:
        """Sum up the next bytes of a file, and those behind them that have come already."""
        while True:
            file.sum.update(block)
            with self._changed:
                file.position += len(block)
                while file.early and sum_end(file.early[0]) <= file.position:
                    self._held -= len(heapq.heappop(file.early)[1])
                self._changed.notify_all()
                if not file.early or file.early[0][0] > file.position:
                    file.is_busy = False
                    break
                start, early = heapq.heappop(file.early)
                self._held -= len(early)
            block = memoryview(early)[file.position - start :]
        if file.position == file.size:
            file.sum.check()
            with self._changed:
                self._files.pop(name, None)

    def _give_up(self, name: str) -> None:
        file = self._files.pop(name)
        self._held -= sum(len(block) for _, block in file.early)
        file.early.clear()
        self.unchecked.append(name)
        self._changed.notify_all()


def sum_end(early: tuple[int, bytes]) -> int:
    """The position behind some bytes that have come early."""
    return early[0] + len(early[1])


def _covers(ranges: Iterable[Range], start: int, stop: int) -> bool:
    """Whether some ranges together hold all bytes from `start` to `stop`."""
    for first, last in sorted(ranges):
        if first > start:
            break
        start = max(start, last)
    return start >= stop
