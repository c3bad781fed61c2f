"""How long norms take on files that are not in the page cache, beside `cat` of the same files.

    python tests/benchmarks/looking.py FOLDER --size 3GB

makes a source of random weights in FOLDER, unless it is there already. In each round `cat` and
`moegrow norms` read it, after the page cache was told to forget it. A ratio is taken within a
round, since disks drift.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

import growth
import machine
import processes
import synthetic
import tables

from moegrow.display import size

CAT, NUMPY, COMPILED = "`cat`", "moegrow norms, without numba", "moegrow norms"
# Starts moegrow as its command does, as if numba were not installed.
WITHOUT = (
    "import sys; sys.modules['numba'] = None; from moegrow.cli.main import main; sys.exit(main())"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure moegrow norms beside cat.")
    parser.add_argument("folder", type=Path, help="where the source is put")
    parser.add_argument("--size", type=synthetic.bytes_of, default="3GB", help="about (3GB)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--warm", action="store_true", help="leave the files in the page cache")
    arguments = parser.parse_args()
    shapes = synthetic.of_size(arguments.size)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    told = machine.describe(arguments.folder)
    with growth.bench_in(arguments.folder, shapes) as bench:
        runs = measure(bench.source, bench.folder, arguments.rounds, cold=not arguments.warm)
    lines = [*growth.machine_table(told), "", *table(runs, shapes.nbytes)]
    print("\n".join(lines))


def measure(
    source: Path, folder: Path, rounds: int, *, cold: bool
) -> dict[str, list[processes.Measured]]:
    """Every way to read the source, once in each round and every other round backwards."""
    norms = ["norms", "--quiet", source]
    ways = {
        CAT: ["sh", "-c", 'cat "$@" > /dev/null', "sh", *sorted(source.glob("*.safetensors"))],
        COMPILED: [sys.executable, "-m", "moegrow", *norms],
        NUMPY: [sys.executable, "-c", WITHOUT, *norms],
    }
    runs: dict[str, list[processes.Measured]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in [*ways][:: -1 if number % 2 else 1]:
            if cold:
                forget(source)
            runs[way].append(processes.run([ways[way]], folder / "printed"))
            growth.note(f"round {number + 1} of {rounds}: {runs[way][-1].seconds:.2f} s, {way}")
    return runs


def forget(folder: Path) -> None:
    """Have the page cache forget the files of a folder, and nothing else, such as Python's own."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(runs: dict[str, list[processes.Measured]], nbytes: int) -> list[str]:
    """Seconds, rate, time relative to cat, and memory of each way."""
    lines = [
        f"{size(nbytes)} in bf16. The median of {len(runs[CAT])} runs comes first, then the least"
        " and the most.",
        "",
        *tables.head("by", "seconds", "of CPU", "GB/s", "time ÷ `cat`", "peak memory"),
    ]
    for way, measured in runs.items():
        seconds = statistics.median(run.seconds for run in measured)
        pairs = zip(measured, runs[CAT], strict=True)
        lines.append(
            tables.row(
                way,
                tables.spread(measured),
                f"{statistics.median(run.own for run in measured):.1f}",
                f"{nbytes / 1e9 / seconds:.2f}",
                f"{statistics.median(run.seconds / cat.seconds for run, cat in pairs):.2f}",
                tables.peak(max(max(run.peaks) for run in measured)),
            )
        )
    return lines


if __name__ == "__main__":
    main()
