"""The working folder of a run: OUT.partial, with its lock and a journal of finished shards.

It holds the result as far as there is one, the journal, which has one entry for each finished
shard, and what the run began with. The result is moved out of it as a whole.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegrow import jsontext
from moegrow.checkpoint import PLAN
from moegrow.digests import Entry, damage, entry
from moegrow.durable import TEMPORARY, durable, sync
from moegrow.errors import MoegrowError
from moegrow.shards import Shard

PARTIAL = ".partial"
LOCK, OWNER, BEGUN, JOURNAL, RESULT = ".moegrow-lock", "owner", "begun.json", "journal", "result"

# What flock answers where another holds the lock; all else means that there are no locks.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@dataclass(frozen=True)
class Partial:
    """A working folder that this process holds."""

    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / RESULT

    @property
    def is_begun(self) -> bool:
        """Whether a run has written down what it is about to do, and has not published it."""
        return (self.folder / BEGUN).is_file() and self.result.is_dir()

    def begin(self, facts: Mapping[str, object]) -> None:
        """Write down what the run begins with; what it goes by must be in the result already."""
        (self.folder / JOURNAL).mkdir(exist_ok=True)
        with durable(self.folder / BEGUN) as file:
            file.write(json.dumps(dict(facts), indent=1).encode())
        sync(self.folder)

    def facts(self) -> dict[str, Any]:
        """What the run began with; raises MoegrowError where that cannot be read."""
        text = (self.folder / BEGUN).read_text("utf-8", "replace")
        return jsontext.loads(text, str(self.folder / BEGUN))

    def note(self, entry: Entry) -> None:
        """Keep the entry of a shard that is complete and is about to get its name."""
        with durable(self._entry_path(entry.name)) as file:
            file.write(entry.line().encode())
        sync(self.folder / JOURNAL)

    def entry(self, shard: Shard) -> Entry | None:
        """The entry of a shard that has been finished, or None."""
        if not (self.result / shard.name).is_file():
            return None
        try:
            return Entry.read(self._entry_path(shard.name).read_text("utf-8", "replace"))
        except (OSError, ValueError, MoegrowError):
            return None

    def noted(self, shard: Shard) -> Entry:
        """The entry of a shard that must have been finished."""
        kept = self.entry(shard)
        if kept is None:
            raise MoegrowError(f"{shard.name} is gone from {self.result}", "run it again")
        return kept

    def finished(self) -> int:
        """How many shards are finished, as far as their names tell."""
        journal = self.folder / JOURNAL
        names = {path.name for path in journal.glob("*.json")} if journal.is_dir() else set()
        return sum(f"{path.name}.json" in names for path in self.result.glob("*.safetensors"))

    def check(
        self, shards: tuple[Shard, ...], threads: int, say: Callable[[str], None]
    ) -> frozenset[int]:
        """The numbers of the shards that are finished and as they were noted.

        One that is not is told to `say`, and loses its name and its entry. Nothing else stays in
        the result but the plan.
        """
        names = {PLAN, *(shard.name for shard in shards)}
        for path in [*self.result.iterdir()]:
            if path.name not in names:
                _remove(path)

        def is_good(shard: Shard) -> bool:
            kept = self.entry(shard)
            path = self.result / shard.name
            if kept and kept == entry(shard, kept.ranges) and not any(damage(path, kept)):
                return True
            if kept:
                say(f"{shard.name} was damaged after it was finished; it is written again")
            path.unlink(missing_ok=True)
            self._entry_path(shard.name).unlink(missing_ok=True)
            return False

        with ThreadPoolExecutor(max_workers=threads) as pool:
            good = list(pool.map(is_good, shards))
        return frozenset(number for number, is_kept in enumerate(good) if is_kept)

    def tidy(self) -> None:
        """Remove what a run that has ended was in the middle of writing."""
        for path in [*self.folder.rglob(f"*{TEMPORARY}")]:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything but the lock."""
        # What makes the folder one to go on with goes first.
        (self.folder / BEGUN).unlink(missing_ok=True)
        for path in [*self.folder.iterdir()]:
            if path.name not in (LOCK, OWNER):
                _remove(path)

    def remove(self) -> None:
        """Remove the folder, its lock last, so that it is known as moegrow's to the end."""
        self.clear()
        (self.folder / OWNER).unlink(missing_ok=True)
        (self.folder / LOCK).unlink()
        self.folder.rmdir()

    def _entry_path(self, name: str) -> Path:
        return self.folder / JOURNAL / f"{name}.json"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def partial_of(target: Path) -> Path:
    """The working folder of a result: beside it, so that one rename moves it out."""
    return target.with_name(target.name + PARTIAL)


def kept_of(target: Path) -> int:
    """How many finished shards of an earlier run wait for one that goes on with it."""
    partial = Partial(partial_of(target))
    return partial.finished() if partial.is_begun else 0


@contextmanager
def locked(target: Path, *, shared: bool = False) -> Iterator[Partial]:
    """The working folder of a target, made where it is missing, held by this process alone.

    With `shared` others may hold it at the same time in that way. Raises MoegrowError where it is
    held, where the folder is not moegrow's, or cannot be written.
    """
    folder = partial_of(target)
    while True:
        if os.path.lexists(folder) and not _is_ours(folder):
            raise MoegrowError(
                f"{folder} is in the way, and moegrow did not make it",
                "move it elsewhere, or give another -o",
            )
        try:
            folder.mkdir(exist_ok=True)
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if folder.parent.is_dir():
                continue  # another run removed it just now
            raise MoegrowError(f"{folder.parent} is gone") from None
        except OSError as error:
            raise MoegrowError(
                f"cannot write to {folder}: {error.strerror}", "give another -o"
            ) from None
        is_owner = False
        try:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _HELD:
                    raise MoegrowError(
                        f"another moegrow is writing {target}", "wait for it, or give another -o"
                    ) from None
                is_owner = _own(folder, target, shared=shared)
            if not _is_open_as(lock, folder / LOCK):
                continue  # the run that held the lock has removed the folder
            yield Partial(folder)
            return
        finally:
            if is_owner:
                (folder / OWNER).unlink(missing_ok=True)
            os.close(lock)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether the file that is open is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether moegrow made a folder: it has a lock, or nothing at all yet."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / LOCK).is_file() or not any(folder.iterdir())


def _own(folder: Path, target: Path, *, shared: bool) -> bool:
    """Take a working folder on a filesystem without locks: by a file that names who has it.

    Says whether there is such a file now: those that share the folder write none. A process of
    this machine that has ended is known to have done so; of one on another machine nobody can
    tell, so its file must be removed by hand.
    """
    path, here = folder / OWNER, socket.gethostname()
    if path.exists():
        host, _, process = path.read_text().partition(" ")
        if host != here or Path("/proc", process).exists():
            raise MoegrowError(
                f"process {process} on {host} is writing {target}, as {path} says",
                f"wait for it; if it has ended: rm {path}",
            )
        path.unlink(missing_ok=True)
    if shared:
        return False
    with path.open("x") as file:
        file.write(f"{here} {os.getpid()}")
    return True
