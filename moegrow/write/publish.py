"""Complete a result whose shards are written, and rename it to its final name last."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD, CONFIG, INDEX, contents
from moegrow.files.atomic import durable, sync
from moegrow.planning.check import check_unchanged
from moegrow.write import model_card, shards
from moegrow.write.check_output import check_free, moving_aside
from moegrow.write.digests import Digests, text_bytes, text_digest
from moegrow.write.resume import Work
from moegrow.write.work_dir import Partial
from moegrow.write.write_job import WriteJob


def complete(job: WriteJob, work: Work) -> None:
    """Make a result of a working folder in which all shards are, and give it its name.

    Raises MoegrowError, with nothing under that name that was not there before, where the source
    has changed since the run began.
    """
    _write_beside(job, work)
    check_unchanged(job.seen, job.checkpoint)
    _publish(work.partial, job.target, force=job.force)


def _write_beside(job: WriteJob, work: Work) -> None:
    """Write the files beside the shards, index and config last."""
    folder, plan, store = work.partial.result, work.plan, job.checkpoint.store
    changed = dict(plan.files)
    sides = [side for side in job.checkpoint.side_files if changed.get(side, "") is not None]
    card = model_card.model_card(plan, job.target.name, model_card.carried_from(store), sides)
    texts = {CARD: card, INDEX: shards.index(job.shards), CONFIG: plan.config}
    digests = {PLAN: work.digest}
    for side in sides:
        copy, digest, new = folder / side, hashlib.sha256(), changed.get(side)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with durable(copy) as file:
            for block in contents(store, side) if new is None else [new.encode()]:
                digest.update(block)
                file.write(block)
        sync(copy.parent)
        digests[side] = digest.hexdigest()
    digests |= {name: text_digest(text) for name, text in texts.items()}
    entries = tuple(map(work.partial.noted, job.shards))
    texts[DIGESTS] = Digests(job.digests, digests, entries).text()
    for name in (CARD, DIGESTS, INDEX, CONFIG):
        with durable(folder / name) as file:
            file.write(text_bytes(texts[name]))
    sync(folder)


def _publish(partial: Partial, target: Path, *, force: bool) -> None:
    """Give the result its final name; an older result of that name goes only after that.

    It is kept in the working folder meanwhile: no name beside the output is anyone else's.
    """
    if os.path.lexists(target):
        check_free(target, force=force)
        _move_aside(partial, target)
    try:
        partial.result.rename(target)
    except BaseException:
        partial.settle()
        raise
    sync(target.parent)
    # The result is in place: what goes wrong from here on is no failure of the run.
    with suppress(OSError):
        partial.remove()


def _move_aside(partial: Partial, target: Path) -> None:
    """Move an older result into the working folder."""
    with moving_aside(target):
        target.rename(partial.replaced)
    sync(partial.folder)
