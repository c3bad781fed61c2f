"""Write past the page cache with O_DIRECT.

Copying what is written into the kernel's memory takes longer than a good disk does, and pushes out
of it what others had there. A disk takes whole blocks alone, from memory that begins with a block;
the ends of a range go the usual way.
"""

import mmap
import os
from pathlib import Path

import numpy as np

from moegrow.files.byte_ranges import BLOCK, write_all
from moegrow.kernels.perturb import Bytes

SMALLEST = 64 << 20  # bytes of a file from which on it is worth it
WIDEST = 8  # bytes of the largest number
BOUNCE = 1 << 20  # bytes moved at a time to where the disk takes them


def is_of_use(folder: Path, size: int) -> bool:
    """Whether a file of `size` bytes in a folder is written past the cache, if that is possible.

    It is left to filesystems that lie on a disk of this machine: those far away have requests to
    put together, and others bytes to check or compress.
    """
    return size >= SMALLEST and hasattr(os, "O_DIRECT") and os.major(folder.stat().st_dev) != 0


def open_direct(path: Path, size: int) -> int | None:
    """A file that will have `size` bytes, opened for that; None where it is of no use."""
    if not is_of_use(path.parent, size):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None


def room(size: int) -> Bytes:
    """Memory for `size` bytes and a block more, which begins with a block."""
    return np.frombuffer(mmap.mmap(-1, size + BLOCK), np.uint8)


def placed(memory: Bytes, size: int, offset: int) -> Bytes:
    """`size` bytes of a room that lie in their block as the byte `offset` of a file does.

    Where that is no place for a number, they begin a little before.
    """
    start = offset % BLOCK // WIDEST * WIDEST
    return memory[start : start + size]


def write(direct: int, target: int, view: Bytes, offset: int, bounce: Bytes) -> None:
    """Write `view` at `offset`: whole blocks to `direct`, the rest to `target`, the same file.

    Bytes that do not lie as they will in the file are moved to `bounce` first, a room.
    """
    first = min(-offset % BLOCK, view.size)
    last = max(first, view.size - (offset + view.size) % BLOCK)
    write_all(target, view[:first].data, offset)
    is_placed = (view.ctypes.data + first) % BLOCK == 0
    step = last - first if is_placed else BOUNCE
    for at in range(first, last, step or 1):
        part = view[at : min(last, at + step)]
        if not is_placed:
            moved = bounce[: part.size]
            np.copyto(moved, part)
            part = moved
        done = os.pwrite(direct, part.data, offset + at)
        # A disk that is full takes some, and the usual way says so.
        write_all(target, part[done:].data, offset + at + done)
    write_all(target, view[last:].data, offset + last)
