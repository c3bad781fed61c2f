"""Digests of a written checkpoint, which find damage without the source.

Bytes of tensors have a CRC-32, everything else a SHA-256. docs/reliability.md says why, and
describes the file that keeps them.
"""

import hashlib
import json
import os
import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import msgspec

from moegrow.errors import MoegrowError
from moegrow.files import json_edit, typed_json
from moegrow.files.byte_ranges import read_all
from moegrow.files.untrusted import decoded, opened
from moegrow.write.shards import Shard

try:  # the same numbers, several times as fast
    from zlib_ng.zlib_ng import crc32 as crc32
except ImportError:
    from zlib import crc32 as crc32

FORMAT = 1  # goes up when an older reader would misunderstand the file
READ = 8 << 20  # bytes read at a time
LARGEST, LONGEST_LINE = 128 << 20, 64 << 20  # bytes of the file
MOST_RANGES = 1_500_000  # in all entries of the file: one or a few for each tensor

# The polynomial of zlib's CRC-32, and 1 and x⁸ in its order of bits, which is the reverse.
_POLYNOMIAL, _ONE, _BYTE = 0xEDB88320, 1 << 31, 1 << 23


class Range(NamedTuple):
    """Bytes `start` to `stop` of a file, all of one tensor, and their CRC-32."""

    start: int
    stop: int
    crc: int


class ShardDigests(NamedTuple):
    """What a complete shard is known by: its size, the SHA-256 of its header, and some ranges."""

    name: str
    size: int
    header: str
    ranges: tuple[Range, ...]

    def line(self) -> str:
        """The entry as a line of JSON, without its end."""
        ranges = [(start, stop, f"{crc:08x}") for start, stop, crc in self.ranges]
        return typed_json.dumps(_EntryLine(self.name, self.size, self.header, ranges))

    @classmethod
    def read(cls, text: str, what: str = "an entry") -> "ShardDigests":
        """The entry in a line; raises MoegrowError where there is none, with `what` it is."""
        line = typed_json.loads(text, what, _EntryLine)
        starts, stops, crcs = zip(*line.ranges, strict=True) if line.ranges else ((), (), ())
        ranges = tuple(map(Range._make, zip(starts, stops, _crcs(crcs, what), strict=True)))
        # Bytes that stand in many ranges would be read as often.
        if not all(one.stop <= other.start for one, other in pairwise(ranges)):
            raise MoegrowError(f"{what} is malformed: ranges overlap or run backwards")
        return cls(line.shard, line.size, line.header, ranges)


class _EntryLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry as it stands in a file; a range is its first byte, the one behind it, its CRC-32."""

    shard: str
    size: int
    header: str
    ranges: list[tuple[int, int, Annotated[str, msgspec.Meta(min_length=8, max_length=8)]]]


def _crcs(texts: Sequence[str], what: str) -> tuple[int, ...]:
    """The numbers of eight hexadecimal digits each, all at once: there may be a million."""
    joined = "".join(texts)
    if not re.fullmatch("[0-9a-f]*", joined):
        raise MoegrowError(f"{what} is malformed: a CRC-32 has eight digits of 0-9 and a-f")
    return struct.unpack(f">{len(texts)}I", bytes.fromhex(joined))


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of the file: its version, which bytes it covers, the digests of files."""

    moegrow_digests: int
    covers: Literal["everything", "computed"]
    files: dict[str, str]


@dataclass(frozen=True)
class Digests:
    """All digests of a result: `files` are those of its other files, by name.

    `everything` says whether the ranges of the shards are all of their tensors, or only what
    was computed.
    """

    everything: bool
    files: Mapping[str, str]
    entries: tuple[ShardDigests, ...]

    def text(self) -> str:
        """The text of the file: a header, a line for each shard, and a digest of these lines."""
        covers: Literal["everything", "computed"] = "everything" if self.everything else "computed"
        lines = [typed_json.dumps(_Header(FORMAT, covers, dict(self.files)))]
        lines += [entry.line() for entry in self.entries]
        text = "".join(f"{line}\n" for line in lines)
        return text + _last_line(hashlib.sha256(text.encode()))


def read_digests(path: Path) -> Digests:
    """The digests in a file; raises MoegrowError where it is not as it was written."""
    with opened(path.parent, path.name) as file:
        count = _lines_above(file) if os.fstat(file.fileno()).st_size <= LARGEST else 0
        if not count:
            raise MoegrowError(f"{path.name} is not as it was written")
        file.seek(0)
        return _read(islice(file, count), path.name)


def _read(lines: Iterator[bytes], name: str) -> Digests:
    """The digests in the lines above the last, which is right: damage is no malformed line."""
    # The bytes of a line are not kept beside its text.
    texts = ((what, _line_text(line, what)) for what, line in _named(lines, name))
    what, text = next(texts)
    table = json_edit.loads(text, what)
    if table.get("moegrow_digests") != FORMAT:
        raise MoegrowError(f"{name} is of another version of moegrow")
    header = typed_json.convert(table, what, _Header)
    entries, ranges = [], 0
    for what, text in texts:
        entries.append(ShardDigests.read(text, what))
        ranges += len(entries[-1].ranges)
        if ranges > MOST_RANGES:
            raise MoegrowError(f"{name} is malformed: there are more than {MOST_RANGES} ranges")
    return Digests(header.covers == "everything", header.files, tuple(entries))


