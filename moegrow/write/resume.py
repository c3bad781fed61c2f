"""Begin a working folder, or go on with one that an earlier run of the same plan has begun."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote

from moegrow import __version__
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.files.atomic import durable, sync
from moegrow.files.untrusted import is_plain_file, opened
from moegrow.planning import plan_file, plan_lines
from moegrow.planning.check import Witness
from moegrow.planning.plan import Plan
from moegrow.write.work_dir import Partial

Say = Callable[[str], None]
Facts = Mapping[str, object]

PARTS = "parts"  # in what a run begins with: of how many parts the first one was one


def facts_of(max_shard_size: int, digests: bool, seen: Witness) -> Facts:
    """What a run begins with and another must share to go on with it, beside the plan."""
    return {
        "moegrow": __version__,
        "max_shard_size": max_shard_size,
        "digests": digests,
        "source": dict(seen),
    }


def go_on(
    partial: Partial, plan: Plan, facts: Facts, *, resume: bool, force: bool, say: Say
) -> Plan | None:
    """The plan of the run in a working folder, if it is gone on with, and None to begin anew.

    It is the one given, but with the commands that it was begun with. Raises MoegrowError, with the
    folder as it was, where the run that is there began otherwise, or where its finished shards
    would be lost.
    """
    if partial.is_begun and resume:
        plan = as_begun(partial, plan, facts)
        partial.tidy()
        return plan
    if partial.is_begun and (finished := partial.finished()):
        plural = "s" * (finished != 1)
        held = f"{partial.folder} holds {finished} finished shard{plural} of a run that did not end"
        if not force:
            raise MoegrowError(held, "--resume goes on with it, --force begins anew")
        say(f"{held}: removed, as --force asks")
    return None


def as_begun(partial: Partial, plan: Plan, facts: Facts) -> Plan:
    """The plan that a run was begun with; raises MoegrowError where this one is another."""
    path = partial.result / PLAN
    anew = (
        f"run the command that it was begun with, or begin anew: rm -r {quote(str(partial.folder))}"
    )
    same = same_plan(plan, path)
    if not same:
        raise MoegrowError(f"{partial.folder} was begun with another plan", anew)
    for key, then in partial.facts().items():
        if key == PARTS:
            continue  # any number of parts makes the same result
        if key == "source" and then != facts[key]:
            raise MoegrowError(
                f"{plan.source.path} was written to after {partial.folder} was begun",
                f"its finished shards are of no use any more: rm -r {quote(str(partial.folder))}",
            )
        if then != facts.get(key):
            flag = {"moegrow": "moegrow"}.get(key, f"--{key.replace('_', '-')}")
            now = facts.get(key)
            raise MoegrowError(f"{partial.folder} was begun with {flag} {then}, not {now}", anew)
    return same


def begin_anew(partial: Partial, plan: Plan, facts: Facts) -> Plan:
    """Empty a working folder and write down there what is going to be done."""
    partial.clear()
    partial.result.mkdir()
    with durable(partial.result / PLAN) as file:
        file.writelines(line.encode() + b"\n" for line in plan_lines.to_lines(plan))
    sync(partial.result)
    partial.begin(facts)
    return plan


def same_plan(plan: Plan, path: Path) -> Plan | None:
    """The plan with the commands of the one in a file, if it is that in every other byte."""
    if not is_plain_file(path):
        return None
    with opened(path.parent, path.name) as file:
        try:
            header = plan_file.take_lines([file.readline(plan_file.LONGEST_LINE).decode()]).header
        except (MoegrowError, UnicodeDecodeError):
            return None
        same = replace(plan, commands=header.commands)
        file.seek(0)
        for line in plan_lines.to_lines(same):
            expected = f"{line}\n".encode()
            # A line of somebody else's may have no end.
            if file.readline(len(expected)) != expected:
                return None
        return None if file.read(1) else same


def is_written(plan: Plan, target: Path) -> bool:
    """Whether a folder is the result of a plan."""
    return written_plan(plan, target) is not None


def written_plan(plan: Plan, target: Path) -> Plan | None:
    """The plan with the commands by which a folder was written, if it is the result of that."""
    return same_plan(plan, target / PLAN) if is_plain_file(target / CONFIG) else None
