"""Object stores as stores of checkpoints, through fsspec drivers."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from moegrow.checkpoint.listing import Listed, RemoteFile, entry, safe
from moegrow.checkpoint.store import Access, names_weights, scheme, short_name
from moegrow.checkpoint.store_limits import LateError, listed, read_part
from moegrow.errors import MoegrowError, Parameter, UsageError
from moegrow.files.worker_threads import wait

# The driver of each kind of address, and the extra of moegrow that brings it along.
DRIVERS = {
    "s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"), "abfs": ("adlfs", "az"), "abfss": ("adlfs", "az"),
}  # fmt: skip

_VERSIONS = (
    "ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime", "created",
)  # fmt: skip

TRIES = 4  # besides those that the driver makes itself
FIRST_WAIT = 0.5  # seconds, doubling


class ObjectStore(Listed):
    """The files below an address of an object store."""

    def __init__(
        self, location: str, root: str, files: Mapping[str, RemoteFile], filesystem: Any
    ) -> None:
        super().__init__(location, files)
        self._root = root
        self._filesystem = filesystem

    @property
    def name(self) -> str:
        return short_name(self.location)

    def check(self, name: str) -> None:
        """A store holds nothing but plain files."""

    def open(self, name: str) -> int | None:
        return None

    def refresh(self) -> None:
        self._files = _listed(self.location, self._root, self._filesystem)

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        position, stop, failures = start, start + len(view), 0
        if stop > self.size(name):
            raise EOFError(self.size(name))
        while position < stop:
            with explained(self.location):
                try:
                    part = read_part(self._filesystem, f"{self._root}/{name}", position, stop)
                except (FileNotFoundError, PermissionError, InterruptedError):
                    raise
                except Exception:
                    # Drivers raise what their libraries do; some of it mends itself.
                    part = b""
                    if failures + 1 >= TRIES:
                        raise
            if len(part) > stop - position:
                raise MoegrowError(f"{self.location} sends more of {name} than was asked for")
            view[position - start : position - start + len(part)] = part
            position += len(part)
            failures = 0 if part else failures + 1
            if failures >= TRIES:
                raise EOFError(position)
            if failures:
                wait(FIRST_WAIT * 2 ** (failures - 1))


def find(text: str, access: Access) -> tuple[ObjectStore, str]:
    """The checkpoint at an address, and the weight file or index if the address names one.

    Raises MoegrowError where there is none, where it may not be read, or where the driver for
    such addresses is not installed.
    """
    kind = scheme(text)
    if kind not in DRIVERS:
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise UsageError(f"{kind}:// is no address of a source", f"known: hf://, {known}")
    if access.revision is not None:
        raise UsageError(
            Parameter("revision") + " goes with a repository of the Hub", "leave it out"
        )
    if re.match(r"[a-z0-9]+://[^/]*:[^/]*@", text) or "::" in text or "?" in text:
        raise UsageError(
            f"an address is a bucket and a path, and nothing else: {kind}://bucket/folder",
            "keys and settings are taken from where the store's own tools have them",
        )
    driver, extra = DRIVERS[kind]
    try:
        from fsspec.core import url_to_fs

        with explained(text):
            filesystem, root = url_to_fs(text.rstrip("/"))
    except ImportError:
        raise MoegrowError(
            f"to read from {kind}:// takes {driver}, which is not installed",
            f"pip install {driver}, or install moegrow with its extra: moegrow[{extra}]",
        ) from None
    location, only = text.rstrip("/"), ""
    if names_weights(location.rpartition("/")[2]):
        (location, _, only), root = location.rpartition("/"), root.rpartition("/")[0]
    files = _listed(location, root, filesystem)
    if not files or (only and only not in files):
        raise MoegrowError(
            f"{location} holds no {only or 'files'}", "check the address; nothing was written"
        )
    return ObjectStore(location, root, files, filesystem), only


def _listed(location: str, root: str, filesystem: Any) -> dict[str, RemoteFile]:
    """The files below an address as they are now."""
    with explained(location):
        filesystem.invalidate_cache()
        return listed(filesystem, root, location, _entry)


def _entry(name: str, info: Mapping[str, Any]) -> RemoteFile:
    """What a driver says of a file; its version is another when the file is."""
    # Drivers name the version variously.
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return entry(safe(name), info.get("size"), version=version)


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what a driver raises into messages; its own texts may hold keys, and are not shown."""
    kind = scheme(location)
    driver = DRIVERS[kind][0]
    try:
        yield
    except (ImportError, InterruptedError, MoegrowError):
        raise
    except LateError as error:
        raise MoegrowError(
            f"{location} is read too slowly: {error}",
            f"check the network and the settings of {driver}, which reads {kind}://, and that the"
            " address is the folder of one checkpoint",
        ) from None
    except FileNotFoundError:
        raise MoegrowError(
            f"{location} does not exist, or not all of it any more", "check the address"
        ) from None
    except PermissionError:
        raise MoegrowError(
            f"{location} may not be read", f"{driver} takes keys from where the store's tools do"
        ) from None
    except Exception as error:
        raise MoegrowError(
            f"{location} cannot be read ({type(error).__name__})",
            f"check the network and the settings of {driver}, which reads {kind}://",
        ) from None
