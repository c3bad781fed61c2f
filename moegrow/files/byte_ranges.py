"""Copy byte ranges between files: shared blocks where the filesystem can, else copies."""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

BLOCK = 4096  # bytes of which filesystems share whole ones alone, at the same place in a block
IN_KERNEL = 64 << 20  # bytes asked for at a time, so that progress shows and runs can be stopped

# `struct file_clone_range` of linux/fs.h, and the request that takes it.
_CLONE_RANGE = struct.Struct("=qQQQ")
_FICLONERANGE = 0x4020940D

_SYNC_FILE_RANGE_WRITE = 2  # of linux/fs.h

# What kernels and filesystems answer when they will not do it between these two files. EIO says
# not which of the two: reading and writing by hand finds out.
_REFUSALS = {
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF,
    errno.EPERM, errno.ETXTBSY, errno.EAGAIN, errno.EIO,
}  # fmt: skip


def cores() -> int:
    """How many cores this process may use, which a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_range(source: int, start: int, count: int, target: int, offset: int) -> bool:
    """Let `target` share `count` bytes of `source` from `start` on, at its own `offset`.

    All three numbers must be multiples of BLOCK. Says whether the filesystem did; where it
    cannot, nothing has changed. Raises OSError where writing fails, on a full disk for example.
    """
    wanted = _CLONE_RANGE.pack(source, start, count, offset)
    try:
        fcntl.ioctl(target, _FICLONERANGE, wanted)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


def copy_range(source: int, start: int, count: int, target: int, offset: int) -> Iterator[int]:
    """Copy `count` bytes of `source` from `start` on to `offset` of `target`, in the kernel.

    Both are file descriptors. Yields the number of bytes after each step, fewer than `count` in
    all where the kernel will not copy between these two files, or the source ends.
    """
    if not hasattr(os, "copy_file_range"):
        return
    while count:
        try:
            done = os.copy_file_range(source, target, min(count, IN_KERNEL), start, offset)
        except OSError as error:
            if error.errno in _REFUSALS:
                return
            raise
        if not done:
            return
        start, offset, count = start + done, offset + done, count - done
        yield done


def start_writing(target: int) -> None:
    """Let the kernel begin to write what it holds of a file to the disk, and wait for nothing.

    Left alone it begins after seconds, or with `fsync`, for which there is then all to wait.
    """
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call:  # only Linux has it; where it fails, fsync does it all
        call(target, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def read_all(source: int, start: int, view: memoryview) -> None:
    """Fill `view` with the bytes of `source` from `start` on, however few come at a time.

    Raises EOFError where the file ends before that.
    """
    while view:
        done = os.preadv(source, [view], start)
        if not done:
            raise EOFError(start)
        start, view = start + done, view[done:]


def write_all(target: int, view: memoryview, offset: int) -> None:
    """Write all bytes at `offset`, however often the kernel takes only some."""
    while view:
        done = os.pwrite(target, view, offset)
        offset, view = offset + done, view[done:]