def _named(lines: Iterator[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(lines, 1):
        yield f"line {number} of {name}", line


def _line_text(line: bytes, what: str) -> str:
    """The text of a line; raises MoegrowError where it is longer than any."""
    if len(line) > LONGEST_LINE:
        raise MoegrowError(f"{what} has {len(line)} bytes, and the most is {LONGEST_LINE}")
    return decoded(line, what)


def _lines_above(file: BinaryIO) -> int:
    """How many lines the last one is a digest of, or 0 where it is none."""
    above, last, count = hashlib.sha256(), b"", -1
    for line in file:
        above.update(last)
        last, count = line, count + 1
    return count if count > 0 and last == _last_line(above).encode() else 0


def _last_line(above: "hashlib._Hash") -> str:
    return json.dumps({"above": above.hexdigest()}, separators=(",", ":")) + "\n"


def file_digest(folder: Path, name: str) -> str:
    """The SHA-256 of the file `name` in `folder`, opened as `strangers.opened` does."""
    with opened(folder, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_bytes(text: str) -> bytes:
    """A text as a file holds it."""
    # A lone surrogate, as names of files that are no UTF-8 become, is no text elsewhere.
    return text.encode("utf-8", "backslashreplace")


def text_digest(text: str) -> str:
    """The SHA-256 of a file that holds a text."""
    return hashlib.sha256(text_bytes(text)).hexdigest()


def entry(shard: Shard, ranges: Iterable[Range]) -> ShardDigests:
    """What is kept of a complete shard."""
    header = hashlib.sha256(shard.header).hexdigest()
    return ShardDigests(shard.name, shard.nbytes, header, tuple(ranges))


def merged(shard: Shard, parts: Iterable[Range]) -> Iterator[Range]:
    """The ranges of a shard that some parts make up, as long as they can be within a tensor.

    So they do not depend on how many bytes were written at a time, in which order, and by whom.
    """
    begins = {position for _, position in shard.positions()}
    last = None
    for part in sorted(parts):
        if last and last.stop == part.start and part.start not in begins:
            crc = joined(last.crc, part.crc, part.stop - part.start)
            last = Range(last.start, part.stop, crc)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last


def completed(shard: Shard, parts: Iterable[Range], file: int) -> Iterator[Range]:
    """Some ranges of a shard and those between them, which are read from its open file.

    So bytes that nobody has seen, because the filesystem shares them, have a digest as well.
    """
    left = deque(sorted(parts))
    for output, position in shard.positions():
        stop = position + output.nbytes
        while position < stop:
            part = left.popleft() if left and left[0].start < stop else Range(stop, stop, 0)
            if position < part.start:
                yield Range(position, part.start, crc_of(file, position, part.start))
            if part.start < part.stop:
                yield part
            position = part.stop


def crc_of(file: int, start: int, stop: int) -> int:
    """The CRC-32 of bytes `start` to `stop` of an open file."""
    buffer = memoryview(bytearray(min(READ, stop - start)))
    crc = 0
    while start < stop:
        view = buffer[: stop - start]
        read_all(file, start, view)
        crc = crc32(view, crc)
        start += len(view)
    return crc


def damage(path: Path, kept: ShardDigests) -> Iterator[tuple[int, int]]:
    """The ranges of a file that are not as its entry says: first byte, and that behind.

    Where the file's size or header is another, that is all that is told, as range 0 to 0.
    """
    with opened(path.parent, path.name) as shard:
        file = shard.fileno()
        length = int.from_bytes(shard.read(8), "little")
        size = os.fstat(file).st_size
        if size != kept.size or length > size:
            yield 0, 0
            return
        shard.seek(0)
        if hashlib.sha256(shard.read(8 + length)).hexdigest() != kept.header:
            yield 0, 0
            return
        for start, stop, crc in kept.ranges:
            if not 0 <= start <= stop <= size or crc_of(file, start, stop) != crc:
                yield start, stop


def joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of some bytes and `length` others behind them, from that of each.

    >>> joined(crc32(b"one "), crc32(b"after another"), 13)
    2479827919
    >>> crc32(b"one after another")
    2479827919
    """
    return _times(_shift(length), first) ^ second


@lru_cache(maxsize=1024)
def _shift(length: int) -> int:
    """x to the power of the bits in `length` bytes, modulo the polynomial."""
    power, square = _ONE, _BYTE
    while length:
        if length & 1:
            power = _times(power, square)
        square = _times(square, square)
        length >>= 1
    return power


def _times(a: int, b: int) -> int:
    """The product of two polynomials, modulo that of the CRC."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
