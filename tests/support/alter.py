"""Copies of checkpoints, changed by hand: fixtures for tests of what goes wrong."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD

if TYPE_CHECKING:
    import torch


def copy(source: Path, folder: Path) -> Path:
    """A copy of the checkpoint in `folder`, under its own name."""
    return shutil.copytree(source, folder / source.name)


@contextmanager
def table(file: Path) -> Iterator[dict[str, Any]]:
    """The table in a JSON file, written back at the end."""
    found = json.loads(file.read_text())
    yield found
    file.write_text(json.dumps(found, indent=2))


@contextmanager
def weights(folder: Path) -> Iterator[dict[str, "torch.Tensor"]]:
    """The tensors of a checkpoint, written back as one file at the end."""
    import tiny

    found = tiny.tensors(folder)
    yield found
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    save(folder / "model.safetensors", found)


def save(file: Path, tensors: dict[str, "torch.Tensor"]) -> None:
    """A safetensors file as transformers writes it."""
    from safetensors.torch import save_file

    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()}, file, metadata={"format": "pt"}
    )


def touch(folder: Path) -> None:
    """Write to a shard of a checkpoint, as its time tells, without a change of its bytes."""
    path = next(folder.glob("*.safetensors"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def flip(file: Path, byte: int, mask: int = 1) -> None:
    """Change one byte of a file; every bit of `mask` is turned over."""
    content = bytearray(file.read_bytes())
    content[byte] ^= mask
    file.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(one: Path, other: Path) -> bool:
    """Whether two results hold the same files, but for what names their sources."""
    left, right = contents(one), contents(other)
    assert left.keys() == right.keys()
    # The first of the digests are those of the other two, and the last is that of the digests.
    shards = [(folder / DIGESTS).read_text().splitlines()[1:-1] for folder in (one, other)]
    assert shards[0] == shards[1]
    return {name for name in left if left[name] != right[name]} <= {PLAN, DIGESTS, CARD}
