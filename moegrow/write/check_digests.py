"""Check a written checkpoint against its own digests."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.side_files import DIGESTS
from moegrow.errors import MoegrowError
from moegrow.files import worker_threads
from moegrow.files.untrusted import exists_inside
from moegrow.write.digests import Digests, ShardDigests, damage, file_digest, read_digests


class Held(NamedTuple):
    """What holding the tensors against digests showed: problems, and how many bytes were held."""

    problems: list[str]
    nbytes: int


def kept_digests(folder: Path) -> tuple[Digests | None, list[str]]:
    """The digests in a folder, or None and the problem with them."""
    if not (folder / DIGESTS).is_file():
        return None, [f"{DIGESTS} is missing"]
    try:
        return read_digests(folder / DIGESTS), []
    except MoegrowError as error:
        return None, [error.message]


def is_as_written(folder: Path, kept: Digests, name: str) -> bool:
    """Whether a file beside the weights has the digest that was kept, if one was."""
    return kept.files.get(name) in (None, file_digest(folder, name))


def file_problems(folder: Path, kept: Digests) -> Iterator[tuple[str, str]]:
    """The names of files beside the weights that are not as they were written, and what is wrong.

    Names that lead out of the folder are not followed.
    """
    for name in kept.files:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            yield name, f"{name} is not in the folder"
        elif not exists_inside(folder, name):
            yield name, f"{name} is missing"
        else:
            try:
                if not is_as_written(folder, kept, name):
                    yield name, f"{name} is not as it was written"
            except MoegrowError as error:
                yield name, error.message


def hold(
    written: Checkpoint,
    folder: Path,
    kept: Digests,
    *,
    threads: int,
    progress: Callable[[int], None],
) -> Held:
    """Hold every range that has a digest against it, in the files of `folder`.

    The problems say which tensor it is of.
    """
    files = {file.name for file in written.files}
    held = 0
    lock = threading.Lock()

    def problems(entry: ShardDigests) -> list[str]:
        nonlocal held
        if entry.name not in files:
            return [f"{entry.name} is missing"]
        found = [_told(written, entry, *place) for place in damage(folder / entry.name, entry)]
        size = sum(stop - start for start, stop, _ in entry.ranges)
        with lock:
            held += size
        progress(size)
        return found

    with worker_threads.pool(threads) as pool:
        found = [problem for some in pool.map(problems, kept.entries) for problem in some]
    return Held(found, held)


def _told(written: Checkpoint, entry: ShardDigests, start: int, stop: int) -> str:
    if start == stop:
        return f"the header or the size of {entry.name} is not as it was written"
    specs = (spec for spec in written.tensors.values() if spec.file == entry.name)
    for spec in specs:
        if spec.start <= start and stop <= spec.stop:
            return (
                f"{spec.name} is not as it was written, somewhere in bytes {start - spec.start}"
                f" to {stop - spec.start} of its {spec.stop - spec.start} ({entry.name})"
            )
    return f"bytes {start} to {stop} of {entry.name} are not as they were written"
