"""What the place of a file says of its bytes, held against the bytes that come."""

import hashlib
from typing import Any, Protocol

from moegrow.errors import UnfinishedError


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
