"""A part of a result: some of its shards, written by one of several processes at once.

The processes need not know of each other. Each of them holds the working folder together with the
others while it writes, and what it finishes stands in the journal there. Who begins the folder,
and who publishes the result, holds it alone for that moment.
"""

import re
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NamedTuple

from moegrow import maps
from moegrow.errors import MoegrowError, UsageError
from moegrow.planning.check import check_unchanged
from moegrow.write import engine
from moegrow.write.disk_space import check_space
from moegrow.write.engine import Moved
from moegrow.write.publish import (
    Run,
    check_free,
    check_renaming,
    complete,
    dropping,
    failing,
    telling,
    unchecked,
)
from moegrow.write.resume import PARTS, as_begun, begin_anew, is_written
from moegrow.write.shard_files import Journal
from moegrow.write.work_dir import Partial, partial_of
from moegrow.write.work_dir_lock import HeldError, locked

MOST = 100_000  # parts of one result
PATIENCE = 60.0  # seconds to wait for another process that begins or publishes
PAUSE = 0.1


@dataclass(frozen=True)
class Part:
    """Every `count`-th shard from the `number`-th on, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def shards(self, total: int) -> range:
        """The numbers of its shards, counted from 0, of a result that has `total`.

        >>> list(Part(3, 4).shards(10))
        [2, 6]
        """
        return range(self.number - 1, total, self.count)


class Outcome(NamedTuple):
    """What has come of a part: `kept` of its shards were finished before.

    `missing` are the numbers of the shards that no process has finished. `is_published` says that
    the result was there already, or that this process has published it.
    """

    is_published: bool
    missing: tuple[int, ...]
    kept: int
    moved: Moved


def read_part(wish: str | tuple[int, int]) -> Part:
    """The part that "3/16" or (3, 16) means; raises UsageError where that is none."""
    if isinstance(wish, str):
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", wish)
        numbers = tuple(map(int, found.groups())) if found else ()
    else:
        numbers = tuple(wish)
        wish = "/".join(map(str, wish))
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= MOST:
        raise UsageError(
            f"--shards {wish} is no part",
            f"write K/N, with K from 1 to N, and N up to {MOST}, such as 3/16",
        )
    return Part(*numbers)


def write_part(run: Run, part: Part) -> Outcome:
    """Write the shards of a part that are not finished, and publish where it was the last one."""
    numbers = part.shards(len(run.files))
    with ExitStack() as held:
        partial = _join(run, part, held)
        if partial is None:
            is_there = is_written(run.plan, run.target)
            return Outcome(is_there, (), len(numbers), Moved())
        try:
            with telling(partial, run.target):
                kept, moved = _fill(run, partial, numbers)
                partial.refresh()
                missing = partial.missing(run.files)
        except BaseException:
            held.close()
            _leave(run)
            raise
    is_published, missing = _publish_if_last(run, missing)
    return Outcome(is_published, missing, len(kept), moved)


def publish_parts(run: Run) -> None:
    """Publish a result whose shards are all finished.

    Raises MoegrowError where some are not, with the parts that hold them.
    """
    with locked(run.target) as partial:
        if is_written(run.plan, run.target):
            partial.remove()
        elif partial.is_begun:
            _publish(run, partial)
        else:
            partial.remove()
            raise MoegrowError(
                f"no part of {run.target} has been written", "begin with one of N: --shards 1/N"
            )


def begun_parts(partial: Partial) -> int | None:
    """Of how many parts the first one was one that began a working folder, if that is known."""
    found = partial.facts().get(PARTS) if partial.is_begun else None
    return found if isinstance(found, int) and 1 <= found <= MOST else None


def lacking(missing: tuple[int, ...], total: int, count: int | None) -> tuple[str, str]:
    """What is missing of `total` shards, and which parts of `count` write it.

    >>> lacking((2, 6, 7), 10, 4)
    ('3 of 10 shards are missing: 3,7-8', 'write them with --shards K/4 for K = 3-4')
    """
    which = maps.spell([number + 1 for number in missing])
    what = f"{len(missing)} of {total} shards are missing: {which}"
    if count is None:
        return what, "--resume writes them, or --shards K/N for all K"
    parts = sorted({number % count + 1 for number in missing})
    if len(parts) == 1:
        return what, f"write them with --shards {parts[0]}/{count}"
    return what, f"write them with --shards K/{count} for K = {maps.spell(parts)}"


def _join(run: Run, part: Part, held: ExitStack) -> Partial | None:
    """The working folder, begun, and held by this process and maybe others as long as `held` is.

    None where all shards are finished, and the result is there or about to be. Raises MoegrowError
    where another run began the folder, or one holds it alone for long.
    """
    until, is_said = time.monotonic() + PATIENCE, False
    while not is_written(run.plan, run.target):
        problem = None
        try:
            partial = held.enter_context(locked(run.target, shared=True))
            problem = _difference(run, partial) if partial.is_begun else None
            if partial.is_begun and not problem:
                return partial
            held.close()
            _begin(run, part)
            continue
        except HeldError as error:
            if problem:
                raise problem from None
            partial = Partial(partial_of(run.target))
            if partial.is_begun and not partial.missing(run.files):
                return None
            if time.monotonic() > until:
                raise error from None
        if not is_said:
            run.say("another moegrow holds the working folder: waiting for it")
            is_said = True
        time.sleep(PAUSE)
    return None


def _difference(run: Run, partial: Partial) -> MoegrowError | None:
    """What is not the same in this run and in that which began a working folder."""
    try:
        as_begun(partial, run.plan, run.facts)
    except MoegrowError as error:
        return error
    return None


def _begin(run: Run, part: Part) -> None:
    """Begin the working folder, which needs to be held alone, unless another has done so now."""
    with locked(run.target) as partial:
        if is_written(run.plan, run.target):
            partial.remove()
            return
        check_free(run.target, force=run.force)
        if partial.is_begun:
            problem, finished = _difference(run, partial), partial.finished()
            if problem is None:
                return
            if finished and not run.force:
                raise problem
            if finished:
                run.say(f"{partial.folder}: {finished} finished shards removed, as --force asks")
        with failing(partial, run.target):
            begin_anew(partial, run.plan, {**run.facts, PARTS: part.count})
            check_renaming(partial)
            check_space(run.files, partial.result, run.checkpoint, reflink=run.reflink)


def _fill(run: Run, partial: Partial, numbers: range) -> tuple[frozenset[int], Moved]:
    """Write some shards; gives those that were finished before, and how the others came."""
    kept = partial.good(run.files, numbers, run.threads, run.say)
    run.progress(sum(output.nbytes for number in kept for output in run.files[number].outputs))
    others = kept | (frozenset(range(len(run.files))) - frozenset(numbers))
    check_space(run.files, partial.result, run.checkpoint, done=others, reflink=run.reflink)
    with dropping(run, partial):
        moved = engine.fill(
            run.files, partial.result, run.checkpoint, threads=run.threads, reflink=run.reflink,
            journal=Journal(others, partial.note, everything=run.digests), progress=run.progress,
        )  # fmt: skip
    unchecked(run, moved)
    check_unchanged(run.seen, run.checkpoint)
    return kept, moved


def _leave(run: Run) -> None:
    """After a failure: leave nothing behind that is of no use, unless others are still writing."""
    with suppress(OSError, MoegrowError), locked(run.target) as partial:
        if partial.finished():
            partial.tidy()
        else:
            partial.remove()


def _publish_if_last(run: Run, missing: tuple[int, ...]) -> tuple[bool, tuple[int, ...]]:
    """Publish a result whose shards are all finished, unless another process does.

    Says whether it did, and which shards are missing; `missing` were when this one was about to
    leave the folder. Even if there were some, it looks again: another may have finished them since,
    and have left the result to this one, which held the folder still. Who holds it now looks for
    himself when he leaves.
    """
    try:
        with locked(run.target) as partial:
            if is_written(run.plan, run.target) or not partial.is_begun:
                partial.remove()
                return False, ()
            partial.refresh()
            missing = partial.missing(run.files)
            if not missing:
                _publish(run, partial)
            return not missing, missing
    except HeldError:
        return False, missing


def _publish(run: Run, partial: Partial) -> None:
    """Check all shards and publish them, with the folder held alone."""
    check_free(run.target, force=run.force)
    plan = as_begun(partial, run.plan, run.facts)
    with telling(partial, run.target):
        partial.refresh()
        _check_all(run, partial, partial.missing(run.files))
        run.say(f"all {len(run.files)} shards are written: checking them")
        good = partial.check(run.files, run.threads, run.say, then="it must be written again")
        _check_all(run, partial, tuple(n for n in range(len(run.files)) if n not in good))
        complete(run, partial, plan)


def _check_all(run: Run, partial: Partial, missing: tuple[int, ...]) -> None:
    """Raise MoegrowError where shards are missing, with the parts that hold them."""
    if missing:
        held, hint = lacking(missing, len(run.files), begun_parts(partial))
        raise MoegrowError(f"{run.target} cannot be published: {held}", hint)
