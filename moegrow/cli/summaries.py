"""Summaries on standard error, before and after a command."""

import resource
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moegrow import display
from moegrow.analysis.logits import TOLERANCE, Compared
from moegrow.display import groups
from moegrow.errors import one_line, printable, spell
from moegrow.families.layout import Layout
from moegrow.options import as_flag
from moegrow.planning import model_size
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.notes import FunctionLost
from moegrow.planning.notices import notices
from moegrow.planning.plan import Plan
from moegrow.write.shards import Shard
from moegrow.write.verify_result import Verified
from moegrow.write.work_dir import Partial
from moegrow.write.write_checkpoint import Written
from moegrow.write.write_job import Part, lacking


def _person() -> Console:
    # What no terminal shows has no width: tables in a log keep the names that tell rows apart.
    width = None if sys.stderr.isatty() else 1000
    return Console(stderr=True, highlight=False, soft_wrap=True, width=width)


def summary(plan: Plan, layout: Layout, target: Path) -> None:
    """Before and after, and what is done to get there."""
    person = _person()
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(one_line(layout.family.name)))
    table.add_column("before", justify="right")
    table.add_column("after", justify="right", style="bold")
    before, after = model_size.numbers(layout), model_size.grown_numbers(plan, layout)
    for row in model_size.comparison(before, after):
        table.add_row(*row)
    person.print(table)
    for step in plan.steps:
        for note in step.notes:
            style = "yellow" if isinstance(note, FunctionLost) else ""
            person.print(one_line(f"{step.axis}: {note}"), style=style, markup=False)
    for notice in notices(plan, layout):
        style = "yellow" if notice.is_warning else ""
        person.print(one_line(str(notice)), style=style, markup=False)
    if not plan.steps:
        person.print("nothing changes: the result is a copy")
    _where(layout, target)


def _where(layout: Layout, target: Path) -> None:
    source, result = layout.checkpoint.location, str(target.absolute())
    _person().print(f"from {one_line(source)}\nto   {one_line(result)}", markup=False)


def told(sentences: Iterable[str]) -> None:
    """What --verbose tells, a line each, less bright than the rest."""
    person = _person()
    for sentence in sentences:
        person.print(printable(sentence), style="dim", markup=False)


def dry_run(plan: Plan, target: Path) -> None:
    """How much disk the result would take, and that nothing was written."""
    free = shutil.disk_usage(target.absolute().parent).free
    _person().print(
        f"disk {display.size(plan.nbytes)} needed, {display.size(free)} free"
        + ("" if plan.nbytes <= free else " (not enough)")
        + "\nnothing was written (--dry-run)",
        markup=False,
    )


def written(result: Written, seconds: float) -> None:
    """What was written, how fast, and by which way its bytes have come."""
    moved = result.moved
    if still := groups(sorted(moved.still)):
        told = ", ".join(f"{pattern} ({count})" for pattern, count in still)
        _person().print(
            one_line(f"not jittered, for their sigma is 0: {told}"), style="yellow", markup=False
        )
    speed = display.size(int(result.nbytes / max(seconds, 1e-9)))
    if result.kept:
        plural = "s" * (result.kept != 1)
        _person().print(f"kept {result.kept} file{plural} that an earlier run had finished")
    _person().print(
        f"wrote {result.tensors} tensors in {result.files} file{'s' * (result.files != 1)},"
        f" {display.size(result.nbytes)} in {seconds:.1f} s ({speed}/s)\n"
        f"{result.came}; peak memory {display.size(peak_memory())}",
        markup=False,
    )
    noise(moved.realised)


def sharing(part: Part | None, files: tuple[Shard, ...], layout: Layout, target: Path) -> None:
    """Which shards one of several processes writes, and where."""
    if part:
        mine = [files[number] for number in part.shards(len(files))]
        total = display.size(sum(shard.nbytes for shard in mine))
        say(quiet=False)(
            f"part {part.number} of {part.count}: {len(mine)} of {_shards(len(files))}, {total}"
        )
    _where(layout, target)


def shared(result: Written, seconds: float, total: int) -> None:
    """What one of several processes has written, and what is missing of the `total` shards."""
    if result.part and result.kept == result.files > 0:
        say(quiet=False)(f"its {_shards(result.files)} were finished before")
    elif result.part and result.files:
        written(result, seconds)
    if result.missing:
        told = f"{len(result.missing)} of {_shards(total)} still missing"
    elif result.is_published:
        told = f"all {_shards(total)} written and published"
    else:
        told = f"all {_shards(total)} written; another process publishes them"
    say(quiet=False)(told)


