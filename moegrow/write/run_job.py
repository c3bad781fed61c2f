"""Run a write job: begin or join a working folder, fill its shards, publish the result.

One process holds the working folder alone from the first byte to the last. Several that work
together need not know of each other: each holds the folder together with the others while it
writes, and notes every finished shard in the journal there. The one that begins the folder, and
the one that publishes the result, holds it alone for that moment.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, assert_never

from moegrow.checkpoint.checksums import WrongBytesError
from moegrow.errors import MoegrowError, Parameter, UnfinishedError
from moegrow.planning.check import check_unchanged
from moegrow.write import engine
from moegrow.write.check_output import check_free, check_renaming
from moegrow.write.disk_space import check_space
from moegrow.write.engine import Moved
from moegrow.write.publish import complete
from moegrow.write.resume import Work, as_begun, begin_anew, is_written
from moegrow.write.schedule import made_from
from moegrow.write.shard_files import Journal
from moegrow.write.work_dir import Partial, partial_of
from moegrow.write.work_dir_lock import HeldError, locked
from moegrow.write.write_job import Role, WriteJob, lacking

PATIENCE = 60.0  # seconds to wait for another process that begins or publishes
PAUSE = 0.1


class JobOutcome(NamedTuple):
    """The outcome of a job: `kept` of its shards were finished before, `moved` are the others.

    `missing` are the numbers of the shards that no process has finished. `is_published` says that
    the result is under its name; where it `was_complete`, it was there before this job.
    """

    is_published: bool
    missing: tuple[int, ...]
    kept: int
    moved: Moved
    was_complete: bool = False


COMPLETE = JobOutcome(True, (), 0, Moved(), was_complete=True)


def run(job: WriteJob) -> JobOutcome:
    """Write the shards of a job that are not finished, and publish the result with the last one.

    Raises MoegrowError, with nothing new under the name of the result, where another process holds
    the working folder, where the run there is another, and where the result cannot be completed.
    """
    if job.goes_on and is_written(job.plan, job.target):
        with suppress(HeldError), locked(job.target) as partial:
            partial.remove()
        return COMPLETE
    with ExitStack() as held:
        work = _enter(job, held)
        if isinstance(work, JobOutcome):
            return work
        with _tidying(job, work.partial, held):
            kept, moved = _fill(job, work.partial)
            if job.role is not Role.TOGETHER:
                _publish(job, work)
                return JobOutcome(True, (), len(kept), moved)
            check_unchanged(job.seen, job.checkpoint)
            missing = _missing(job, work.partial)
    is_published, missing = _publish_if_last(job, missing)
    return JobOutcome(is_published, missing, len(kept), moved)


def _enter(job: WriteJob, held: ExitStack) -> Work | JobOutcome:
    """The working folder of a job, begun, and held by this process as long as `held` is.

    Where there is nothing to write or to publish any more, the outcome instead.
    """
    if job.role is Role.TOGETHER:
        return _join(job, held)
    partial = held.enter_context(locked(job.target))
    if job.goes_on and is_written(job.plan, job.target):
        partial.remove()
        return COMPLETE
    if job.role is Role.ALONE:
        return _begin(job, partial)
    if not partial.is_begun:
        partial.remove()
        raise MoegrowError(
            f"no part of {job.target} has been written",
            "begin with one of N: " + Parameter("part", "1/N"),
        )
    check_free(job.target, force=job.force)
    return as_begun(partial, job.plan, job.begun)


def _join(job: WriteJob, held: ExitStack) -> Work | JobOutcome:
    """The working folder, begun, and held by this process and maybe others as long as `held` is.

    The outcome where all shards are finished, and the result is there or about to be. Raises
    MoegrowError where another run began the folder, or one holds it alone for long.
    """
    until, is_said = time.monotonic() + PATIENCE, False
    while not is_written(job.plan, job.target):
        problem = None
        try:
            partial = held.enter_context(locked(job.target, shared=True))
            if partial.is_begun:
                try:
                    return as_begun(partial, job.plan, job.begun)
                except MoegrowError as error:
                    problem = error
            held.close()
            with locked(job.target) as partial:
                if is_written(job.plan, job.target):
                    partial.remove()
                else:
                    _begin(job, partial)
            continue
        except HeldError as error:
            if problem:
                raise problem from None
            partial = Partial(partial_of(job.target))
            if partial.is_begun and not partial.missing(job.shards):
                return JobOutcome(False, (), len(job.numbers), Moved())
            if time.monotonic() > until:
                raise error from None
        if not is_said:
            job.say("another moegrow holds the working folder: waiting for it")
            is_said = True
        time.sleep(PAUSE)
    return COMPLETE


def _begin(job: WriteJob, partial: Partial) -> Work:
    """Begin the working folder, which is held alone, or go on with the run that is there.

    Raises MoegrowError, with the folder as it was, where that would lose finished shards.
    """
    check_free(job.target, force=job.force)
    work, problem = None, None
    if partial.is_begun:
        if job.goes_on:
            try:
                work = as_begun(partial, job.plan, job.begun)
                partial.tidy()
            except MoegrowError as error:
                problem = error
        if not work and (finished := partial.finished()):
            plural = "s" * (finished != 1)
            run = f"{partial.folder} holds {finished} finished shard{plural} of a run"
            held = problem or MoegrowError(
                f"{run} that did not end",
                Parameter("resume", True)
                + " goes on with it, "
                + Parameter("force", True)
                + " begins anew",
            )
            if job.resume or not job.force:
                raise held
            job.say(f"{run} that did not end: removed, as --force asks")
    with _tidying(job, partial):
        if not work:
            work = begin_anew(partial, job.plan, job.begun)
            check_space(job.shards, partial.result, job.checkpoint, reflink=job.reflink)
        check_renaming(partial)
    return work


def _missing(job: WriteJob, partial: Partial) -> tuple[int, ...]:
    """The numbers of the shards that no process on any machine has finished so far."""
    partial.refresh()
    return partial.missing(job.shards)


def _fill(job: WriteJob, partial: Partial) -> tuple[frozenset[int], Moved]:
    """Write the shards of a job; gives those that were finished before, and how the others came."""
    match job.role:
        case Role.PUBLISH:
            return frozenset(job.numbers), Moved()
        case Role.ALONE:
            kept = partial.check(job.shards, job.threads, job.say)
        case Role.TOGETHER:
            kept = partial.good(job.shards, job.numbers, job.threads, job.say)
        case _:
            assert_never(job.role)
    job.progress(sum(output.nbytes for number in kept for output in job.shards[number].outputs))
    done = kept | frozenset(range(len(job.shards))).difference(job.numbers)
    check_space(job.shards, partial.result, job.checkpoint, done=done, reflink=job.reflink)
    try:
        moved = engine.fill(
            job.shards, partial.result, job.checkpoint, threads=job.threads, reflink=job.reflink,
            journal=Journal(done, partial.note, everything=job.digests), progress=job.progress,
        )  # fmt: skip
    except WrongBytesError as error:
        # The finished shards that hold bytes of a file which turned out to be wrong.
        for number in made_from(job.shards, job.checkpoint, error.file):
            partial.drop(job.shards[number])
        raise
    if count := len(moved.unchecked):
        job.say(
            f"{count} of {len(job.checkpoint.files)} weight files were read in part, or not in the"
            " order of their bytes, and so not held against their SHA-256; moegrow verify does it"
        )
    return kept, moved


def _publish(job: WriteJob, work: Work) -> None:
    """Publish a result whose shards are all finished, with the folder held alone.

    Shards that others may have written are checked first. Raises MoegrowError where some are
    missing or damaged, with the parts that hold them.
    """
    if job.role is not Role.ALONE:
        _check_all(job, work.partial, _missing(job, work.partial))
        job.say(f"all {len(job.shards)} shards are written: checking them")
        good = work.partial.check(job.shards, job.threads, job.say, then="it must be written again")
        _check_all(job, work.partial, tuple(n for n in range(len(job.shards)) if n not in good))
    complete(job, work)


def _check_all(job: WriteJob, partial: Partial, missing: tuple[int, ...]) -> None:
    """Raise MoegrowError where shards are missing, with the parts that hold them."""
    if missing:
        held, hint = lacking(missing, len(job.shards), partial.begun_parts())
        raise MoegrowError(f"{job.target} cannot be published: {held}", hint)


def _publish_if_last(job: WriteJob, missing: tuple[int, ...]) -> tuple[bool, tuple[int, ...]]:
    """Publish a result whose shards are all finished, unless another process does.

    Says whether it did, and which shards are missing; `missing` were when this one was about to
    leave the folder. Even if there were some, it looks again: another may have finished them since,
    and have left the result to this one, which held the folder still. Who holds it now looks for
    himself when he leaves.
    """
    try:
        with locked(job.target) as partial:
            if is_written(job.plan, job.target) or not partial.is_begun:
                partial.remove()
                return False, ()
            if missing := _missing(job, partial):
                return False, missing
            check_free(job.target, force=job.force)
            with _telling(job, partial):
                _publish(job, as_begun(partial, job.plan, job.begun))
            return True, ()
    except HeldError:
        return False, missing


@contextmanager
def _tidying(job: WriteJob, partial: Partial, shared: ExitStack | None = None) -> Iterator[None]:
    """After a failure, keep the finished shards where they can be of use, and nothing else.

    `shared` holds the folder together with others: it is let go of, and nothing is removed while
    one of them is still writing.
    """
    try:
        with _telling(job, partial):
            yield
    except BaseException as error:
        with suppress(OSError, MoegrowError):
            match job.role:
                case Role.ALONE:
                    is_useful = isinstance(error, UnfinishedError)
                    _tidy(partial, is_useful=is_useful or not isinstance(error, MoegrowError))
                case Role.TOGETHER if shared:
                    shared.close()
                    with locked(job.target) as alone:
                        _tidy(alone, is_useful=True)
                case Role.TOGETHER:
                    _tidy(partial, is_useful=True)
                case Role.PUBLISH:
                    pass
                case _:
                    assert_never(job.role)
        raise


def _tidy(partial: Partial, *, is_useful: bool) -> None:
    """Remove everything that is half written, and the folder where nothing in it is of use."""
    if is_useful and partial.finished():
        partial.tidy()
    else:
        partial.remove()


@contextmanager
def _telling(job: WriteJob, partial: Partial) -> Iterator[None]:
    """Tell of a disk that fails as of a run that can be gone on with."""
    try:
        yield
    except OSError as error:
        failed = error.filename or partial.folder
        raise UnfinishedError(
            f"writing {job.target} failed: {failed}: {error.strerror}",
            "nothing was published; mend what is wrong there",
        ) from error
