"""Real filesystems of their own for tests, in loop devices, where the tests may make them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, kind: str, *, size: int) -> Iterator[Path]:
    """An empty filesystem that is gone afterwards; its image takes room as it is written to.

    The test is skipped where the programs for it are not there, or only root may mount.
    """
    missing = [name for name in (f"mkfs.{kind}", "mount", "umount") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found")
    if os.geteuid():
        pytest.skip("only root may mount a filesystem")
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    done = subprocess.run(
        ["mount", "-o", "loop", image, disk], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        # What a failed test holds open is freed with this process.
        if subprocess.run(["umount", disk], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", disk], check=True)
        image.unlink()


@contextmanager
def mounted_on(folder: Path, *how: str) -> Iterator[None]:
    """Something mounted on a folder by `mount` with these arguments, and unmounted afterwards.

    The test is skipped where that is not allowed.
    """
    done = subprocess.run(["mount", *how, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