def missing(partial: Partial, files: tuple[Shard, ...], *, is_there: bool) -> None:
    """Which shards have not been written so far, by whatever process."""
    absent = () if is_there else partial.missing(files)
    told = f"all {_shards(len(files))} written"
    if absent:
        count = partial.begun_parts() if partial.is_begun else len(files)
        what, how = lacking(absent, len(files), count)
        told = f"{what}; {spell(how, as_flag)}"
    say(quiet=False)(f"{told}\nnothing was written (--dry-run)")


def _shards(count: int) -> str:
    return f"{count} shard{'s' * (count != 1)}"


def noise(found: dict[str, NoiseStats]) -> None:
    """What rounding has left of the noise, for each kind of tensor."""
    if not found:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("noise after rounding", overflow="fold")
    table.add_column("unchanged", justify="right")
    table.add_column("realised ÷ asked", justify="right")
    for kind, realised in sorted(found.items()):
        style = "yellow" if realised.is_swallowed else ""
        unchanged = f"{100 * realised.share_unchanged:.1f} %"
        table.add_row(Text(printable(kind)), unchanged, f"{realised.ratio:.2f}", style=style)
    person = _person()
    person.print(table)
    if lost := sum(realised.is_swallowed for realised in found.values()):
        rows = "in all of these" if lost == len(found) else f"in {lost} of these {len(found)}"
        person.print(
            f"the noise was mostly lost {rows}: their dtype has no numbers so close to each other;"
            " --rounding stochastic keeps it on average",
            style="yellow",
        )


def no_noise(found: Verified) -> None:
    """Why there is nothing to show of noise."""
    told = "no noise: the plan asks for none"
    if found.gone:
        told = "no noise is shown: the source is gone, so it cannot be drawn again"
    elif found.drawn:
        told = "no noise: all values of what was copied are the same"
    say(quiet=False)(told)


def say(*, quiet: bool) -> Callable[[str], None]:
    """A way to tell a person what goes on beside the tables."""
    person = _person()
    return lambda text: None if quiet else person.print(printable(text), markup=False)


def peak_memory() -> int:
    """The most memory that this process has used so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def verified(result: Verified, folder: str) -> None:
    """The outcome of verify: all is well, or the first problems."""
    told = result.spelled(as_flag)
    _person().print(f"{one_line(folder)} is {told}" if result.ok else told, markup=False)


def compared(found: Compared) -> None:
    """How far the logits of a result are from those of its source, and from which layer on."""
    person = _person()
    compared = "logits" if found.has_head else "last states"
    for reason in found.reasons:
        person.print(f"the {compared} need not be the same: {one_line(reason)}", markup=False)
    is_another = found.largest > TOLERANCE
    parted = ""
    if found.parts_at is not None:
        parted = f"; the states part behind new layer {found.parts_at}"
    unit = f"in units of their deviation, {found.deviation:.3g}"
    told = (
        f"{compared} of {found.tokens} tokens: difference {found.largest:.2g} at most,"
        f" {found.mean:.2g} on average ({unit})\n"
    )
    if found.kl is None or found.agree is None:
        told += f"the model has no head, so that it has no logits{parted}"
    else:
        told += (
            f"KL divergence {found.kl:.2g} nats; the likeliest token is the same behind"
            f" {100 * found.agree:.1f} % of them{parted}"
        )
    person.print(told, style="yellow" if is_another else "", markup=False)
    if found.images:
        person.print("an image, drawn for this model, is among them")
    if found.no_image:
        text = f"no image was tried, though the model takes images: {one_line(found.no_image)}"
        person.print(text, style="yellow", markup=False)
    if is_another or not found.ok:
        _layers(found, person)
    if found.together:
        shares = [layer.share for layer in found.together]
        least, mean = min(shares), sum(shares) / len(shares)
        person.print(
            f"copies are chosen together with their originals {100 * mean:.1f} % of the time,"
            f" {100 * least:.1f} % in the layer where least"
        )
    elif found.together is None:
        person.print("which experts are chosen is not shown by this model")
    person.print(
        f"weights in memory at once: {display.size(max(found.alive))} at most;"
        f" peak memory {display.size(peak_memory())}"
    )
    if not found.ok:
        person.print(
            f"the {compared} must be the same within {TOLERANCE:g}, and are not", style="red"
        )


def _layers(found: Compared, person: Console) -> None:
    """For each old layer, how far the states behind the layers made from it are from its own."""
    table = Table(box=None, pad_edge=False)
    for column in ("old layer", "new layers", "difference of the states"):
        table.add_column(column, justify="right")
    for layer in found.layers:
        new = ", ".join(map(str, layer.new))
        table.add_row(str(layer.old), new, ", ".join(f"{d:.2g}" for d in layer.differences))
    person.print(table)
