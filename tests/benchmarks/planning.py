"""How long plans of a very large checkpoint take, and how much memory.

    python tests/benchmarks/planning.py FOLDER

makes a source of Kimi-K2's shape in FOLDER, of holes in files (about 30 MB on the disk), unless it
is there already, and prints for each command the medians of wall time and CPU time and the largest
peak memory of several runs. On a machine that has other work, the CPU time says more.
"""

import argparse
import statistics
import sys
from pathlib import Path

import processes
import sparse

MOEGROW = [sys.executable, "-m", "moegrow"]


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
        commands = [[*MOEGROW, *words] for words in pipeline]
        printed = arguments.folder / "printed"
        runs = [processes.run(commands, printed) for _ in range(arguments.runs)]
        seconds = statistics.median(run.seconds for run in runs)
        own = statistics.median(run.own for run in runs)
        peaks = [max(peaks) for peaks in zip(*(run.peaks for run in runs), strict=True)]
        told = " + ".join(f"{peak / 1e6:.0f} MB" for peak in peaks)
        print(f"{name:42} {seconds:8.2f} {own:7.2f}  {told}", flush=True)


if __name__ == "__main__":
    main()
