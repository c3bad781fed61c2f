"""Open a checkpoint: read its config and the headers of its shards, but no weights."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from moegrow.checkpoint import unsupported
from moegrow.checkpoint.fingerprint import SourceFile, digest, read_header
from moegrow.checkpoint.header import Header, TensorSpec
from moegrow.checkpoint.locate import find
from moegrow.checkpoint.shard_index import MOST_TENSORS, merge
from moegrow.checkpoint.side_files import Left, side_files
from moegrow.checkpoint.store import ANYONE, CONFIG, Access, Store, read_text
from moegrow.checkpoint.weight_files import weight_files
from moegrow.errors import MoegrowError, raise_all
from moegrow.files import json_edit, worker_threads

# Files beside the config that speak of quantisation too, and the method of the library that writes
# each: most of them do not name it.
QUANT_FILES = {
    "hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq",
    "quantization_config.json": "auto-round",
}  # fmt: skip

LARGEST_CONFIG = 16 << 20  # bytes: far more than any model has

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: its config, and where each tensor lies in which file.

    `named` is the weight file or the index that it was opened by, or "" for a whole folder.
    `metadata` is what each file's header says beside its tensors, but for their format. `left`
    stays behind when it grows; `remarks` say where its files are not quite as their index says.
    `begun` has for each weight file the bytes that its header takes and a SHA-256 of these.
    """

    store: Store
    config_text: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: tuple[SourceFile, ...]
    side_files: tuple[str, ...]
    named: str = ""
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left: tuple[Left, ...] = ()
    remarks: tuple[str, ...] = ()
    begun: Mapping[str, tuple[int, Any]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.store.name

    @property
    def location(self) -> str:
        return self.store.location

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.stop - tensor.start for tensor in self.tensors.values())

    @property
    def config_digest(self) -> str:
        return hashlib.sha256(self.config_text.encode()).hexdigest()


def open_checkpoint(source: str | os.PathLike[str], access: Access = ANYONE) -> Checkpoint:
    """The checkpoint in the folder `source`, or that of a weight file or an index in one.

    A source that is an address, such as hf://org/name, is far away, and so is org/name where there
    is no such folder: it is opened with what `access` gives. Raises MoegrowError where there is
    none, or where its files contradict each other.
    """
    store, named = find(source, access)
    config_text = _read_config(store)
    config = json_edit.loads(config_text, CONFIG, infinities=True, is_shallow=True)
    weights = weight_files(store, config, named)
    headers = _read_headers(store, weights.files, weights.by)
    tensors, remarks = merge(store, headers, weights.weight_map, weights.by)
    if not tensors:
        raise MoegrowError(f"{store.name} holds no tensors")
    digests = _each(store, sorted(headers), lambda name: digest(store, name, headers[name]))
    sides = side_files(store, headers.keys())
    return Checkpoint(
        store=store,
        config_text=config_text,
        config=config,
        tensors=tensors,
        files=tuple(
            SourceFile(name, headers[name].size, digests[name]) for name in sorted(headers)
        ),
        side_files=sides.travel,
        named=named,
        metadata={name: found for name in headers if (found := _metadata(headers[name]))},
        left=sides.left,
        remarks=tuple(filter(None, (weights.remark, *remarks))),
        begun={name: (header.begin, header.state) for name, header in headers.items()},
    )


def _metadata(header: Header) -> dict[str, str]:
    return {key: value for key, value in header.metadata.items() if key != "format"}


def _read_config(store: Store) -> str:
    if not store.has(CONFIG):
        found = store.below(CONFIG)
        if not found:
            unsupported.refuse_folder(store, CONFIG)
        raise MoegrowError(
            f"{store.location} holds no {CONFIG}",
            f"did you mean {found[0]}?" if found else "a checkpoint folder has one",
        )
    store.check(CONFIG)
    unsupported.refuse_pointers(store, [CONFIG])
    return read_text(store, CONFIG, LARGEST_CONFIG)


def _read_headers(store: Store, names: list[str], index: str) -> dict[str, Header]:
    missing = [name for name in names if not store.has(name)]
    raise_all(
        f"{store.location} is not complete",
        [f"{name} is missing{f', which {index} names' if index else ''}" for name in missing],
        "fetch the missing files; nothing was written",
    )

    for name in names:
        store.check(name)
    unsupported.refuse_pointers(store, names)
    count = 0

    def read(name: str) -> Header:
        nonlocal count
        header = read_header(store, name)
        count += len(header.tensors)
        if count > MOST_TENSORS:
            raise MoegrowError(f"{store.location} holds more than {MOST_TENSORS} tensors")
        return header

    return _each(store, names, read)


def _each(store: Store, names: list[str], read: Callable[[str], T]) -> dict[str, T]:
    """What `read` gives for each name, several at a time where each has to be waited for."""
    if not store.threads:
        return {name: read(name) for name in names}
    with worker_threads.pool(store.threads) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))
