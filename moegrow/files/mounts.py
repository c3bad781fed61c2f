"""Which folders are mount points, also where the filesystem is the same on both sides."""

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def is_mount(folder: Path) -> bool:
    """Whether another filesystem, or another folder of the same one, is mounted on a folder.

    A mount point can be neither renamed nor replaced by renaming.
    """
    if os.path.ismount(folder):
        return True
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False  # another system than Linux
    real = os.fsencode(folder.resolve())
    return any(_unescaped(line.split(b" ")[4]) == real for line in lines)


def _unescaped(field: bytes) -> bytes:
    """A path as it is, which has spaces and the like as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)
