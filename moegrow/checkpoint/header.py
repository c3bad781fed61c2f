"""Parse untrusted safetensors headers, and write new ones."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from moegrow.dtypes import BITS
from moegrow.errors import MoegrowError, Parameter
from moegrow.files import json_edit
from moegrow.files.byte_ranges import BLOCK
from moegrow.files.untrusted import decoded, opened

LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
LONGEST_NAME = 1000  # characters of a tensor's name; published ones have less than 150
MOST_DIMENSIONS = 64
LARGEST_PRODUCT = 2**63  # what sizes are counted in by those who read the file next


class TensorSpec(NamedTuple):
    """A tensor as a header describes it: `start` and `stop` are byte positions in the file."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What a safetensors file says of itself.

    `digest` is the SHA-256 of the header's bytes, `begin` the position of the data behind it, and
    `state` a hashlib object that has taken these bytes, to go on with.
    """

    tensors: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    digest: str
    size: int
    begin: int
    state: Any = None


@lru_cache(maxsize=1 << 16)
def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor.

    Raises ValueError where sub-byte elements do not fill whole bytes, or where a product of
    sizes is one that the libraries which read safetensors cannot count in.
    """
    # Some multiply all sizes before they meet one that is zero.
    if len(shape) > MOST_DIMENSIONS or math.prod(filter(None, shape)) >= LARGEST_PRODUCT:
        raise ValueError(f"a shape of {len(shape)} dimensions is too large")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8:
        raise ValueError(f"{dtype} {list(shape)} does not fill whole bytes")
    return bits // 8


def read_header(path: Path) -> Header:
    """The header of the file at `path`, every promise of the format checked against its size.

    Raises MoegrowError, with the file's name and the two values that disagree, where the file
    is no safetensors file, is cut short, or its tensors overlap, leave gaps or do not fit.
    """
    with opened(path.parent, path.name) as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        return header_of(path.name, os.fstat(file.fileno()).st_size, read)


def header_of(file_name: str, size: int, read: Callable[[int, int], bytes]) -> Header:
    """The header of a file of `size` bytes, of which `read(start, stop)` gives some; see above."""
    length = int.from_bytes(read(0, min(8, size)), "little")
    if size < 8 or length > size - 8:
        raise MoegrowError(
            f"{file_name} is not a whole safetensors file: its header should be"
            f" {length} bytes long and the file has {size}",
            "it may be an unfinished download: fetch it again",
        )
    if length > LARGEST_HEADER:
        raise MoegrowError(
            f"{file_name}: a header of {length} bytes is over the limit of {LARGEST_HEADER}"
        )
    raw = read(8, 8 + length)
    state = hashlib.sha256(length.to_bytes(8, "little") + raw)
    text = decoded(raw, f"the header of {file_name}")
    del raw
    data = 8 + length
    tensors, metadata = _plain(text, file_name, data) or _parsed(text, file_name, data)
    _check_layout(tensors, file_name, data, size)
    return Header(tensors, metadata, state.hexdigest(), size, 8 + length, state)


