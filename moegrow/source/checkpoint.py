"""A checkpoint, known from its config and headers alone; no weight is read to open it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from moegrow.errors import MoegrowError, UsageError, raise_all
from moegrow.ground import jsontext, waiting
from moegrow.source import hub, stores
from moegrow.source.fingerprints import SourceFile as SourceFile
from moegrow.source.fingerprints import digest, read_header
from moegrow.source.header import Header, TensorSpec
from moegrow.source.origin import (
    ANYONE,
    MOST_FILES,
    Access,
    LocalFolder,
    Origin,
    read_whole,
    scheme,
)
from moegrow.source.origin import (
    CARD as CARD,
)
from moegrow.source.origin import (
    CONFIG as CONFIG,
)
from moegrow.source.origin import (
    INDEX as INDEX,
)

PLAN = "moegrow-plan.jsonl"
DIGESTS = "moegrow-digests.jsonl"
OWN = (CARD, PLAN, DIGESTS)  # what a grown checkpoint has of its own, beside its weights

# Files beside the config that speak of quantisation too, and the method of the library that writes
# each: most of them do not name it.
QUANT_FILES = {
    "hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq",
    "quantization_config.json": "auto-round",
}  # fmt: skip

# Bytes of a config and of an index, and tensors: far more than any model has.
LARGEST_CONFIG, LARGEST_INDEX = 16 << 20, 100 << 20
MOST_TENSORS = 1_000_000

T = TypeVar("T")

# Weights in any format, and what a training run leaves beside them: none of it fits the new model.
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|h5|msgpack|npz|npy|tflite|pdparams"
    r"|pkl|pickle|distcp|index\.json|partial|incomplete|lock|tmp)"
)
_SHARD = re.compile(r"model-(\d{1,9})-of-(\d{1,9})\.safetensors", re.ASCII)

# Formats whose files run code when they are opened, or that other programs write.
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".gguf", ".h5", ".msgpack")


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: its config, and where each tensor lies in which file."""

    origin: Origin
    config_text: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: tuple[SourceFile, ...]
    side_files: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.origin.name

    @property
    def location(self) -> str:
        return self.origin.location

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.stop - tensor.start for tensor in self.tensors.values())

    @property
    def config_digest(self) -> str:
        return hashlib.sha256(self.config_text.encode()).hexdigest()


class Found(NamedTuple):
    """Where a source is, and the one weight file that is meant, or "" for all of them."""

    origin: Origin
    only: str


def open_checkpoint(source: str | os.PathLike[str], access: Access = ANYONE) -> Checkpoint:
    """The checkpoint in the folder `source`, or the one file `source` with config.json beside it.

    A source that is an address, such as hf://org/name, is far away, and so is org/name where there
    is no such folder: it is opened with what `access` gives. Raises MoegrowError where there is
    none, or where its files contradict each other.
    """
    origin, only = _find(source, access)
    weight_map = _weight_map(origin)
    named = set((weight_map or {}).values())
    if only in named and len(named) > 1:
        raise MoegrowError(
            f"{source} is one of the files of a checkpoint, by the {INDEX} beside it",
            f"give the folder: {origin.location}",
        )
    config_text = _read_config(origin)
    config = jsontext.loads(config_text, CONFIG, infinities=True, is_shallow=True)
    names = [only] if only else _weight_files(origin, weight_map)
    headers = _read_headers(origin, names)
    tensors: dict[str, TensorSpec] = {}
    problems = []
    for header in headers.values():
        for tensor in header.tensors:
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                problems.append(f"{tensor.name} is in both {other.file} and {tensor.file}")
    if not only and weight_map is not None:
        problems += _index_problems(weight_map, tensors)
    raise_all(f"{origin.name} contradicts itself", problems)
    if not tensors:
        raise MoegrowError(f"{origin.name} holds no tensors")
    digests = _each(origin, sorted(headers), lambda name: digest(origin, name, headers[name]))
    files = tuple(SourceFile(name, headers[name].size, digests[name]) for name in sorted(headers))
    return Checkpoint(
        origin, config_text, config, tensors, files, tuple(sorted(_side_files(origin)))
    )


