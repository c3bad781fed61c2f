"""The working folder `OUT.partial`, with its journal of finished shards.

It holds the result as far as there is one, the journal, which has one entry for each finished
shard, and what the run began with. The result is moved out of it as a whole. Somebody else may
have prepared the folder, so what is read in it must be a plain file of a sensible size, and what
is removed or renamed is never looked for behind a link.
"""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from moegrow.checkpoint.side_files import PLAN
from moegrow.errors import MoegrowError
from moegrow.files import typed_json, worker_threads
from moegrow.files.atomic import TEMPORARY, durable, sync, temporary
from moegrow.files.untrusted import is_plain_file, is_plain_folder, read_text
from moegrow.write.digests import ShardDigests, damage, entry
from moegrow.write.shards import Shard

PARTIAL = ".partial"
LOCK, OWNER, BEGUN, JOURNAL, RESULT = ".moegrow-lock", "owner", "begun.json", "journal", "result"
REPLACED = "replaced"  # what stood under the name of the result, while it is being replaced

MOST_PARTS = 100_000  # parts of one result
LARGEST_BEGUN = 64 << 20  # bytes of what a run begins with: a line or two for each of its files
LARGEST_RANGE = 64  # bytes of one range in an entry of the journal


class Begun(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a run begins with and another must share to go on with it, beside the plan.

    The `source` has the size, the version and the digest of each file. Of how many `parts` the
    first one was one makes no difference to the result.
    """

    moegrow: str
    max_shard_size: int
    digests: bool
    source: dict[str, list[int | str]]
    parts: Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)] | None = None


@dataclass(frozen=True)
class Partial:
    """A working folder that this process holds."""

    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / RESULT

    @property
    def target(self) -> Path:
        """Where the result goes."""
        return self.folder.with_name(self.folder.name.removesuffix(PARTIAL))

    @property
    def replaced(self) -> Path:
        """Where an older result is kept while this one takes its place."""
        return self.folder / REPLACED

    @property
    def is_begun(self) -> bool:
        """Whether a run has written down what it is about to do, and has not published it."""
        folders = (self.folder, self.result, self.folder / JOURNAL)
        return is_plain_file(self.folder / BEGUN) and all(map(is_plain_folder, folders))

    def begin(self, begun: Begun) -> None:
        """Write down what the run begins with; its plan must be in the result already."""
        (self.folder / JOURNAL).mkdir()
        with durable(self.folder / BEGUN) as file:
            file.write(json.dumps(msgspec.to_builtins(begun), indent=1).encode())
        sync(self.folder)

    def begun(self) -> Begun:
        """What the run began with; raises MoegrowError where that cannot be read."""
        text = read_text(self.folder, BEGUN, LARGEST_BEGUN)
        return typed_json.loads(text, str(self.folder / BEGUN), Begun)

    def begun_parts(self) -> int | None:
        """The number of parts that a run was begun with, None where one process writes all."""
        return self.begun().parts if self.is_begun else None

    def note(self, entry: ShardDigests) -> None:
        """Keep the entry of a shard that is complete and is about to get its name."""
        with durable(self._entry_path(entry.name)) as file:
            file.write(entry.line().encode())
        sync(self.folder / JOURNAL)

    def entry(self, shard: Shard) -> ShardDigests | None:
        """The entry of a shard that has been finished, or None."""
        if not is_plain_file(self.result / shard.name):
            return None
        try:
            name = str(self._entry_path(shard.name).relative_to(self.folder))
            return ShardDigests.read(read_text(self.folder, name, _longest_entry(shard)))
        except (OSError, MoegrowError):
            return None

    def noted(self, shard: Shard) -> ShardDigests:
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
                self.drop(shard)
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
            self.drop(shard)
            return False

        asked = list(numbers)
        with worker_threads.pool(threads) as pool:
            found = list(pool.map(is_good, asked))
        return frozenset(number for number, is_kept in zip(asked, found, strict=True) if is_kept)

    def drop(self, shard: Shard) -> None:
        """Take a shard's name and entry away."""
        _remove(self.result / shard.name)
        _remove(self._entry_path(shard.name))

    def tidy(self) -> None:
        """Remove what a run that has ended was in the middle of writing."""
        for path in [*self.folder.rglob(f"*{TEMPORARY}")]:
            _remove(path)

    def settle(self) -> None:
        """End a replacement that was cut off: put the older result back, or remove it.

        It goes back where nothing took its place, and goes where the new result did. Raises
        MoegrowError where something else did.
        """
        if not os.path.lexists(self.replaced):
            return
        if not os.path.lexists(self.target):
            self.replaced.rename(self.target)
            sync(self.target.parent)
        elif os.path.lexists(self.result):
            raise MoegrowError(
                f"a run was cut off while it replaced {self.target}: what stood there is in"
                f" {self.replaced}, and something else stands there now",
                f"move it out of the way: mv {shlex.quote(str(self.replaced))} NEW-NAME",
            )
        else:
            _remove(self.replaced)

    def clear(self) -> None:
        """Remove everything but the lock."""
        # What makes the folder one to go on with goes first.
        _remove(self.folder / BEGUN)
        self.settle()
        for path in [*self.folder.iterdir()]:
            if path.name != LOCK and not path.name.startswith(OWNER):
                _remove(path)

    def remove(self) -> None:
        """Remove the folder, its lock last, so that it is known as moegrow's to the end."""
        self.clear()
        _remove(self.folder / OWNER)
        (self.folder / LOCK).unlink()
        _remove_empty(self.folder)

    def _entry_path(self, name: str) -> Path:
        return self.folder / JOURNAL / f"{name}.json"


def _longest_entry(shard: Shard) -> int:
    """More bytes than the entry of a shard can have: a piece of a tensor is one range at most."""
    ranges = sum(len(output.pieces) + 1 for output in shard.outputs)
    return 1000 + len(shard.name) + LARGEST_RANGE * ranges


def _names(folder: Path) -> set[str]:
    """The names of what is in a folder; none where it has gone."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
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
    """Remove a file, a link or a folder with all that is in it, if there is one."""
    if is_plain_folder(path):
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
