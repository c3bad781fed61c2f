"""How long growth takes, and how much memory, beside `cp` of as many bytes and beside other tools.

    python tests/benchmarks/growth.py FOLDER --size 3GB --peers --out table.md

makes a source of random weights in FOLDER, unless it is there already, and runs every case once in
each round: `cp` of as many bytes as a result has, moegrow, and with --peers what other tools are
installed. All end with `sync`, which counts. A part of its own is the noise alone, in memory.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cases
import machine
import processes
import synthetic
import tables
from cases import Bench, Case

from moegrow.display import size

HERE = Path(__file__).parent
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Run(NamedTuple):
    """One run of a case: wall time and the processes' own, peak memory, new bytes on the disk."""

    seconds: float
    own: float
    peak: int
    used: int


Runs = dict[Case, list[Run]]


def main() -> None:
    arguments = _parse()
    os.environ.update(QUIET)
    shapes = synthetic.of_size(arguments.size)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    told = machine.describe(arguments.folder)
    page = []
    with bench_in(arguments.folder, shapes) as bench:
        wanted = [*cases.copies(bench), *cases.exact(bench), *cases.noised(bench)]
        if arguments.peers:
            mergekit = _find(arguments.mergekit)
            if mergekit:
                told["mergekit"] = machine.version_beside(mergekit, "mergekit")
            else:
                note(f"{arguments.mergekit} is not installed, so mergekit is skipped")
            wanted += cases.others(bench, mergekit)
        wanted = [case for case in wanted if arguments.only in ("", case.growth)]
        page += growth_table(bench, measure(bench, wanted, arguments.rounds))
    if not arguments.only:
        page += noise_table(arguments.rounds)
    if arguments.reflink_folder:
        told["sharing filesystem"] = machine.filesystem(arguments.reflink_folder)
        with bench_in(arguments.reflink_folder, shapes) as bench:
            wanted = [*cases.copies(bench), *cases.exact(bench)]
            wanted = [case for case in wanted if case.growth != cases.BOTH]
            page += space_table(bench, measure(bench, wanted, arguments.rounds))
    text = "\n".join([*machine_table(told), *page]) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


