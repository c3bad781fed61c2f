"""What a person sees: summaries and progress, always on standard error."""

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from moegrow import report, serving
from moegrow.difference import Difference, groups
from moegrow.errors import one_line, printable
from moegrow.layout import Layout
from moegrow.plans import Plan
from moegrow.verifier import Verified
from moegrow.writer import Written

SHOWN = 20


def _person() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def summary(plan: Plan, layout: Layout, target: Path) -> None:
    """Before and after, and what is done to get there."""
    person = _person()
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(one_line(layout.family.name)))
    table.add_column("before", justify="right")
    table.add_column("after", justify="right", style="bold")
    before, after = report.numbers(layout), report.grown_numbers(plan, layout)
    for row in report.comparison(before, after):
        table.add_row(*row)
    person.print(table)
    for step in plan.steps:
        for sentence in step["says"]:
            style = "yellow" if "not preserved" in sentence else ""
            told = one_line(f"{step['axis']}: {sentence}")
            person.print(told, style=style, markup=False)
    for warning in serving.warnings(before, after):
        person.print(f"serving: {warning}", style="yellow", markup=False)
    if not plan.steps:
        person.print("nothing changes: the result is a copy")
    source, result = str(layout.checkpoint.folder), str(target.absolute())
    person.print(f"from {one_line(source)}\nto   {one_line(result)}", markup=False)


def dry_run(plan: Plan, target: Path) -> None:
    """How much disk the result would take, and that nothing was written."""
    free = shutil.disk_usage(target.absolute().parent).free
    _person().print(
        f"disk {report.size(plan.nbytes)} needed, {report.size(free)} free"
        + ("" if plan.nbytes <= free else " (not enough)")
        + "\nnothing was written (--dry-run)",
        markup=False,
    )


def written(result: Written, seconds: float) -> None:
    """What was written, how fast, and by which way its bytes have come."""
    moved = result.moved
    ways = [
        f"{report.size(count)} {way}"
        for way, count in (
            ("shared with the source", moved.shared),
            ("copied", moved.copied),
            ("computed", moved.computed),
        )
        if count
    ]
    if still := groups(sorted(moved.still)):
        told = ", ".join(f"{pattern} ({count})" for pattern, count in still)
        _person().print(
            one_line(f"not jittered, for their sigma is 0: {told}"), style="yellow", markup=False
        )
    speed = report.size(int(result.nbytes / max(seconds, 1e-9)))
    _person().print(
        f"wrote {result.tensors} tensors in {result.files} file{'s' * (result.files != 1)},"
        f" {report.size(result.nbytes)} in {seconds:.1f} s ({speed}/s)\n"
        f"{', '.join(ways) or 'no bytes'}; peak memory {report.size(peak_memory())}",
        markup=False,
    )


def peak_memory() -> int:
    """The most memory that this process has used so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def verified(result: Verified, folder: str) -> None:
    """The outcome of verify: all is well, or the first problems."""
    person = _person()
    if result.ok:
        person.print(
            f"{one_line(folder)} is as planned: {result.tensors} tensors,"
            f" {report.size(result.copied)} equal to the source,"
            f" {report.size(result.drawn)} drawn again and equal",
            markup=False,
        )
        return
    for problem in result.problems[:SHOWN]:
        person.print(printable(problem), markup=False)
    if len(result.problems) > SHOWN:
        person.print(f"and {len(result.problems) - SHOWN} more")


@contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for a person at a terminal; nothing for a log file or with `quiet`."""
    person = _person()
    if quiet or not person.is_terminal:
        yield lambda count: None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=person,
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def inspection(facts: dict[str, Any]) -> str:
    """The text that `moegrow inspect` prints."""
    layers, moe = facts["layers"], facts["moe_layers"]
    shared = facts["shared_parameters"]
    which = "all" if len(moe) == layers else _ranges(moe)
    rows = [
        ("family", facts["family"]),
        ("layers", f"{layers}, with experts: {which}"),
        ("experts", f"{facts['experts']}, top-{facts['top_k']} by {facts['router']}"),
        ("shared", f"{report.count(shared)} parameters" if shared else "none"),
        ("dtype", ", ".join(f"{k} {report.size(v)}" for k, v in facts["dtypes"].items())),
        ("parameters", report.count(facts["parameters"])),
        ("active", report.count(facts["active_parameters"])),
        ("size", f"{report.size(facts['nbytes'])} in {facts['tensors']} tensors"),
    ]
    if facts["prediction_layers"]:
        rows.insert(2, ("prediction", f"{facts['prediction_layers']} layers behind the last"))
    rows += _values(facts["values"]) if "values" in facts else []
    return "\n".join(f"{name:<11} {one_line(value)}" for name, value in rows)


def _values(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows for what is no finite number or the same throughout, in groups of tensors."""
    rows = []
    for kind in ("nan", "infinite"):
        count = sum(found[kind].values())
        told = [f"{pattern} ({number})" for pattern, number in groups(sorted(found[kind]))]
        rows.append((kind, f"{count} values in {', '.join(told)}" if told else "no values"))
    for kind in ("constant", "empty"):
        told = [f"{pattern} ({number})" for pattern, number in groups(sorted(found[kind]))]
        rows.append((kind, ", ".join(told) or "no tensors"))
    return rows


def difference(found: Difference) -> str:
    """The text that `moegrow diff` prints: config first, then tensors in groups."""
    lines = [f"config  {key}: {_short(old)} -> {_short(new)}" for key, old, new in found.config]
    for sign, names in (
        ("-", found.only_a),
        ("+", found.only_b),
        ("shape", found.other_shape),
        ("data", found.other_contents),
    ):
        lines += [f"{sign:<7} {pattern}  ({count})" for pattern, count in groups(names)]
    compared = "" if found.contents_compared else " (contents not compared)"
    lines.append(f"{found.same} tensors are the same{compared}")
    return printable("\n".join(lines))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _ranges(numbers: list[int]) -> str:
    ((pattern, _),) = groups(f"x.{number}" for number in numbers) or [("x.none", 0)]
    return pattern.removeprefix("x.").strip("{}")
