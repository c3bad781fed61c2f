"""Find folders that cannot be renamed: mount points and layers of overlay filesystems."""

import errno
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


def try_moving(folder: Path, full: Path) -> None:
    """Raise OSError where a folder cannot be moved to where `full` is, one that is not empty.

    It stays in its place, since a full folder is not replaced, and a filesystem that cannot move
    `folder` at all says so first: an overlay with one of a lower layer, for example.
    """
    try:
        folder.rename(full)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        full.rename(folder)  # a filesystem that replaces full folders


def _unescaped(field: bytes) -> bytes:
    """A path as it is, which has spaces and the like as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)
