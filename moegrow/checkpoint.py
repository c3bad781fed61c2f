"""A checkpoint on disk, known from its config and headers alone; no weight is read to open it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegrow import jsontext
from moegrow.errors import MoegrowError, raise_all
from moegrow.header import LARGEST_HEADER, Header, TensorSpec, read_header
from moegrow.strangers import exists_inside, open_inside, opened, read_text

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
PLAN = "moegrow-plan.jsonl"
DIGESTS = "moegrow-digests.jsonl"
README = "README.md"
OWN = (README, PLAN, DIGESTS)  # what a grown checkpoint has of its own, beside its weights

# Bytes of a config and of an index, tensors and files: far more than any model has.
LARGEST_CONFIG, LARGEST_INDEX = 16 << 20, 100 << 20
MOST_TENSORS, MOST_FILES = 1_000_000, 10_000
DEEPEST = 32  # folders within folders

# Weights in any format, and what a training run leaves beside them: none of it fits the new model.
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|h5|msgpack|npz|npy|tflite|pdparams"
    r"|pkl|pickle|distcp|index\.json|partial|incomplete|lock|tmp)"
)
_SHARD = re.compile(r"model-(\d{1,9})-of-(\d{1,9})\.safetensors", re.ASCII)

# Formats whose files run code when they are opened, or that other programs write.
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".gguf", ".h5", ".msgpack")

SAMPLES = 8  # places of a file whose bytes enter its digest
SAMPLE = 4096  # bytes at each


@dataclass(frozen=True)
class SourceFile:
    """One weight file; `digest` covers its size, its header and samples of its data."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: its config, and where each tensor lies in which file."""

    folder: Path
    config_text: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: tuple[SourceFile, ...]
    side_files: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.stop - tensor.start for tensor in self.tensors.values())

    @property
    def config_digest(self) -> str:
        return hashlib.sha256(self.config_text.encode()).hexdigest()


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in the folder `source`, or the one file `source` with config.json beside it.

    Raises MoegrowError where there is none, or where its files contradict each other.
    """
    path = user_path(source)
    try:
        is_folder, folder, name = _located(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MoegrowError(f"{path} cannot be opened: {reason}") from None
    weight_map = _weight_map(folder)
    if not is_folder and weight_map and name in weight_map.values():
        raise MoegrowError(
            f"{path} is one of the files of a checkpoint, by the {INDEX} beside it",
            f"give the folder: {path.parent}",
        )
    config_text = _read_config(folder)
    config = jsontext.loads(config_text, CONFIG, infinities=True, is_shallow=True)
    names = _weight_files(folder, weight_map) if is_folder else [name]
    headers = _read_headers(folder, names)
    tensors: dict[str, TensorSpec] = {}
    problems = []
    for header in headers.values():
        for tensor in header.tensors:
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                problems.append(f"{tensor.name} is in both {other.file} and {tensor.file}")
    if is_folder and weight_map is not None:
        problems += _index_problems(weight_map, tensors)
    raise_all(f"{folder.name} contradicts itself", problems)
    if not tensors:
        raise MoegrowError(f"{folder.name} holds no tensors")
    files = tuple(
        SourceFile(name, header.size, sampled_digest(folder / name))
        for name, header in sorted(headers.items())
    )
    return Checkpoint(
        folder, config_text, config, tensors, files, tuple(sorted(_side_files(folder)))
    )


def _located(path: Path) -> tuple[bool, Path, str]:
    """Whether a path is a folder, the checkpoint's folder, and the file's name where it is one."""
    if path.name in (CONFIG, INDEX) and path.is_file():
        raise MoegrowError(f"{path} is a part of a checkpoint", f"give its folder: {path.parent}")
    if not path.exists():
        raise MoegrowError(f"{path} does not exist", "check the path; nothing was written")
    if path.is_dir():
        return True, path.resolve(), ""
    if path.suffix != ".safetensors":
        raise MoegrowError(
            f"{path} is neither a folder, a .safetensors file nor a plan",
            _conversion(path.parent) if path.suffix in _FOREIGN else "give a checkpoint's folder",
        )
    return False, path.parent.resolve(), path.name


def _conversion(folder: Path) -> str:
    """How a person gets a checkpoint of another format into one that can be read safely."""
    return (
        "moegrow opens no pickles and no other formats; if you trust it, convert it first: load it"
        f" with transformers from {folder} and call save_pretrained, which writes safetensors"
    )


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means, with ~ for a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise MoegrowError(f"{os.fspath(text)}: there is no such user") from None


def _read_config(folder: Path) -> str:
    if not exists_inside(folder, CONFIG):
        found = sorted([*folder.glob("*/" + CONFIG), *folder.glob("snapshots/*/" + CONFIG)])
        raise MoegrowError(
            f"{folder} holds no {CONFIG}",
            f"did you mean {found[0].parent}?" if found else "a checkpoint folder has one",
        )
    return read_text(folder, CONFIG, LARGEST_CONFIG)


def _weight_files(folder: Path, weight_map: Mapping[str, str] | None) -> list[str]:
    """The names of the folder's weight files: by the index, or else the only ones there are."""
    if weight_map is not None:
        return sorted(set(weight_map.values()))
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    shards = [name for name in found if _SHARD.fullmatch(name)]
    for candidates in (["model.safetensors"], shards, found):
        if candidates and set(candidates) <= set(found):
            break
    if not found:
        other = sorted(path.name for path in folder.iterdir() if path.suffix in _FOREIGN)
        raise MoegrowError(
            f"{folder} holds no .safetensors files" + (f", only {other[0]}" if other else ""),
            _conversion(folder) if other else "give the folder that holds the weights",
        )
    if candidates is shards:
        total = max(int(match[2]) for name in shards if (match := _SHARD.fullmatch(name)))
        if len(shards) != total:
            raise MoegrowError(
                f"{folder} holds {len(shards)} shards of {total} and no {INDEX}",
                "fetch the missing shards and the index",
            )
    elif len(candidates) > 1:
        raise MoegrowError(
            f"{folder} holds {len(candidates)} .safetensors files and no {INDEX}",
            f"name the one you mean, for example {folder / candidates[0]}",
        )
    return candidates


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Tensor name → file name, as the index has it, each name checked to stay in the folder.

    None where there is no index.
    """
    if not exists_inside(folder, INDEX):
        return None
    table = jsontext.loads(read_text(folder, INDEX, LARGEST_INDEX), INDEX, most=MOST_TENSORS)
    weight_map = table.get("weight_map")
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


def _read_headers(folder: Path, names: list[str]) -> dict[str, Header]:
    missing = [name for name in names if not exists_inside(folder, name)]
    raise_all(
        f"{folder} is not complete",
        [f"{name} is missing" for name in missing],
        "fetch the missing files; nothing was written",
    )
    headers: dict[str, Header] = {}
    count = 0
    for name in names:
        headers[name] = read_header(folder / name)
        count += len(headers[name].tensors)
        if count > MOST_TENSORS:
            raise MoegrowError(f"{folder} holds more than {MOST_TENSORS} tensors")
    return headers


def _side_files(folder: Path) -> Iterator[str]:
    """What travels with the weights unchanged: tokenizer, chat template, code, licence and so on.

    Hidden files and folders stay behind, and so do weights, the index, the model card (the new
    checkpoint gets its own), and plan and digests of an earlier growth. Raises MoegrowError for
    links that lead out of the checkpoint, and for anything but plain files and folders.
    """
    waiting = [Path()]
    count = 0
    while waiting:
        place = waiting.pop()
        for entry in _entries(folder, place):
            name = str(place / entry.name)
            if entry.name.startswith(".") or _WEIGHTS.fullmatch(entry.name.lower()):
                continue
            if exists_inside(folder / name, CONFIG):
                # Another checkpoint in a folder of this one, as training runs leave them.
                continue
            if entry.is_dir(follow_symlinks=False) and name not in OWN:
                waiting.append(place / entry.name)
            elif name not in (CONFIG, *OWN):
                os.close(open_inside(folder, name))
                yield name
            count += 1
            if count > MOST_FILES or len(place.parts) > DEEPEST:
                raise MoegrowError(
                    f"{folder} holds more than {MOST_FILES} files, or folders more than {DEEPEST}"
                    " deep",
                    "give the folder of one checkpoint",
                )


def _entries(folder: Path, place: Path) -> list[os.DirEntry[str]]:
    """What a folder of the checkpoint holds, in alphabetical order."""
    try:
        with os.scandir(folder / place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise MoegrowError(f"{folder / place} cannot be read: {error.strerror}") from None


def sampled_digest(path: Path) -> str:
    """SHA-256 over the size of a safetensors file, its header and samples of its data.

    The samples tell a file whose weights were trained on in place, under the same header, from
    the one a plan was made of, wherever the file has been copied to in the meantime.
    """
    with opened(path.parent, path.name) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        header = file.read(8 + min(length, LARGEST_HEADER))
        digest = hashlib.sha256(f"{size} {hashlib.sha256(header).hexdigest()}".encode())
        room = max(size - len(header) - SAMPLE, 0)
        for number in range(SAMPLES):
            file.seek(len(header) + room * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def index_text(weight_map: Mapping[str, str], *, total_size: int, total_parameters: int) -> str:
    """The index of a sharded checkpoint: tensor bytes, elements, and tensor name → file name."""
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    return json.dumps({"metadata": metadata, "weight_map": dict(weight_map)}, indent=2) + "\n"
