"""Copy a range of bytes from file to file: in the kernel where it can, by hand elsewhere."""

import errno
import os
from collections.abc import Iterator

IN_KERNEL = 64 << 20  # bytes asked for at a time, so that progress shows and runs can be stopped
BY_HAND = 8 << 20

# What kernels and filesystems answer when they will not copy between these two files.
_REFUSALS = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


def cores() -> int:
    """How many cores this process may use, which a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copy_range(source: int, start: int, count: int, target: int) -> Iterator[int]:
    """Append `count` bytes of the file `source` from `start` on to the file `target`.

    Both are file descriptors. Yields the number of bytes after each step. Raises EOFError where
    the source ends before that, OSError where reading or writing fails.
    """
    in_kernel = hasattr(os, "copy_file_range")
    while count:
        if in_kernel:
            done = _copy_in_kernel(source, start, min(count, IN_KERNEL), target)
            if not done:
                in_kernel = False
                continue
        else:
            block = os.pread(source, min(count, BY_HAND), start)
            if not block:
                raise EOFError(start)
            done = len(block)
            write_all(target, block)
        start += done
        count -= done
        yield done


def write_all(target: int, block: bytes) -> None:
    """Write all bytes, however often the kernel takes only some."""
    view = memoryview(block)
    while view:
        view = view[os.write(target, view) :]


def _copy_in_kernel(source: int, start: int, count: int, target: int) -> int:
    """Bytes copied, or 0 where this pair of files has to be copied by hand."""
    try:
        return os.copy_file_range(source, target, count, start)
    except OSError as error:
        if error.errno in _REFUSALS:
            return 0
        raise
