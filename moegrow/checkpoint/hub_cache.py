"""Put files into the Hub's local cache, in the documented layout of huggingface_hub."""

import os
from collections.abc import Iterable
from pathlib import Path

from moegrow.files.atomic import durable, temporary


def blob_of(repository: str, key: str) -> Path:
    """Where the bytes lie that the Hub knows by a key, whatever file and commit they are of."""
    return _folder(repository) / "blobs" / key


def put(blob: Path, parts: Iterable[bytes]) -> None:
    """Put bytes into the cache, where they appear only when all of them are there."""
    blob.parent.mkdir(parents=True, exist_ok=True)
    with durable(blob) as file:
        file.writelines(parts)


def link(repository: str, commit: str, name: str, blob: Path) -> None:
    """Give a file of a commit the bytes that lie in the cache."""
    path = _folder(repository) / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    made = temporary(path)
    made.symlink_to(os.path.relpath(blob, path.parent))
    made.replace(path)


def _folder(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
