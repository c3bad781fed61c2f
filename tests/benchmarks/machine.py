"""What a measurement ran on: the machine, the filesystem, and the versions of what was measured."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from moegrow.files.byte_ranges import cores

PACKAGES = ("moegrow", "numpy", "torch", "transformers", "safetensors")


def describe(folder: Path) -> dict[str, str]:
    """The machine in words, by what they describe; `folder` is where files are written."""
    return {
        "machine": f"{cores()} cores, {_processor()}, {_memory() / 1e9:.0f} GB of memory",
        "load before": f"{os.getloadavg()[0]:.1f} processes in the last minute",
        "system": f"Linux {platform.release()}, {_first_line('cp', '--version')}",
        "filesystem": filesystem(folder),
        "Python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def filesystem(folder: Path) -> str:
    """The type of the filesystem that a folder is on."""
    found, longest = "unknown", -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mounted) and len(mounted) > longest:
            found, longest = kind, len(mounted)
    return found


def version_beside(command: Path, package: str) -> str:
    """The version of a package in the environment that a command belongs to, or "" """
    packages = command.resolve().parent.parent.glob(
        f"lib/python*/site-packages/{package}-*.dist-info"
    )
    return next((path.stem.partition("-")[2] for path in packages), "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
