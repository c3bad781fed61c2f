"""Lay outputs out in shards, aligned so that filesystems can share blocks.

Where the filesystem can share blocks between files, a copied tensor costs nothing if it lies at
the same place in a block as in the source. So the outputs are laid out along the source's own
runs: those that follow each other there follow each other here, and each file's header is padded
until its first tensor fits.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import write_header
from moegrow.checkpoint.shard_index import index_text
from moegrow.dtypes import BITS
from moegrow.errors import Parameter, UsageError
from moegrow.families.layout import parameters
from moegrow.files.byte_ranges import BLOCK
from moegrow.kernels.reader import piece_range
from moegrow.planning.plan import Output, Plan

DEFAULT_SIZE = "5GB"

# A run that is smaller, or a smaller share of the result, gets no file of its own: it is copied.
SMALLEST_RUN, LARGEST_LOOSE_RUN, MOST_RUNS = 1 << 20, 64 << 20, 256

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]B)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One file of the new checkpoint: its tensors in the order in which their bytes lie.

    Its data begins `residue` bytes into a block, or anywhere where that is None.
    """

    name: str
    outputs: tuple[Output, ...]
    residue: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    @cached_property
    def header(self) -> bytes:
        """Everything in front of the data."""
        shapes = ((output.name, output.dtype, output.shape) for output in self.outputs)
        return write_header(shapes, residue=self.residue, metadata=self.metadata)

    def positions(self) -> Iterator[tuple[Output, int]]:
        """Each output with the position of its first byte in the file."""
        position = len(self.header)
        for output in self.outputs:
            yield output, position
            position += output.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(output.nbytes for output in self.outputs)


def parse_size(text: str | int) -> int:
    """A size in bytes, from "5GB" or a number; raises UsageError for what is none."""
    if isinstance(text, int):
        size = text
    else:
        found = _SIZE.fullmatch(text.strip())
        size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size <= 0:
        raise UsageError(
            Parameter("max_shard_size", text) + " is not a size", "write it like 5GB or 500MB"
        )
    return size


