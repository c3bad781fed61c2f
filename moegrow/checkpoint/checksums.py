"""Check bytes that are read against the checksums that their source publishes.

A file that several threads read in pieces is checked against the SHA-256 of all its bytes.
"""

import hashlib
import heapq
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from moegrow.errors import UnfinishedError
from moegrow.files import worker_threads


class WrongBytesError(UnfinishedError):
    """The bytes of `file` have another digest than its place lists."""

    def __init__(self, file: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.file = file


class Known(Protocol):
    """Where files are, as far as it says what their bytes should be."""

    @property
    def location(self) -> str: ...

    def size(self, name: str) -> int: ...

    def sha256(self, name: str) -> str | None: ...

    def blob(self, name: str) -> str | None: ...


class Sum:
    """A digest of the bytes of a file that come in order, and the one that they should have."""

    def __init__(self, where: Known, name: str, kind: str, expected: str, state: Any) -> None:
        """`state` is a hashlib object of what has been taken of the file so far."""
        self._where, self._name, self._kind = where, name, kind
        self._expected, self._state = expected, state

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._state.update(block)

    def check(self) -> None:
        """Raise WrongBytesError where all bytes have been taken and are not what is listed."""
        found = self._state.hexdigest()
        if found != self._expected:
            raise WrongBytesError(
                self._name,
                f"the bytes of {self._name} that came from {self._where.location} have the"
                f" {self._kind} {found}, and {self._expected} is listed for them",
                "they were damaged on their way, or where they are kept: fetch them again",
            )


def sum_of(where: Known, name: str, begun: Any = None) -> Sum | None:
    """The digest to hold a file against, or None where its place lists none.

    It is the SHA-256 of a large file of the Hub, and of a small one the SHA-1 that git gives it.
    `begun` is a SHA-256 that has taken the beginning of the file already.
    """
    if sha256 := where.sha256(name):
        return Sum(where, name, "SHA-256", sha256, begun or hashlib.sha256())
    if blob := where.blob(name):
        head = b"blob %d\0" % where.size(name)
        return Sum(where, name, "git SHA-1", blob, hashlib.sha1(head, usedforsecurity=False))
    return None


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
                worker_threads.check()
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
