"""How long plans of a very large checkpoint take, and how much memory.

    python tests/benchmarks/planning.py FOLDER

makes a source of Kimi-K2's shape in FOLDER, of holes in files (about 30 MB on the disk), unless it
is there already, and prints for each command the medians of wall time and CPU time and the largest
peak memory of several runs. On a machine that has other work, the CPU time says more.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import sparse

MOEGROW = [sys.executable, "-m", "moegrow"]


class Measured(NamedTuple):
    """One run: wall time and the processes' own time in seconds, their peak memory in bytes."""

    seconds: float
    own: float
    peaks: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure moegrow's planning.")
    parser.add_argument("folder", type=Path, help="where the source and the plans are put")
    parser.add_argument("--runs", type=int, default=3, help="runs per command (3)")
    arguments = parser.parse_args()
    source = arguments.folder / "kimi-k2"
    if not source.exists():
        sparse.kimi_k2(source)
    exact = ["width", "--experts", "2x", "--noise", "0"]  # noise on fp8 weights is refused
    pipelines = {
        "inspect": [["inspect", source]],
        "depth --plan": [["depth", source, "--plan"]],
        "width --noise 0 --plan": [[*exact, source, "--plan"]],
        "depth --dry-run": [["depth", source, "--dry-run", "-o", arguments.folder / "out"]],
        "depth --plan | width --noise 0 --dry-run": [
            ["depth", source, "--plan"],
            [*exact, "--dry-run", "-o", arguments.folder / "out"],
        ],
        "depth --plan | width --noise 0 --plan": [
            ["depth", source, "--plan"],
            [*exact, "--plan"],
        ],
    }
    print(f"{'command':42} {'seconds':>8} {'of CPU':>7}  peak memory per process")
    for name, pipeline in pipelines.items():
        runs = [measure(pipeline, arguments.folder / "printed") for _ in range(arguments.runs)]
        seconds = statistics.median(run.seconds for run in runs)
        own = statistics.median(run.own for run in runs)
        peaks = [max(peaks) for peaks in zip(*(run.peaks for run in runs), strict=True)]
        told = " + ".join(f"{peak / 1e6:.0f} MB" for peak in peaks)
        print(f"{name:42} {seconds:8.2f} {own:7.2f}  {told}", flush=True)


def measure(pipeline: list[list[object]], printed: Path) -> Measured:
    """Run commands joined by pipes; what the last one prints goes to the file `printed`."""
    began = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    before: IO[bytes] | None = None
    with printed.open("wb") as last:
        for number, arguments in enumerate(pipeline):
            is_last = number == len(pipeline) - 1
            process = subprocess.Popen(
                [*MOEGROW, *map(str, arguments)],
                stdin=before or subprocess.DEVNULL,
                stdout=last if is_last else subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if before:
                before.close()  # so that only the next process holds it
            before = process.stdout
            processes.append(process)
        used = [_wait(process) for process in processes]
    return Measured(
        time.perf_counter() - began,
        sum(usage.ru_utime + usage.ru_stime for usage in used),
        tuple(usage.ru_maxrss * 1024 for usage in used),
    )


def _wait(process: "subprocess.Popen[bytes]") -> resource.struct_rusage:
    """What a process has used when it ends; raises where it failed."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage


if __name__ == "__main__":
    main()