def write_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    *,
    residue: int | None = None,
    metadata: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The header of a file that holds `(name, dtype, shape)` one after another, in this order.

    `metadata` are keys and texts to stand beside the format. Raises MoegrowError where the header
    would be larger than any that is read.
    It is padded with spaces, which the format allows, so that the data behind it begins
    `residue` bytes into a block of the filesystem, or else at a multiple of 8.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **dict(metadata)}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + nbytes(dtype, shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    dumped = json.dumps(table, separators=(",", ":"), ensure_ascii=False)
    text = dumped.encode()
    begin = 8 + len(text)
    text += b" " * (-begin % 8 if residue is None else (residue - begin) % BLOCK)
    if len(text) > LARGEST_HEADER or json_edit.values(dumped) > json_edit.most_values(dumped):
        raise MoegrowError(
            f"a header of {len(text)} bytes for {len(table) - 1} tensors is larger than any that"
            " is read",
            "write smaller files: " + Parameter("max_shard_size", "1GB"),
        )
    return len(text).to_bytes(8, "little") + text


Parsed = tuple[tuple[TensorSpec, ...], dict[str, str]]


class _Entry(msgspec.Struct, gc=False):
    """What a header says of one tensor, and of the key `__metadata__`, none of it checked."""

    dtype: Any = None
    shape: Any = None
    data_offsets: Any = None


_ENTRIES = msgspec.json.Decoder(dict[str, _Entry])
_METADATA = '{"__metadata__":'


def _plain(text: str, file: str, data: int) -> Parsed | None:
    """The tensors and metadata of a header as most are written; None for any that needs a look.

    It is much faster than `_parsed`, which names what is wrong with a header.
    """
    json_edit.check_size(text, f"the header of {file}", json_edit.most_values(text))
    metadata: dict[str, str] = {}
    try:
        if text.startswith(_METADATA):
            metadata, _ = _DECODER.raw_decode(text, len(_METADATA))
        entries = _ENTRIES.decode(text)
        is_told = entries.pop("__metadata__", None) is not None
        # A colon for each key that was read, and none for a key that stands there twice or is
        # not known.
        keys = is_told + len(metadata) + 4 * len(entries)
        if "\\u" in text or text.count(":") != keys or is_told != text.startswith(_METADATA):
            return None
        if not all(type(value) is str for value in metadata.values()):
            return None
        tensors = []
        for name, entry in entries.items():
            dtype, shape, size = _kind(entry.dtype, *entry.shape)
            start, stop = entry.data_offsets
            if (
                type(start) is not int or type(stop) is not int or start < 0
                or stop - start != size or not name.isprintable()
                or not 0 < len(name) <= LONGEST_NAME
                or type(entry.shape) is not list or type(entry.data_offsets) is not list
            ):  # fmt: skip
                return None
            tensors.append(_SPEC((name, file, dtype, shape, data + start, data + stop)))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return tuple(tensors), metadata


# A specification from its fields, without a call of its constructor: a checkpoint can have a
# million.
_SPEC: Callable[[tuple[Any, ...]], TensorSpec] = partial(tuple.__new__, TensorSpec)
_DECODER = json.JSONDecoder()


@lru_cache(maxsize=1 << 16, typed=True)  # typed, because True and 1.0 are no sizes
def _kind(dtype: str, *sizes: Any) -> tuple[str, tuple[int, ...], int]:
    """A dtype and a shape, the same ones for all tensors of a kind, and the bytes of each."""
    shape = _whole_numbers(*sizes)
    return dtype, shape, nbytes(dtype, shape)


def _parsed(text: str, file: str, data: int) -> Parsed:
    """The tensors and metadata of any header; raises MoegrowError where they make no sense."""
    table = json_edit.loads(text, f"the header of {file}")
    if "\\u" in text:
        _check_text(table, file)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise MoegrowError(f"{file}: __metadata__ is not a table of texts")
    return tuple(_spec(name, entry, file, data) for name, entry in table.items()), metadata


def _check_text(table: dict[str, Any], file: str) -> None:
    """Raise MoegrowError where an escape stands for half a character, which others do not read."""
    try:
        json.dumps(table, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MoegrowError(f"{file}: the header holds an escape that is no character") from None


def _spec(name: str, entry: Any, file: str, data: int) -> TensorSpec:
    """One entry of the header, checked by itself; `data` is where the file's data begins."""
    try:
        dtype, sizes, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(sizes) is not list or type(offsets) is not list:
            raise TypeError("shape and data_offsets must be lists")
        shape = _whole_numbers(*sizes)
        start, stop = offsets
        # No two offsets are alike, so those that are right are not looked up.
        if type(start) is not int or type(stop) is not int or start < 0 or stop < 0:
            _whole_numbers(start, stop)
    except (TypeError, KeyError, ValueError) as error:
        raise MoegrowError(f"{file}: the header entry of {name!r} is malformed: {error}") from None
    if not isinstance(dtype, str) or dtype not in BITS:
        raise MoegrowError(
            f"{file}: {name!r} has the dtype {dtype!r}, which is not known",
            f"known: {', '.join(BITS)}",
        )
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise MoegrowError(
            f"{file}: a tensor name holds control characters, or not 1 to {LONGEST_NAME}"
            f" characters: {name[:LONGEST_NAME]!r}"
        )
    try:
        size = nbytes(dtype, shape)
    except ValueError as error:
        raise MoegrowError(f"{file}: {name!r}: {error}") from None
    if stop - start != size:
        raise MoegrowError(
            f"{file}: {name!r} is {dtype} {list(shape)}, {size} bytes, but has {stop - start}"
            " in the file"
        )
    return TensorSpec(name, file, dtype, shape, data + start, data + stop)


@lru_cache(maxsize=1 << 16, typed=True)  # typed, because True and 1.0 are no sizes
def _whole_numbers(*numbers: Any) -> tuple[int, ...]:
    """The numbers if that is what they are, the same tuple for all tensors of a shape."""
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("shapes and offsets must be whole numbers")
    return numbers


def _check_layout(tensors: tuple[TensorSpec, ...], file: str, data: int, size: int) -> None:
    """Tensors must fill the data of the file with no gap and no overlap."""
    end = data
    for tensor in sorted(tensors, key=attrgetter("start", "stop")):
        if tensor.start != end:
            what = "overlaps the tensor before it" if tensor.start < end else "follows a gap"
            raise MoegrowError(f"{file}: {tensor.name!r} {what}, at byte {tensor.start}")
        end = tensor.stop
    if end != size:
        raise MoegrowError(
            f"{file} should be {end} bytes long by its header and has {size}",
            "it may be an unfinished download: fetch it again" if end > size else "",
        )