@contextmanager
def bench_in(folder: Path, shapes: synthetic.Shapes) -> Iterator[Bench]:
    """A source in a folder, made where it is not there, and room beside it for a while."""
    source = folder / f"qwen3-moe-{shapes.layers}-layers"
    if not source.exists():
        note(f"making {source}, {size(shapes.nbytes)}")
        unfinished = source.with_name(f"{source.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Elsewhere, since the memory of this process is the least that can be measured.
        make = [sys.executable, str(HERE / "synthetic.py"), str(unfinished)]
        subprocess.run([*make, "--layers", str(shapes.layers)], check=True)
        unfinished.rename(source)
    with tempfile.TemporaryDirectory(dir=folder, prefix="growth-") as beside:
        yield Bench(source.resolve(), shapes, Path(beside).resolve())


def measure(bench: Bench, wanted: Iterable[Case], rounds: int) -> Runs:
    """Run the cases in alternation; one that fails is told of and left out."""
    order = sorted(wanted, key=lambda case: cases.GROWTHS.index(case.growth))
    runs: Runs = {case: [] for case in order}
    for number in range(rounds):
        # Every other round goes backwards, so that none is always first or behind the same.
        for case in order[:: -1 if number % 2 else 1]:
            if case not in runs:
                continue
            try:
                runs[case].append(run(bench, case))
            except processes.Failed as failed:
                note(f"{case.name} is left out: {failed}")
                del runs[case]
                continue
            told = f"{runs[case][-1].seconds:.2f} s, {case.growth}: {case.name}"
            note(f"round {number + 1} of {rounds}: {told}")
    return runs


def run(bench: Bench, case: Case) -> Run:
    """Run a case once, hold the size of what it wrote against the plan, and drop it."""
    before = _settled(bench.folder)
    began = time.perf_counter()
    try:
        done = [processes.run(pipeline, bench.folder / "printed") for pipeline in case.pipelines]
        os.sync()
        seconds = time.perf_counter() - began
        written = sum(file.stat().st_size for file in bench.out.rglob("*") if file.is_file())
        wanted = bench.nbytes(case.growth)
        if abs(written - wanted) > wanted / 100:
            raise processes.Failed(f"wrote {size(written)} instead of {size(wanted)}")
        return Run(
            seconds,
            sum(step.own for step in done),
            max(sum(step.peaks) for step in done),
            _used(bench.folder) - before,
        )
    finally:
        shutil.rmtree(bench.out, ignore_errors=True)


def growth_table(bench: Bench, runs: Runs) -> list[str]:
    """Seconds, time relative to cp, and memory of each case."""
    lines = [
        "",
        f"Source: {size(bench.shapes.nbytes)} in bf16, {bench.shapes.layers} layers,"
        f" {bench.shapes.experts} experts. The median of the runs"
        " comes first, then the least and the most.",
        "",
        *tables.head(
            "growth", "written", "by", "seconds", "of CPU", "GB/s", "time ÷ `cp`", "peak memory"
        ),
    ]
    for case, measured in runs.items():
        ratios = _ratios(measured, _copied(case, runs))
        seconds = statistics.median(run.seconds for run in measured)
        lines.append(
            tables.row(
                case.growth,
                size(bench.nbytes(case.growth)),
                case.name,
                tables.spread(measured),
                f"{statistics.median(run.own for run in measured):.1f}",
                f"{bench.nbytes(case.growth) / 1e9 / seconds:.2f}",
                f"{statistics.median(ratios):.2f}",
                tables.peak(max(run.peak for run in measured)),
            )
        )
    return lines


def noise_table(rounds: int) -> list[str]:
    """Noised parameters per second in memory."""
    note("noise in memory")
    command = [sys.executable, str(HERE / "kernel.py"), "--rounds", str(rounds)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = ["", "Noise alone, in memory, on bf16 weights:", ""]
    lines += tables.head("threads", "by", "million parameters a second", "speed ÷ the formula's")
    for row in map(json.loads, printed.splitlines()):
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "not measured"
        lines.append(tables.row(str(row["threads"]), row["by"], f"{row['million']:.0f}", ratio))
    return lines


def space_table(bench: Bench, runs: Runs) -> list[str]:
    """Seconds and new disk space of each case where files can share blocks."""
    kind = machine.filesystem(bench.folder)
    lines = ["", f"On {kind}, where files can share blocks:", ""]
    lines += tables.head("growth", "written", "by", "seconds", "newly used")
    for case, measured in runs.items():
        used = statistics.median_high(run.used for run in measured)
        written = size(bench.nbytes(case.growth))
        lines.append(
            tables.row(case.growth, written, case.name, tables.spread(measured), size(max(0, used)))
        )
    return lines


def machine_table(told: dict[str, str]) -> list[str]:
    return [*tables.head("", ""), *(tables.row(*entry) for entry in told.items())]


def note(text: str) -> None:
    """Say something to who waits."""
    print(text, file=sys.stderr, flush=True)


def _copied(case: Case, runs: Runs) -> list[Run]:
    """The runs of cp that go with a case."""
    return next(
        found
        for other, found in runs.items()
        if (other.name, other.growth) == (cases.CP, case.growth)
    )


def _ratios(measured: list[Run], copied: list[Run]) -> list[float]:
    """How many times as long as cp each run took, by cp's of the same round."""
    return [run.seconds / cp.seconds for run, cp in zip(measured, copied, strict=True)]


def _used(folder: Path) -> int:
    """Bytes in use on the filesystem of a folder."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _settled(folder: Path) -> int:
    """Bytes in use when all is written, and what was removed has been freed as far as it will."""
    os.sync()
    before = _used(folder)
    for _ in range(20):
        time.sleep(0.1)
        os.sync()
        if (now := _used(folder)) == before:
            break
        before = now
    return before


def _find(command: str) -> Path | None:
    """A command beside this Python or on the path."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(command, path=beside)
    return Path(found) if found else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure growth beside cp and other tools.")
    parser.add_argument("folder", type=Path, help="where the source and the results are put")
    parser.add_argument(
        "--size", type=synthetic.bytes_of, default="3GB", help="of the source, about (3GB)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    parser.add_argument(
        "--only", default="", choices=cases.GROWTHS, help="measure this growth, and not the noise"
    )
    parser.add_argument("--peers", action="store_true", help="measure other tools, too")
    parser.add_argument(
        "--mergekit", default="mergekit-yaml", metavar="COMMAND",
        help="where mergekit is, if in an environment of its own (mergekit-yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--reflink-folder", type=Path, metavar="DIR", help="a folder on XFS, Btrfs or the like"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
