"""What `moegrow apply` makes of a plan that several processes write: a part, or the end."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import moegrow
from moegrow.checkpoint.store import Reading
from moegrow.cli.finish import check_good, deliver, explain, prepared_upload
from moegrow.cli.options import Sharing, Writing
from moegrow.cli.terminal import phase, print_json
from moegrow.errors import UsageError

if TYPE_CHECKING:
    from moegrow.families.layout import Layout
    from moegrow.planning.plan import Plan


def share(
    grown: "Plan", layout: "Layout", writing: Writing, sharing: Sharing, *, reading: Reading
) -> None:
    """Write a part of a plan's shards, or publish them all, and say what is missing.

    The path of the result is printed by the process that publishes it.
    """
    from moegrow.cli import json_output, summaries
    from moegrow.cli.resume_hint import going_on
    from moegrow.planning.check import check_plan
    from moegrow.write.parts import read_part
    from moegrow.write.publish import check_target
    from moegrow.write.resume import written_plan
    from moegrow.write.shards import DEFAULT_SIZE, split
    from moegrow.write.work_dir import Partial, partial_of
    from moegrow.write.write_checkpoint import default_name, fetch

    if sharing.shards is not None and sharing.finish:
        raise UsageError(
            "--finish writes no shard, so --shards does not go with it", "leave out one of them"
        )
    part = None if sharing.shards is None else read_part(sharing.shards)
    size, quiet = writing.max_shard_size or DEFAULT_SIZE, writing.quiet
    target = Path(default_name(grown) if writing.output is None else writing.output)
    there = written_plan(grown, target)
    grown = there or grown
    check_target(target, grown.source.folder, force=writing.force, is_complete=there is not None)
    check_plan(grown, layout.checkpoint)
    upload = prepared_upload(grown, writing, reading.token)
    files = split(grown, layout.checkpoint, size)
    mine = [files[number] for number in part.shards(len(files))] if part else []
    if writing.verbose:
        explain(grown, layout, files)
    if writing.dry_run or not quiet:
        summaries.sharing(part, files, layout, target)
    if writing.dry_run:
        summaries.missing(Partial(partial_of(target.absolute())), files, is_there=there is not None)
        if writing.as_json:
            print_json(json_output.growth(grown, layout, target))
        return
    if writing.download and not there:
        fetch(layout.checkpoint, partial(phase, "downloading", quiet=quiet))
    began = time.perf_counter()
    total = sum(output.nbytes for shard in mine for output in shard.outputs) if part else None
    working = phase("writing" if part else "publishing", total, quiet=quiet)
    with going_on(target, None), working as progress:
        result = moegrow.apply(
            grown, target, force=writing.force, part=sharing.shards,
            finish=sharing.finish, digests=writing.digests, threads=writing.threads,
            max_shard_size=size, reflink=not writing.no_reflink, progress=progress,
            say=summaries.say(quiet=quiet), checked=layout.checkpoint,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if not quiet and not there:
        summaries.shared(result, seconds, len(files))
    verified, uploaded = None, None
    if result.is_published:
        verified, uploaded = deliver(target, writing, reading.access, upload)
    if writing.as_json:
        print_json(json_output.growth(grown, layout, target, result, seconds, verified, uploaded))
    elif result.is_published:
        print(target)
    check_good(verified)
