"""Begin a working folder, or continue one that an earlier run of the same plan left."""

import hashlib
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError, Parameter
from moegrow.files.atomic import durable, sync
from moegrow.files.untrusted import is_plain_file, opened
from moegrow.planning import plan_file, plan_lines
from moegrow.planning.plan import Plan
from moegrow.write.work_dir import Begun, Partial


class Work(NamedTuple):
    """A working folder that has been begun, its plan, and the SHA-256 of the file of that."""

    partial: Partial
    plan: Plan
    digest: str


def begin_anew(partial: Partial, plan: Plan, begun: Begun) -> Work:
    """Empty a working folder and write down there what is going to be done."""
    digest = hashlib.sha256()
    partial.clear()
    partial.result.mkdir()
    with durable(partial.result / PLAN) as file:
        for line in plan_lines.to_lines(plan):
            written = f"{line}\n".encode()
            digest.update(written)
            file.write(written)
    sync(partial.result)
    partial.begin(begun)
    return Work(partial, plan, digest.hexdigest())


def as_begun(partial: Partial, plan: Plan, now: Begun) -> Work:
    """A working folder to go on with, its plan with the commands that it was begun with.

    Raises MoegrowError, with the folder as it was, where a run began it that differs from this
    one in plan, source, version or settings.
    """
    folder = quote(str(partial.folder))
    anew = f"run the command that it was begun with, or begin anew: rm -r {folder}"
    same = same_plan(plan, partial.result / PLAN)
    if not same:
        raise MoegrowError(f"{partial.folder} was begun with another plan", anew)
    then = partial.begun()
    for option, before, this in (
        ("moegrow", then.moegrow, now.moegrow),
        (Parameter("max_shard_size"), then.max_shard_size, now.max_shard_size),
        (Parameter("digests"), then.digests, now.digests),
    ):
        if before != this:
            raise MoegrowError(
                f"{partial.folder} was begun with " + option + f" {before}, not {this}", anew
            )
    if then.source != now.source:
        raise MoegrowError(
            f"{plan.source.path} was written to after {partial.folder} was begun",
            f"its finished shards are of no use any more: rm -r {folder}",
        )
    return Work(partial, *same)


def same_plan(plan: Plan, path: Path) -> tuple[Plan, str] | None:
    """The plan with the commands of the one in a file, and the SHA-256 of that file.

    None where the file holds another plan in any other byte.
    """
    if not is_plain_file(path):
        return None
    with opened(path.parent, path.name) as file:
        try:
            header = plan_file.take_lines([file.readline(plan_file.LONGEST_LINE).decode()]).header
        except (MoegrowError, UnicodeDecodeError):
            return None
        same, digest = replace(plan, commands=header.commands), hashlib.sha256()
        file.seek(0)
        for line in plan_lines.to_lines(same):
            expected = f"{line}\n".encode()
            # A line of somebody else's may have no end.
            if file.readline(len(expected)) != expected:
                return None
            digest.update(expected)
        return None if file.read(1) else (same, digest.hexdigest())


def written_plan(plan: Plan, target: Path) -> Plan | None:
    """The plan with the commands by which a folder was written, if it is the result of that."""
    same = same_plan(plan, target / PLAN) if is_plain_file(target / CONFIG) else None
    return same[0] if same else None


def is_written(plan: Plan, target: Path) -> bool:
    """Whether a folder is the result of a plan."""
    return written_plan(plan, target) is not None