def split(
    plan: Plan, checkpoint: Checkpoint, max_shard_size: str | int = DEFAULT_SIZE
) -> tuple[Shard, ...]:
    """The files of a plan that reads from `checkpoint`, along the runs of its files.

    None has more bytes of tensors than `max_shard_size`, but for a tensor that is larger by
    itself and has a file of its own. Raises UsageError for a size that is none.
    """
    wishes = _wishes(plan, checkpoint)
    packing = _Packing(parse_size(max_shard_size))
    smallest = min(LARGEST_LOOSE_RUN, max(SMALLEST_RUN, plan.nbytes // MOST_RUNS))
    loose = [wish for wish in wishes if wish.residue is None]
    for run in _runs([wish for wish in wishes if wish.residue is not None]):
        left = sum(wish.output.nbytes for wish in run)
        for number, wish in enumerate(run):
            if not packing.continues(wish):
                if left < smallest:
                    loose += run[number:]
                    break
                packing.begin(wish)
            packing.add(wish)
            left -= wish.output.nbytes
    packing.add_loose(loose, smallest)
    count = len(packing.files)
    return tuple(
        Shard(
            f"model-{number:05d}-of-{count:05d}.safetensors",
            tuple(file.outputs),
            file.begin,
            plan.metadata,
        )
        for number, file in enumerate(packing.files, 1)
    )


def index(shards: tuple[Shard, ...]) -> str:
    """The text of the index that says which tensor is in which file."""
    outputs = [output for shard in shards for output in shard.outputs]
    return index_text(
        {output.name: shard.name for shard in shards for output in shard.outputs},
        total_size=sum(output.nbytes for output in outputs),
        total_parameters=parameters(output.shape for output in outputs),
    )


class _Wish(NamedTuple):
    """Where an output would best lie: as the `copy`-th of its source, at the same place in a
    block as that; or anywhere, where `residue` is None."""

    copy: int
    file: str
    start: int
    residue: int | None
    output: Output


class _File:
    """A file that is being filled. `end` is the place in a block where the next tensor begins."""

    def __init__(self, begin: int | None) -> None:
        self.begin = begin
        self.outputs: list[Output] = []
        self.size = 0
        self.end = begin or 0

    def add(self, output: Output) -> None:
        self.outputs.append(output)
        self.size += output.nbytes
        self.end = (self.end + output.nbytes) % BLOCK


class _Packing:
    """The files so far, none of more than `limit` bytes of several tensors."""

    def __init__(self, limit: int) -> None:
        self.files: list[_File] = []
        self._limit = limit
        # The file that was last filled up to a place in a block, for each number of a copy.
        self._ends: dict[tuple[int, int | None], _File] = {}

    def continues(self, wish: _Wish) -> bool:
        """Whether there is a file with room at whose end the output would lie as it wishes."""
        file = self._ends.get((wish.copy, wish.residue))
        return file is not None and file.size + wish.output.nbytes <= self._limit

    def begin(self, wish: _Wish) -> None:
        """Begin a file where the output lies as it wishes."""
        self._ends[wish.copy, wish.residue] = file = _File(wish.residue)
        self.files.append(file)

    def add(self, wish: _Wish) -> None:
        """Put the output at the end of the file where it lies as it wishes."""
        file = self._ends.pop((wish.copy, wish.residue))
        file.add(wish.output)
        self._ends[wish.copy, file.end] = file

    def add_loose(self, wishes: list[_Wish], smallest: int) -> None:
        """Put what lies anywhere into files of its own, or behind the rest where it is little.

        It keeps the order of the source as far as files go; within one, wider elements come first,
        so that every tensor begins at a multiple of its element's size.
        """
        groups: list[list[Output]] = []
        room = 0
        for wish in sorted(wishes, key=lambda wish: (wish.file, wish.start, wish.output.name)):
            if not groups or wish.output.nbytes > room:
                groups.append([])
                room = self._limit
            groups[-1].append(wish.output)
            room -= wish.output.nbytes
        for group in groups:
            size = sum(output.nbytes for output in group)
            file = next((file for file in self.files if self._takes(file, size)), None)
            if file is None or size >= smallest:
                file = _File(None)
                self.files.append(file)
            for output in sorted(group, key=lambda output: -BITS[output.dtype]):
                file.add(output)

    def _takes(self, file: _File, size: int) -> bool:
        return file.end % 8 == 0 and file.size + size <= self._limit


def _wishes(plan: Plan, checkpoint: Checkpoint) -> list[_Wish]:
    """Where every output would best lie, in the order of the source's files."""
    uses: Counter[tuple[str, int]] = Counter()
    wishes = []
    for output in plan.outputs:
        if not output.pieces:
            wishes.append(_Wish(0, "", 0, None, output))
            continue
        first = output.pieces[0]
        spec = checkpoint.tensors[first.source]
        start, _ = piece_range(spec, first)
        # What is misaligned in the source would stay so.
        is_aligned = start % max(1, BITS[output.dtype] // 8) == 0
        if first.is_copy and is_aligned and not output.axis:
            copy = uses[first.source, first.start]
            uses[first.source, first.start] += 1
            wishes.append(_Wish(copy, spec.file, start, start % BLOCK, output))
        else:
            wishes.append(_Wish(0, spec.file, start, None, output))
    # Empty tensors come before those that begin at the same byte.
    return sorted(wishes, key=lambda wish: (*wish[:3], wish.output.nbytes, wish.output.name))


def _runs(wishes: list[_Wish]) -> Iterator[list[_Wish]]:
    """Outputs that all lie as they wish where they lie one behind another."""
    run: list[_Wish] = []
    end = 0
    for wish in wishes:
        if run and (wish.residue != end or wish.copy != run[0].copy):
            yield run
            run = []
        run.append(wish)
        end = ((wish.residue or 0) + wish.output.nbytes) % BLOCK
    if run:
        yield run
