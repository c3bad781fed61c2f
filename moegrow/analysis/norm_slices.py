"""Cut tensors into matrices, so that norms do not depend on how experts are stored."""

import math
from typing import NamedTuple

from moegrow.checkpoint.header import TensorSpec
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout, is_of_all
from moegrow.families.tensor_names import TensorRole

# How little of a tensor a sample reads, in values, and of how many experts of a layer.
SAMPLED_VALUES = 1 << 15
SAMPLED_EXPERTS = 8
_STRETCHES = 4  # of a matrix that is no expert's, so that several of its heads are met
_GOLDEN = (math.sqrt(5) - 1) / 2


class Run(NamedTuple):
    """`length` values of a tensor from number `first` on.

    They belong, `period` values at a time, to the bins `bin`, `bin + 1` and so on, and from the
    last of `bins` on to the first again.
    """

    first: int
    length: int
    period: int
    bin: int = 0
    bins: int = 1


class Cut(NamedTuple):
    """How a tensor is counted: in which group, in how many bins, and what is read of it.

    A bin is a matrix, or what there is of one in this tensor. Where a tensor holds many experts,
    the bins of each stand behind those of the one before.
    """

    group: str
    bins: int
    runs: tuple[Run, ...]

    @property
    def length(self) -> int:
        """How many values are read."""
        return sum(run.length for run in self.runs)


def cut(layout: Layout, spec: TensorSpec, place: TensorRole, *, sample: bool) -> Cut | None:
    """How a tensor of a layer is counted, or None where no norm is taken of it.

    Vectors count as norms or not at all: biases and rates of decay say nothing of a layer's
    matrices. Raises MoegrowError where gate and up are joined and nothing tells how.
    """
    size, group = math.prod(spec.shape), group_of(place, spec.shape)
    if not size or not group:
        return None
    if group == "experts":
        return _expert_cut(layout, spec, place, sample=sample)
    if group == "norms":
        return Cut("norms", 1, (Run(0, size, size),))
    if place.role == "router" and not place.axis:
        # Copies of experts copy rows of it.
        rows, row = spec.shape[0], size // spec.shape[0]
        read = len(experts_read(rows, sample=sample))
        return Cut("router", rows, (Run(0, read * row, row, 0, read),))
    return Cut(group, 1, _spread(size) if sample else (Run(0, size, size),))


def group_of(place: TensorRole, shape: tuple[int, ...]) -> str:
    """The one of `places.GROUPS` in which a tensor counts, or "" where it does in none."""
    if place.group == "experts" or is_matrix(shape):
        return place.group
    return "norms" if place.is_norm else ""


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a shape has at least two dimensions in which it extends."""
    return sum(length > 1 for length in shape) > 1


def experts_read(count: int, *, sample: bool) -> tuple[int, ...]:
    """Which of so many experts are read: of a sample, the first.

    Experts have no order, and copies stand behind the originals. So the sample of a wider model is
    that of its source, and shows no difference where there is none.
    """
    return tuple(range(min(count, SAMPLED_EXPERTS) if sample else count))


def _expert_cut(layout: Layout, spec: TensorSpec, place: TensorRole, *, sample: bool) -> Cut | None:
    """As `cut`, for a tensor of one expert or of all those of a layer."""
    # Of product keys, an expert is one row of a table.
    is_row = layout.family.router.kind == "grid"
    experts, numbers = layout.experts, experts_read(layout.experts, sample=sample)
    if place.expert is not None:
        is_expert = place.expert < experts * layout.family.router.lists
        if not is_expert or place.expert % experts not in numbers:
            return None
        count, numbers, shape = 1, (0,), spec.shape
    else:
        if is_of_all(spec, place):
            return None
        # What stands behind the experts, such as zero experts, is no expert.
        count = experts if place.is_stacked else spec.shape[0]
        shape = (spec.shape[0] // count, *spec.shape[1:])
    if not is_row and not is_matrix(shape):
        return None
    size = math.prod(spec.shape) // count
    parts, period = (2, _period(layout, spec, place)) if place.is_joined else (1, size)
    if not sample and period * parts == size:
        turns = len(numbers)
        return Cut("experts", count * parts, (Run(0, size * turns, period, 0, turns * parts),))
    runs: list[Run] = []
    for number in numbers:
        first, bin_ = number * size, number * parts
        if not sample:
            runs.append(Run(first, size, period, bin_, parts))
            continue
        # The same in every layer, so that copies of layers are not taken for something else.
        at = (0.5 + _GOLDEN * (place.expert or number)) % 1
        if period * parts == size:
            for part in range(parts):
                start, length = _part(period, 1, at)
                runs.append(Run(first + part * period + start, length, length, bin_ + part))
        else:
            start, length = _part(size, parts * period, at)
            runs.append(Run(first + start, length, period, bin_, parts))
    return Cut("experts", count * parts, tuple(runs))


def _part(size: int, step: int, at: float) -> tuple[int, int]:
    """Where a sample of `size` values begins and how long it is, both multiples of `step`."""
    length = min(size, -(-SAMPLED_VALUES // step) * step)
    return int(at * (size - length) / step) * step, length


def _spread(size: int) -> tuple[Run, ...]:
    """A sample of a matrix: stretches that lie evenly in it."""
    length = SAMPLED_VALUES // _STRETCHES
    if size <= SAMPLED_VALUES:
        return (Run(0, size, size),)
    return tuple(
        Run((2 * i + 1) * (size - length) // (2 * _STRETCHES), length, length)
        for i in range(_STRETCHES)
    )


def _period(layout: Layout, spec: TensorSpec, place: TensorRole) -> int:
    """After how many values gate gives way to up, in a tensor that holds both for each expert.

    They are joined along the dimension that is twice as long as in the matrix of the way back,
    which shows in the shapes: experts are stored as [out, in] or as [in, out].
    """
    rows, columns = spec.shape[-2:]
    shapes = {
        other.shape[-2:]
        for other, its in layout.stacks[place.stack][place.layer]
        if its.is_output and its.group == "experts" and len(other.shape) > 2
    }
    if (columns, rows // 2) in shapes and not rows % 2:
        return columns if place.is_alternating else rows // 2 * columns
    if (columns // 2, rows) in shapes and not columns % 2:
        return 1 if place.is_alternating else columns // 2
    raise MoegrowError(
        f"{spec.name} {list(spec.shape)} should hold two matrices, and no matrix of the way back"
        f" is half as long in one dimension: {sorted(map(list, shapes)) or 'there is none'}",
        "the family file may be wrong about `joined`",
    )
