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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegrow.errors import MoegrowError
from moegrow.ground import jsontext, waiting
from moegrow.ground.durable import TEMPORARY, durable, sync, temporary
from moegrow.source.checkpoint import PLAN
from moegrow.writing.digests import Entry, damage, entry
from moegrow.writing.shards import Shard

PARTIAL = ".partial"
LOCK, OWNER, BEGUN, JOURNAL, RESULT = ".moegrow-lock", "owner", "begun.json", "journal", "result"

# What flock answers where another holds the lock; all else means that there are no locks.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class HeldError(MoegrowError):
    """Another process holds the working folder, in a way that leaves no room for this one."""


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

    def refresh(self) -> None:
        """Make this machine see what processes on others have finished so far.

        A network filesystem may answer from memory until this machine writes there itself.
        """
        for folder in (self.result, self.folder / JOURNAL):
            trial = temporary(folder / "trial")
            trial.touch()
            trial.unlink()

    def missing(self, shards: tuple[Shard, ...]) -> tuple[int, ...]:
        """The numbers of the shards that are not finished, as far as their names tell."""
        named, noted = _names(self.result), _names(self.folder / JOURNAL)
        return tuple(
            number
            for number, shard in enumerate(shards)
            if shard.name not in named or f"{shard.name}.json" not in noted
        )

    def check(
        self,
        shards: tuple[Shard, ...],
        threads: int,
        say: Callable[[str], None],
        *,
        then: str = "it is written again",
    ) -> frozenset[int]:
        """The numbers of the shards that are finished and as they were noted.

        One that is not is told to `say`, and what happens `then`, and loses its name and its entry.
        Nothing else stays in the result but the plan, so nobody else may be writing there.
        """
        names = {PLAN, *(shard.name for shard in shards)}
        for path in [*self.result.iterdir()]:
            if path.name not in names:
                _remove(path)
        good = self.good(shards, range(len(shards)), threads, say, then=then)
        for number, shard in enumerate(shards):
            if number not in good:
                self._drop(shard)
        return good

    def good(
        self,
        shards: tuple[Shard, ...],
        numbers: Iterable[int],
        threads: int,
        say: Callable[[str], None],
        *,
        then: str = "it is written again",
    ) -> frozenset[int]:
        """Those of some shards that are finished and as they were noted.

        One that was finished and is not as it was noted is told to `say`, and loses its name and
        its entry. Others may be writing in the folder, also the same shards.
        """

        def is_good(number: int) -> bool:
            shard = shards[number]
            kept = self.entry(shard)
            if kept is None:
                return False
            path = self.result / shard.name
            if kept == entry(shard, kept.ranges) and not any(damage(path, kept)):
                return True
            say(f"{shard.name} was damaged after it was finished; {then}")
            self._drop(shard)
            return False

        asked = list(numbers)
        with waiting.pool(threads) as pool:
            found = list(pool.map(is_good, asked))
        return frozenset(number for number, is_kept in zip(asked, found, strict=True) if is_kept)

    def _drop(self, shard: Shard) -> None:
        """Take a shard's name and entry away."""
        (self.result / shard.name).unlink(missing_ok=True)
        self._entry_path(shard.name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a run that has ended was in the middle of writing."""
        for path in [*self.folder.rglob(f"*{TEMPORARY}")]:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything but the lock."""
        # What makes the folder one to go on with goes first.
        (self.folder / BEGUN).unlink(missing_ok=True)
        for path in [*self.folder.iterdir()]:
            if path.name != LOCK and not path.name.startswith(OWNER):
                _remove(path)

    def remove(self) -> None:
        """Remove the folder, its lock last, so that it is known as moegrow's to the end."""
        self.clear()
        (self.folder / OWNER).unlink(missing_ok=True)
        (self.folder / LOCK).unlink()
        _remove_empty(self.folder)

    def _entry_path(self, name: str) -> Path:
        return self.folder / JOURNAL / f"{name}.json"


def _names(folder: Path) -> set[str]:
    """The names of what is in a folder; none where it has gone."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _remove_empty(folder: Path) -> None:
    """Remove a folder unless another process has just taken it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise


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
        owner = None
        try:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _HELD:
                    raise HeldError(
                        f"another moegrow is writing {target}", "wait for it, or give another -o"
                    ) from None
                owner = _own(folder, target, shared=shared)
            if not _is_open_as(lock, folder / LOCK):
                continue  # the run that held the lock has removed the folder
            yield Partial(folder)
            return
        finally:
            if owner:
                owner.unlink(missing_ok=True)
            os.close(lock)
            # On a network filesystem the lock is in the way of that until it is closed.
            with suppress(OSError):
                folder.rmdir()


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether the file that is open is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether moegrow made a folder: it has a lock, or nothing at all yet, or is gone again."""
    if folder.is_symlink():
        return False
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    return LOCK in names or all(name.startswith(OWNER) for name in names)


def _own(folder: Path, target: Path, *, shared: bool) -> Path | None:
    """Take a working folder on a filesystem without locks: by a file that names who has it.

    Gives that file, or None where the folder has gone. A process of this machine that has ended is
    known to have done so; of one on another machine nobody can tell, so its file must be removed
    by hand.
    """
    here = socket.gethostname()
    mine = folder / OWNER
    if shared:
        mine = folder / f"{OWNER}-{here}-{os.getpid()}-{os.urandom(4).hex()}"
    else:
        _check_ended(mine, target)
    try:
        with mine.open("x") as file:
            file.write(f"{here} {os.getpid()}")
    except FileNotFoundError:
        return None
    except FileExistsError:
        raise HeldError(f"another moegrow is writing {target}", "wait for it") from None
    # Looked for now, when this one can be seen: of two that begin at once, one sees the other.
    others = [folder / OWNER] if shared else [*folder.glob(f"{OWNER}-*")]
    try:
        for other in others:
            _check_ended(other, target)
    except BaseException:
        mine.unlink(missing_ok=True)
        raise
    return mine


def _check_ended(owner: Path, target: Path) -> None:
    """Raise HeldError unless the process that a file names has ended; then the file goes."""
    try:
        host, _, process = owner.read_text().partition(" ")
    except FileNotFoundError:
        return
    if host != socket.gethostname() or Path("/proc", process).exists():
        raise HeldError(
            f"process {process} on {host} is writing {target}, as {owner} says",
            f"wait for it; if it has ended: rm {owner}",
        )
    owner.unlink(missing_ok=True)
