"""How long `moegrow convert` takes, beside a plain loop in torch and `cp` of as many bytes.

    python tests/benchmarks/conversion.py FOLDER --rounds 3

makes checkpoints of experts in FOLDER, in fp8 with block scales, in MXFP4, as packed integers of 4
bits and in bf16, and writes each in another dtype. Every round runs all three; a run ends when
`sync` has returned. The checkpoints are removed at the end.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dequantise
import machine
import processes

from moegrow.display import size

MOEGROW = [sys.executable, "-m", "moegrow"]
LOOP = [sys.executable, Path(dequantise.__file__)]


class Conversion(NamedTuple):
    """From a format to a dtype, of a checkpoint with so many layers."""

    form: str
    dtype: str
    layers: int

    def __str__(self) -> str:
        return f"{self.form} → {self.dtype}"


CONVERSIONS = (
    Conversion("fp8", "bf16", 2), Conversion("mxfp4", "bf16", 1), Conversion("int4", "bf16", 2),
    Conversion("bf16", "fp32", 1), Conversion("bf16", "fp16", 2),
)  # fmt: skip


class Run(NamedTuple):
    """Wall time, the processes' own, and their peak memory."""

    seconds: float
    own: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure conversion beside torch and cp.")
    parser.add_argument("folder", type=Path, help="where checkpoints and results are put")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case (3)")
    parser.add_argument("--times", type=int, default=1, help="as many layers, times this (1)")
    parser.add_argument("--only", default="", choices=[c.form for c in CONVERSIONS])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for key, value in machine.describe(arguments.folder).items():
        print(f"| {key} | {value} |")
    print("\n| conversion | written | by | seconds | of CPU | GB/s | time ÷ `cp` | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for conversion in CONVERSIONS:
        if arguments.only in ("", conversion.form):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                larger = conversion._replace(layers=conversion.layers * arguments.times)
                for line in measure(larger, Path(folder), arguments.rounds):
                    print(line, flush=True)


def measure(conversion: Conversion, folder: Path, rounds: int) -> Iterator[str]:
    """A row for each way: the medians, and of ratios those within a round."""
    form, dtype, layers = conversion
    source, out, made = folder / "source", folder / "out", folder / "made"
    make = [*LOOP, "make", form, source, "--layers", str(layers)]
    subprocess.run(make, check=True)
    options = [source, "-q", "--dtype", dtype]
    ways = {
        "moegrow convert": [*MOEGROW, "convert", *options, "-o", out],
        "a loop in torch": [*LOOP, "loop", source, out, "--dtype", dtype],
        "`cp`": ["cp", "-r", made, out],
    }
    subprocess.run([*MOEGROW, "convert", *options, "-o", made], check=True, capture_output=True)
    written = sum(file.stat().st_size for file in made.glob("*.safetensors"))
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways)[:: -1 if number % 2 else 1]:
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            began = time.perf_counter()
            done = processes.run([ways[way]], folder / "printed")
            os.sync()
            runs[way].append(Run(time.perf_counter() - began, done.own, max(done.peaks)))
            found = sum(file.stat().st_size for file in out.glob("*.safetensors"))
            assert abs(found - written) < written / 100, (way, found, written)
    for way, its in runs.items():
        ratios = [run.seconds / cp.seconds for run, cp in zip(its, runs["`cp`"], strict=True)]
        seconds = [run.seconds for run in its]
        middle = statistics.median(seconds)
        yield (
            f"| {conversion} | {size(written)} | {way} |"
            f" {middle:.2f} ({min(seconds):.2f}–{max(seconds):.2f})"
            f" | {statistics.median(run.own for run in its):.1f} | {written / middle / 1e9:.2f}"
            f" | {statistics.median(ratios):.2f} | {size(max(run.peak for run in its))} |"
        )


if __name__ == "__main__":
    main()
