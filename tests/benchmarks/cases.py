"""What growth.py measures: moegrow's commands, `cp` of as many bytes, and other tools."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
from processes import Pipeline
from synthetic import Shapes

DEPTH, WIDTH, BOTH = GROWTHS = ("depth ×2", "width ×2", "depth ×2 and width ×2")
CP = "`cp`"
MOEGROW = [sys.executable, "-m", "moegrow"]
PEERS = [sys.executable, Path(peers.__file__)]


@dataclass(frozen=True, eq=False)
class Case:
    """Something to measure: its pipelines run one after another and write a growth's result."""

    name: str
    growth: str
    pipelines: tuple[Pipeline, ...]


@dataclass(frozen=True)
class Bench:
    """A source, and a folder beside it for what is measured."""

    source: Path
    shapes: Shapes
    folder: Path

    @property
    def out(self) -> Path:
        """Where every case puts its result."""
        return self.folder / "out"

    def nbytes(self, growth: str) -> int:
        """Bytes of all tensors of a result."""
        return self.shapes.grown(deeper=growth != WIDTH, wider=growth != DEPTH)


def copies(bench: Bench) -> Iterator[Case]:
    """`cp` of the source's files, as often as makes a result's bytes; the last file is a part."""
    files = sorted(bench.source.glob("*.safetensors"))
    for growth in GROWTHS:
        left = bench.nbytes(growth)
        passes: list[list[Path]] = []
        while left:
            taken = []
            for file in files:
                if file.stat().st_size <= left:
                    taken.append(file)
                    left -= file.stat().st_size
            if not taken:
                taken, left = [_beginning(bench, files[0], left)], 0
            passes.append(taken)
        targets = [bench.out / str(number) for number in range(len(passes))]
        commands = [["mkdir", "-p", *targets]]
        commands += [["cp", *taken, target] for taken, target in zip(passes, targets, strict=True)]
        yield Case(CP, growth, tuple([command] for command in commands))


def exact(bench: Bench) -> Iterator[Case]:
    """moegrow where nothing is computed: the result is copies of the source's bytes."""
    options = ["-q", "-o", bench.out]
    yield Case("moegrow depth", DEPTH, ([[*MOEGROW, "depth", bench.source, *options]],))
    wider = [*MOEGROW, "width", bench.source, "--noise", "0", *options]
    yield Case("moegrow width --noise 0", WIDTH, ([wider],))


def noised(bench: Bench) -> Iterator[Case]:
    """moegrow where noise is added to the copied experts."""
    options = ["--noise", "0.01", "-q", "-o", bench.out]
    wider = [*MOEGROW, "width", bench.source, *options]
    yield Case("moegrow width --noise 0.01", WIDTH, ([wider],))
    both = [[*MOEGROW, "depth", bench.source, "--plan"], [*MOEGROW, "width", *options]]
    yield Case("moegrow depth --plan | moegrow width --noise 0.01", BOTH, (both,))


def others(bench: Bench, mergekit: Path | None) -> Iterator[Case]:
    """Other tools that do the same."""
    loaded = [*PEERS, "transformers", bench.source, bench.out]
    yield Case("transformers: load, repeat, save", DEPTH, ([loaded],))
    if mergekit:
        config = bench.folder / "mergekit.yml"
        config.write_text(peers.mergekit_config(bench.source, bench.shapes.layers))
        yield Case("mergekit passthrough", DEPTH, ([[mergekit, config, bench.out]],))
    formula = [*PEERS, "formula", bench.source, bench.out]
    yield Case("the paper's formula in torch", WIDTH, ([formula],))


def _beginning(bench: Bench, file: Path, size: int) -> Path:
    """A file of the first bytes of another."""
    path = bench.folder / f"{size}-bytes"
    with path.open("wb") as part:
        subprocess.run(["head", "-c", str(size), file], stdout=part, check=True)
    return path
