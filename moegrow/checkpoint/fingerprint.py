"""Fingerprint weight files, to tell later whether a source is still the same."""

import hashlib
from dataclasses import dataclass

from moegrow.checkpoint.header import LARGEST_HEADER, Header, header_of
from moegrow.checkpoint.store import Store, contents, read_range

WHOLE = "sha256:"  # begins a digest of all bytes
SAMPLES = 8  # places of a file whose bytes enter its digest
SAMPLE = 4096  # bytes at each


@dataclass(frozen=True)
class SourceFile:
    """One weight file; `digest` covers its size, its header and samples of its data.

    It begins with WHOLE where it is the SHA-256 of all bytes, which the Hub knows of its files.
    """

    name: str
    size: int
    digest: str


def read_header(store: Store, name: str) -> Header:
    """The header of a weight file, wherever that is."""
    return header_of(
        name, store.size(name), lambda start, stop: read_range(store, name, start, stop)
    )


def digest(store: Store, name: str, header: Header) -> str:
    """What a weight file is known by: the SHA-256 of all its bytes where that costs nothing.

    Else it is one over size, header and samples of the data. The samples tell a file whose
    weights were trained on in place, under the same header, from the one a plan was made of,
    wherever the file has been copied to in the meantime.
    """
    if whole := store.sha256(name):
        return WHOLE + whole
    return _sampled(store, name, header.size, header.digest, header.begin)


def sampled(store: Store, name: str) -> str:
    """The digest over size, header and samples of a file as it is now; the header is not parsed."""
    size = store.size(name)
    length = int.from_bytes(read_range(store, name, 0, min(8, size)), "little")
    begin = min(size, 8 + min(length, LARGEST_HEADER))
    header = hashlib.sha256(read_range(store, name, 0, begin)).hexdigest()
    return _sampled(store, name, size, header, begin)


def _sampled(store: Store, name: str, size: int, header: str, begin: int) -> str:
    found = hashlib.sha256(f"{size} {header}".encode())
    room = max(size - begin - SAMPLE, 0)
    for number in range(SAMPLES):
        at = begin + room * number // (SAMPLES - 1)
        found.update(read_range(store, name, at, min(at + SAMPLE, size)))
    return found.hexdigest()


def is_same(planned: SourceFile, now: SourceFile, store: Store) -> bool:
    """Whether a weight file is as it was planned.

    A plan may know it by another kind of digest, having been made where the file lay elsewhere:
    then that is computed, which reads the whole file where the plan knows all its bytes.
    """
    if planned.digest.startswith(WHOLE) == now.digest.startswith(WHOLE):
        return planned.digest == now.digest
    if not planned.digest.startswith(WHOLE):
        return planned.digest == sampled(store, now.name)
    found = hashlib.sha256()
    for block in contents(store, now.name):
        found.update(block)
    return planned.digest == WHOLE + found.hexdigest()