def _find(source: str | os.PathLike[str], access: Access) -> Found:
    """Where a source is; a folder or a file on this machine comes before a repository."""
    path, text = user_path(source), os.fspath(source)
    if isinstance(source, str):
        if scheme(text) not in ("", "hf"):
            return Found(*stores.find(text, access))
        if scheme(text) or (hub.looks_like_one(text) and not os.path.lexists(path)):
            return Found(*hub.find(text, access))
    if access.revision is not None:
        raise UsageError(
            f"--revision goes with a repository of the Hub, and {text} is none",
            "leave it out, or give org/name",
        )
    try:
        return _here(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MoegrowError(f"{path} cannot be opened: {reason}") from None


def _here(path: Path) -> Found:
    """What a path on this machine means: a folder, or one file with config.json beside it."""
    if path.name in (CONFIG, INDEX) and path.is_file():
        raise MoegrowError(f"{path} is a part of a checkpoint", f"give its folder: {path.parent}")
    if not path.exists():
        raise MoegrowError(f"{path} does not exist", "check the path; nothing was written")
    if path.is_dir():
        return Found(LocalFolder(path.resolve()), "")
    if path.suffix != ".safetensors":
        raise MoegrowError(
            f"{path} is neither a folder, a .safetensors file nor a plan",
            _conversion(path.parent) if path.suffix in _FOREIGN else "give a checkpoint's folder",
        )
    return Found(LocalFolder(path.parent.resolve()), path.name)


def _conversion(place: str | Path) -> str:
    """How a person gets a checkpoint of another format into one that can be read safely."""
    return (
        "moegrow opens no pickles and no other formats; if you trust it, convert it first: load it"
        f" with transformers from {place} and call save_pretrained, which writes safetensors"
    )


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means, with ~ for a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise MoegrowError(f"{os.fspath(text)}: there is no such user") from None


def _read_config(origin: Origin) -> str:
    if not origin.has(CONFIG):
        found = origin.below(CONFIG)
        raise MoegrowError(
            f"{origin.location} holds no {CONFIG}",
            f"did you mean {found[0]}?" if found else "a checkpoint folder has one",
        )
    return _read_text(origin, CONFIG, LARGEST_CONFIG)


def _read_text(origin: Origin, name: str, most: int) -> str:
    """The text of a small file; raises MoegrowError where it is larger, or no UTF-8."""
    origin.check(name)
    try:
        return read_whole(origin, name, most).decode("utf-8")
    except UnicodeDecodeError:
        raise MoegrowError(f"{name} of {origin.location} is not UTF-8 text") from None


def _weight_files(origin: Origin, weight_map: Mapping[str, str] | None) -> list[str]:
    """The names of the weight files: by the index, or else the only ones there are."""
    if weight_map is not None:
        return sorted(set(weight_map.values()))
    top, where = origin.top(), origin.location
    found = [name for name in top if name.endswith(".safetensors")]
    shards = [name for name in found if _SHARD.fullmatch(name)]
    for candidates in (["model.safetensors"], shards, found):
        if candidates and set(candidates) <= set(found):
            break
    if not found:
        other = [name for name in top if Path(name).suffix in _FOREIGN]
        raise MoegrowError(
            f"{where} holds no .safetensors files" + (f", only {other[0]}" if other else ""),
            _conversion(where) if other else "give the folder that holds the weights",
        )
    if candidates is shards:
        total = max(int(match[2]) for name in shards if (match := _SHARD.fullmatch(name)))
        if len(shards) != total:
            raise MoegrowError(
                f"{where} holds {len(shards)} shards of {total} and no {INDEX}",
                "fetch the missing shards and the index",
            )
    elif len(candidates) > 1:
        raise MoegrowError(
            f"{where} holds {len(candidates)} .safetensors files and no {INDEX}",
            f"name the one you mean, for example {where}/{candidates[0]}",
        )
    return candidates


def _weight_map(origin: Origin) -> dict[str, str] | None:
    """Tensor name → file name, as the index has it, each name checked to stay in the folder.

    None where there is no index.
    """
    if not origin.has(INDEX):
        return None
    text = _read_text(origin, INDEX, LARGEST_INDEX)
    weight_map = jsontext.loads(text, INDEX, most=MOST_TENSORS).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise MoegrowError(f"{INDEX} holds no weight_map from tensors to files")
    files = set(weight_map.values())
    if len(files) > MOST_FILES:
        raise MoegrowError(f"{INDEX} names {len(files)} files, and the most is {MOST_FILES}")
    for file in files:
        if Path(file).name != file or file in ("", ".", "..") or "\\" in file:
            raise MoegrowError(
                f"{INDEX} names {file!r}, which is not a file in the checkpoint's own folder"
            )
    return weight_map


def _index_problems(
    weight_map: Mapping[str, str], tensors: Mapping[str, TensorSpec]
) -> Iterator[str]:
    """Where the index says something else than the files."""
    if weight_map == {name: tensor.file for name, tensor in tensors.items()}:
        return
    for name, file in weight_map.items():
        if name not in tensors:
            yield f"{INDEX} promises {name} in {file}, which does not hold it"
        elif tensors[name].file != file:
            yield f"{INDEX} promises {name} in {file}, and it is in {tensors[name].file}"
    for name, tensor in tensors.items():
        if name not in weight_map:
            yield f"{tensor.file} holds {name}, which {INDEX} does not name"


def _read_headers(origin: Origin, names: list[str]) -> dict[str, Header]:
    missing = [name for name in names if not origin.has(name)]
    raise_all(
        f"{origin.location} is not complete",
        [f"{name} is missing" for name in missing],
        "fetch the missing files; nothing was written",
    )

    count = 0

    def read(name: str) -> Header:
        nonlocal count
        origin.check(name)
        header = read_header(origin, name)
        count += len(header.tensors)
        if count > MOST_TENSORS:
            raise MoegrowError(f"{origin.location} holds more than {MOST_TENSORS} tensors")
        return header

    return _each(origin, names, read)


def _each(origin: Origin, names: list[str], read: Callable[[str], T]) -> dict[str, T]:
    """What `read` gives for each name, several at a time where each has to be waited for."""
    if not origin.threads:
        return {name: read(name) for name in names}
    with waiting.pool(origin.threads) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def _side_files(origin: Origin) -> Iterator[str]:
    """What travels with the weights unchanged: tokenizer, chat template, code, licence and so on.

    Hidden files and folders stay behind, and so do weights, the index, the model card (the new
    checkpoint gets its own), and plan and digests of an earlier growth. Raises MoegrowError for
    links that lead out of the checkpoint, and for anything but plain files and folders.
    """
    for name in origin.walk(_stays_behind):
        if name != CONFIG:
            origin.check(name)
            yield name


def _stays_behind(name: str) -> bool:
    """Whether a file or a folder is nothing that travels."""
    return name in OWN or _WEIGHTS.fullmatch(Path(name).name.lower()) is not None


def index_text(weight_map: Mapping[str, str], *, total_size: int, total_parameters: int) -> str:
    """The index of a sharded checkpoint: tensor bytes, elements, and tensor name → file name."""
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    return json.dumps({"metadata": metadata, "weight_map": dict(weight_map)}, indent=2) + "\n"
