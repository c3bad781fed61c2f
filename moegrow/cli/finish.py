"""The end of a growing command: print the plan, or write the result."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import moegrow
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.store import Access, Reading
from moegrow.cli.options import ALONE, Planning, Sharing, Writing
from moegrow.cli.terminal import phase, print_json, print_lines
from moegrow.errors import MoegrowError, UsageError
from moegrow.files.atomic import durable

if TYPE_CHECKING:
    from moegrow.cli.json_output import LogitsDocument, Verification
    from moegrow.families.layout import Layout
    from moegrow.planning.plan import Plan
    from moegrow.write.shards import Shard
    from moegrow.write.write_checkpoint import Written
    from moegrow.write.write_job import Part


@dataclass(frozen=True, kw_only=True)
class Task:
    """A plan that a command is to write: where, of which source, and with which options.

    `files` are its shards, as far as somebody wants to see them, and `part` those of this process.
    """

    plan: "Plan"
    layout: "Layout"
    target: Path
    files: "tuple[Shard, ...]"
    writing: Writing
    sharing: Sharing
    part: "Part | None"

    @property
    def is_shared(self) -> bool:
        """Whether several processes write the result."""
        return self.sharing != ALONE

    @property
    def nbytes(self) -> int | None:
        """The bytes that this process writes; None where it only publishes."""
        if not self.is_shared:
            return self.plan.nbytes
        if self.part is None:
            return None
        mine = [self.files[number] for number in self.part.shards(len(self.files))]
        return sum(output.nbytes for shard in mine for output in shard.outputs)


def finish(
    grown: "Plan",
    layout: "Layout",
    writing: Writing,
    planning: Planning | None = None,
    sharing: Sharing = ALONE,
    *,
    command: str,
    reading: Reading,
) -> None:
    """Print the plan, show it, or write its result, or a part of that, and print the path.

    `layout` is that of the plan's source, `reading` how it was read, and `command` what was typed.
    Of several processes the one that publishes the result prints the path.
    """
    saved: dict[Path, str] = {}
    if planning:
        saved = _recipe_to_save(grown, writing, planning.save_recipe, reading)
    if planning and planning.plan:
        _check_alone(writing)
        from moegrow.planning.plan_lines import to_lines

        _save(saved)
        print_lines(to_lines(grown))
        return
    from moegrow.cli import json_output, summaries
    from moegrow.planning.check import check_plan
    from moegrow.write.check_output import check_target
    from moegrow.write.resume import written_plan
    from moegrow.write.shards import DEFAULT_SIZE, parse_size, split
    from moegrow.write.write_checkpoint import default_name, fetch

    is_shared, part = sharing != ALONE, _part(sharing)
    size = writing.max_shard_size or DEFAULT_SIZE
    parse_size(size)
    target = Path(default_name(grown) if writing.output is None else writing.output)
    # What an upload broke off from is not grown again, nor what another process has published.
    looks = writing.resume or writing.push is not None or is_shared
    there = written_plan(grown, target) if looks else None
    grown, is_there = there or grown, there is not None
    check_target(target, grown.source.folder, force=writing.force, is_complete=is_there)
    check_plan(grown, layout.checkpoint)
    upload = prepared_upload(grown, writing, reading.token)
    task = Task(
        plan=grown, layout=layout, target=target, writing=writing, sharing=sharing, part=part,
        files=split(grown, layout.checkpoint, size) if writing.verbose or is_shared else (),
    )  # fmt: skip
    if writing.verbose:
        explain(grown, layout, task.files)
    if writing.dry_run or not writing.quiet:
        _show(task)
    if writing.dry_run:
        _end_dry_run(task, is_there=is_there)
        return
    if writing.download and not is_there:
        fetch(layout.checkpoint, partial(phase, "downloading", quiet=writing.quiet))
    began = time.perf_counter()
    result = _write(task, size, resume=writing.resume or is_there, command=command)
    seconds = time.perf_counter() - began
    if not writing.quiet and not is_there:
        if is_shared:
            summaries.shared(result, seconds, len(task.files))
        else:
            summaries.written(result, seconds)
    verified, uploaded = None, None
    if result.is_published:
        verified, uploaded = deliver(target, writing, reading.access, upload)
    if verified is None or verified.ok:
        _save(saved)
    if writing.as_json:
        print_json(json_output.growth(grown, layout, target, result, seconds, verified, uploaded))
    elif result.is_published:
        print(target)
    check_good(verified)


def _part(sharing: Sharing) -> "Part | None":
    """The part of the shards that this process writes; None for all of them, or for none."""
    if sharing.shards is None:
        return None
    if sharing.finish:
        raise UsageError(
            "--finish writes no shard, so --shards does not go with it", "leave out one of them"
        )
    from moegrow.write.write_job import read_part

    return read_part(sharing.shards)


def _show(task: Task) -> None:
    """Say what is going to be written, and where."""
    from moegrow.cli import summaries

    if task.is_shared:
        summaries.sharing(task.part, task.files, task.layout, task.target)
    else:
        summaries.summary(task.plan, task.layout, task.target)


def _end_dry_run(task: Task, *, is_there: bool) -> None:
    """Say what is missing, or how layers would meet and what disk it would take."""
    from moegrow.analysis import seams
    from moegrow.cli import json_output, summaries
    from moegrow.write.work_dir import Partial, partial_of

    joined = None
    if task.is_shared:
        partial = Partial(partial_of(task.target.absolute()))
        summaries.missing(partial, task.files, is_there=is_there)
    else:
        joined = seams.planned(task.plan, task.layout)
        if joined.says:
            summaries.say(quiet=False)(joined.says)
        summaries.dry_run(task.plan, task.target)
    if task.writing.as_json:
        print_json(json_output.growth(task.plan, task.layout, task.target, joined=joined))


def _write(task: Task, size: str, *, resume: bool, command: str) -> "Written":
    """Write the result, or a part of it, or publish it, with a bar for whoever watches."""
    from moegrow.cli import summaries
    from moegrow.cli.resume_hint import going_on

    writing, sharing = task.writing, task.sharing
    named = phase("publishing" if sharing.finish else "writing", task.nbytes, quiet=writing.quiet)
    with going_on(task.target, None if task.is_shared else command), named as progress:
        return moegrow.apply(
            task.plan, task.target, force=writing.force, resume=resume,
            part=sharing.shards, finish=sharing.finish, digests=writing.digests,
            threads=writing.threads, max_shard_size=size, reflink=not writing.no_reflink,
            progress=progress, say=summaries.say(quiet=writing.quiet),
            checked=task.layout.checkpoint,
        )  # fmt: skip


def explain(grown: "Plan", layout: "Layout", files: tuple["Shard", ...]) -> None:
    """Say what is done and why, as --verbose asks."""
    from moegrow.cli import explain, summaries

    summaries.told(explain.source_sentences(layout, own_family=bool(grown.family_text)))
    summaries.told(explain.growth_sentences(grown, layout))
    summaries.told(explain.writing_sentences(files, layout))


def deliver(
    target: Path, writing: Writing, access: Access, upload: Callable[[Path], str | None]
) -> "tuple[Verification | None, str | None]":
    """Verify a result and upload it, as far as that is asked for.

    Gives the document of what was verified, and the address. What is not as planned stays here.
    """
    verified = None
    if writing.verify:
        verified = verify_result(target, None, writing.threads, access, quiet=writing.quiet)
        if not verified.ok:
            return verified, None
    return verified, upload(target)


def check_good(verified: "Verification | None") -> None:
    """End with exit code 1 where a result is not as planned, which has been said."""
    if verified and not verified.ok:
        raise typer.Exit(1)


def verify_result(
    folder: Path,
    source: str | None,
    threads: int | None,
    access: Access,
    *,
    quiet: bool,
    noise: bool = False,
) -> "Verification":
    """Hold a folder against its plan, say what was found, and give that as a document."""
    from moegrow.cli import json_output, summaries

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    began = time.perf_counter()
    with phase("verifying", size, quiet=quiet) as progress:
        found = moegrow.verify(
            folder, source, threads=threads, token=access.token, links_to=access.links_to,
            progress=progress,
        )  # fmt: skip
    if not quiet or not found.ok:
        summaries.verified(found, str(folder))
    if noise:
        summaries.noise(found.realised)
        if not found.realised and found.ok:
            summaries.no_noise(found)
    return json_output.verification(found, folder, time.perf_counter() - began)


def compared(
    folder: Path, source: str | None, prompts: list[str], access: Access, *, quiet: bool
) -> "LogitsDocument":
    """Compare the logits of a folder and its source, say what was found, and give that."""
    from moegrow.cli import json_output, summaries

    began = time.perf_counter()
    with phase("running", quiet=quiet):
        found = moegrow.compare_logits(folder, source, prompts, links_to=access.links_to)
    if not quiet or not found.ok:
        summaries.compared(found)
    return json_output.compared(found, time.perf_counter() - began)


def _check_alone(writing: Writing) -> None:
    """With --plan nothing is written and no document printed: a plan is one."""
    for other, given in (
        ("--output", writing.output is not None), ("--dry-run", writing.dry_run),
        ("--resume", writing.resume), ("--digests", writing.digests),
        ("--verify", writing.verify), ("--json", writing.as_json),
        ("--download", writing.download), ("--push", writing.push is not None),
    ):  # fmt: skip
        if given:
            raise UsageError(
                f"--plan writes nothing but the plan, so {other} does not go with it",
                f"leave out --plan or {other}",
            )


def _recipe_to_save(
    grown: "Plan", writing: Writing, file: str | None, reading: Reading
) -> dict[Path, str]:
    """What is saved, texts by their paths: the recipe, and a family file where nobody named one.

    A plan brings the text of the family file along that was given to the first command of a pipe.
    Refused before anything is written.
    """
    if file is None:
        return {}
    from moegrow.recipes.recipe import Recipe, is_below, to_toml

    if writing.dry_run:
        raise UsageError("--dry-run writes nothing, so --save-recipe does not go with it")
    path, texts = user_path(file), {}
    family = None if reading.family is None else str(reading.family)
    if family is None and grown.family_text:
        beside = path.with_suffix(".family.toml")
        family, texts[beside] = str(beside), grown.family_text
    for each in (path, *texts):
        if each.exists() or not each.absolute().parent.is_dir():
            what = "exists already" if each.exists() else "is in no folder that exists"
            raise MoegrowError(f"--save-recipe {each} {what}", "give another file")
    if not grown.recipe:
        raise MoegrowError(
            "the plan does not say by which steps it came about", "make it again from its source"
        )
    here, source = Path.cwd(), grown.source.location
    if grown.source.folder is not None and Path(source).is_relative_to(here):
        source = str(Path(source).relative_to(here))
    recipe = Recipe(
        steps=grown.recipe, source=source, family=family,
        output=writing.output if is_below(writing.output or "") else None,
        max_shard_size=writing.max_shard_size,
    )  # fmt: skip
    return {**texts, path: to_toml(recipe)}


def _save(texts: dict[Path, str]) -> None:
    """Write texts, each whole or not at all."""
    for path, text in texts.items():
        with durable(path) as file:
            file.write(text.encode())


def prepared_upload(
    grown: "Plan", writing: Writing, token: str | None
) -> Callable[[Path], str | None]:
    """What uploads a result when it is written, and gives its address; may it, is asked now."""
    if writing.push is None:
        if writing.private:
            raise UsageError("--private is for the repository of --push, and none is given")
        return lambda target: None
    from moegrow.write import hub_upload

    goal = hub_upload.prepare(
        grown, writing.push, private=writing.private, force=writing.force, token=token,
        is_trial=writing.dry_run,
    )  # fmt: skip

    def upload(target: Path) -> str:
        hub_upload.upload(target, goal, quiet=writing.quiet or not sys.stderr.isatty())
        if not writing.quiet:
            print(f"uploaded to {goal.address}", file=sys.stderr)
        return goal.address

    return upload
