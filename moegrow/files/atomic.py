"""Write files atomically: complete and synced under their names, or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"


def temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses, for what will get its name later."""
    return path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name only when all of it is on the disk.

    The name itself survives a power cut after `sync` of the folder. What fails leaves nothing.
    """
    unfinished = temporary(path)
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
