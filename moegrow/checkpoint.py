"""A checkpoint on disk, known from its config and headers alone; no weight is read to open it."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegrow import jsontext
from moegrow.errors import MoegrowError, raise_all
from moegrow.header import LARGEST_HEADER, Header, TensorSpec, read_header

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
PLAN = "moegrow-plan.jsonl"
DIGESTS = "moegrow-digests.jsonl"

# Weights in any format, and what a training run leaves beside them: none of it fits the new model.
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|h5|msgpack|npz|npy|tflite|pdparams"
    r"|pkl|pickle|distcp|index\.json|partial|incomplete|lock|tmp)"
)
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")

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
    if path.name in (CONFIG, INDEX) and path.is_file():
        raise MoegrowError(f"{path} is a part of a checkpoint", f"give its folder: {path.parent}")
    if not path.exists():
        raise MoegrowError(f"{path} does not exist", "check the path; nothing was written")
    folder = path if path.is_dir() else path.parent
    folder = folder.resolve()
    if not path.is_dir() and path.suffix != ".safetensors":
        raise MoegrowError(
            f"{path} is neither a folder, a .safetensors file nor a plan",
            "convert other formats first: load the model with transformers and call"
            " save_pretrained",
        )
    weight_map = _weight_map(folder)
    if path.is_file() and weight_map and path.name in weight_map.values():
        raise MoegrowError(
            f"{path} is one of the files of a checkpoint, by the {INDEX} beside it",
            f"give the folder: {path.parent}",
        )
    config_text = _read_config(folder)
    config = jsontext.loads(config_text, CONFIG, infinities=True)
    names = [path.name] if path.is_file() else _weight_files(folder, weight_map)
    headers = _read_headers(folder, names)
    tensors: dict[str, TensorSpec] = {}
    problems = []
    for header in headers.values():
        for tensor in header.tensors:
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                problems.append(f"{tensor.name} is in both {other.file} and {tensor.file}")
    if path.is_dir() and weight_map is not None:
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


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means, with ~ for a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise MoegrowError(f"{os.fspath(text)}: there is no such user") from None


def _read_config(folder: Path) -> str:
    path = folder / CONFIG
    if not path.exists():
        found = sorted(folder.glob("*/" + CONFIG))
        raise MoegrowError(
            f"{folder} holds no {CONFIG}",
            f"did you mean {found[0].parent}?" if found else "a checkpoint folder has one",
        )
    _check_inside(folder, CONFIG)
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise MoegrowError(f"{path} is not UTF-8 text") from None


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
        other = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt"))
        raise MoegrowError(
            f"{folder} holds no .safetensors files" + (f", only {other[0]}" if other else ""),
            "convert it first: load it with transformers and call save_pretrained"
            if other
            else "give the folder that holds the weights",
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
    if not (folder / INDEX).exists():
        return None
    _check_inside(folder, INDEX)
    table = jsontext.loads((folder / INDEX).read_text("utf-8", "replace"), INDEX)
    weight_map = table.get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise MoegrowError(f"{INDEX} holds no weight_map from tensors to files")
    for file in set(weight_map.values()):
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
    missing = [name for name in names if not (folder / name).exists()]
    raise_all(
        f"{folder} is not complete",
        [f"{name} is missing" for name in missing],
        "fetch the missing files; nothing was written",
    )
    for name in names:
        _check_inside(folder, name)
    return {name: read_header(folder / name) for name in names}


def _side_files(folder: Path) -> Iterator[str]:
    """What travels with the weights unchanged: tokenizer, chat template, code, licence and so on.

    Hidden files and folders stay behind, and so do weights, the index, the model card (the new
    checkpoint gets its own), and plan and digests of an earlier growth.
    """
    for root, folders, files in os.walk(folder):
        # Another checkpoint in a folder of this one, as training runs leave them, is not a part.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not Path(root, name, CONFIG).exists()
        )
        for name in files:
            path = Path(root, name).relative_to(folder)
            if name.startswith(".") or _WEIGHTS.fullmatch(name.lower()):
                continue
            if str(path) in (CONFIG, "README.md", PLAN, DIGESTS):
                continue
            _check_inside(folder, str(path))
            yield str(path)


def _check_inside(folder: Path, name: str) -> None:
    """Refuse anything but a plain file, and links that lead out of the checkpoint.

    A tokenizer file that links to a private key must not end up in a published model. The one
    exception is a snapshot of the Hub cache, whose files are links into the `blobs` folder of
    the same repository.
    """
    path = folder / name
    target = path.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    if path.is_symlink() and not any(target.is_relative_to(place) for place in allowed):
        raise MoegrowError(
            f"{path} is a link that leads out of the checkpoint, to {target}",
            "replace the link by the file itself",
        )
    if not target.exists():
        raise MoegrowError(f"{path} is a link to {target}, which does not exist")
    if not stat.S_ISREG(target.stat().st_mode):
        raise MoegrowError(f"{path} is not a plain file")


def sampled_digest(path: Path) -> str:
    """SHA-256 over the size of a safetensors file, its header and samples of its data.

    The samples tell a file whose weights were trained on in place, under the same header, from
    the one a plan was made of, wherever the file has been copied to in the meantime.
    """
    with path.open("rb") as file:
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
