"""How fast noise is added to bf16 weights in memory, by moegrow and by the paper's formula.

    python tests/benchmarks/kernel.py

Both noise the same weights, of experts' shape, in alternation on one thread and on all cores. A
line of JSON for each says how many million parameters a second that were, and how many times the
formula's on as many threads. Nothing is read from or written to files.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import peers

from moegrow.files.byte_ranges import cores
from moegrow.growth import Noise
from moegrow.kernels.changes import change, sigma
from moegrow.kernels.perturb import Bytes, Workspace, compiled_loops
from moegrow.planning.plan import Output, Piece

SHAPE = (768, 2048)
PIECE = Piece("old", 0, SHAPE[0], Noise("normal", peers.ALPHA, 0))
OUTPUT = Output("new", "BF16", SHAPE, (PIECE,))


class Way(NamedTuple):
    """A way to noise tensors on some threads."""

    by: str
    threads: int
    noise: Callable[[list[Bytes], int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the noise in memory.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--tensors", type=int, default=32, help="tensors of a round (32)")
    arguments = parser.parse_args()
    weights = _weights(arguments.tensors)
    million = len(weights) * SHAPE[0] * SHAPE[1] / 1e6
    seconds = measure(_ways(), weights, arguments.rounds)
    formula = {way.threads: times for way, times in seconds.items() if way.noise is by_formula}
    for way, times in seconds.items():
        ratios = [a / b for a, b in zip(formula.get(way.threads, ()), times, strict=False)]
        row = {
            "by": way.by,
            "threads": way.threads,
            "million": million / statistics.median(times),
            "ratio": statistics.median(ratios) if ratios else None,
        }
        print(json.dumps(row), flush=True)


def measure(ways: list[Way], weights: list[Bytes], rounds: int) -> dict[Way, list[float]]:
    """The seconds of every way in every round."""
    for way in ways:
        way.noise(weights[:2], way.threads)  # the first time, tables are made
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            way.noise(weights, way.threads)
            seconds[way].append(time.perf_counter() - began)
    return seconds


def by_moegrow(tensors: list[Bytes], threads: int, compiled: ModuleType | None) -> None:
    """σ and noise by the functions that write checkpoints, each thread on tensors of its own."""
    shares = [tensors[first::threads] for first in range(threads)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(_noised, shares, [compiled] * threads):
            pass


def _noised(tensors: list[Bytes], compiled: ModuleType | None) -> None:
    workspace, new = Workspace(compiled), np.empty_like(tensors[0])
    for stored in tensors:
        deviation = sigma(PIECE, OUTPUT.dtype, partial(iter, [stored]), workspace)
        change(OUTPUT, PIECE, 0, deviation, workspace).apply(stored, 0, new)


def by_formula(tensors: list[Bytes], threads: int) -> None:
    """σ, normal values and their sum by torch on threads of its own, one tensor after another."""
    import torch

    torch.set_num_threads(threads)
    for stored in tensors:
        peers.noised(torch.from_numpy(stored).view(torch.bfloat16).view(SHAPE))


def _ways() -> list[Way]:
    counts = sorted({1, cores()})
    ways = [Way("moegrow", count, partial(by_moegrow, compiled=None)) for count in counts]
    if loops := compiled_loops(sys.maxsize):
        fast = partial(by_moegrow, compiled=loops)
        ways += [Way("moegrow, compiled", count, fast) for count in counts]
    if importlib.util.find_spec("torch"):
        ways += [Way("the paper's formula in torch", count, by_formula) for count in counts]
    return sorted(ways, key=lambda way: way.threads)


def _weights(count: int) -> list[Bytes]:
    """Tensors of normal weights, each its own, as bytes of bf16."""
    generator = np.random.default_rng(0)

    def drawn() -> Bytes:
        values = generator.standard_normal(SHAPE, np.float32) * np.float32(0.02)
        return (values.view(np.uint32) >> 16).astype("<u2").ravel().view(np.uint8)

    return [drawn() for _ in range(count)]


if __name__ == "__main__":
    main()
