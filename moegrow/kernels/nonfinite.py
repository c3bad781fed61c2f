"""Find NaN, infinity and constant tensors in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import BITS, DTYPES
from moegrow.files import worker_threads
from moegrow.files.byte_ranges import cores
from moegrow.kernels.perturb import Bytes
from moegrow.kernels.reader import READ, SourceReader


@dataclass(frozen=True)
class Values:
    """What was found, by the names of tensors: how many values of each are NaN, how many are
    infinite, which tensors hold one value alone, and which hold none."""

    nan: Mapping[str, int]
    infinite: Mapping[str, int]
    constant: tuple[str, ...]
    empty: tuple[str, ...]


def find_values(checkpoint: Checkpoint) -> Values:
    """Read every tensor of a checkpoint, on all cores, and say what noise would stumble on.

    Tensors of one value are not called constant: they could be nothing else.
    """
    specs = sorted(checkpoint.tensors.values(), key=lambda spec: (spec.file, spec.start))
    with SourceReader(checkpoint) as source, worker_threads.pool(cores()) as pool:
        found = list(pool.map(lambda spec: _count(source, spec), specs))
    together = list(zip(specs, found, strict=True))
    return Values(
        nan={spec.name: nan for spec, (nan, _, _) in together if nan},
        infinite={spec.name: infinite for spec, (_, infinite, _) in together if infinite},
        constant=tuple(spec.name for spec, (_, _, is_constant) in together if is_constant),
        empty=tuple(spec.name for spec, _ in together if spec.start == spec.stop),
    )


def _count(source: SourceReader, spec: TensorSpec) -> tuple[int, int, bool]:
    """How many values of a tensor are NaN and infinite, and whether all are the same."""
    width = max(1, BITS[spec.dtype] // 8)
    kind = np.dtype(f"<u{width}")
    nan = infinite = 0
    made = DTYPES[spec.dtype].float
    nans = (0xFF,) if spec.dtype == "F8_E8M0" else made.nan if made else ()
    first: Bytes | None = None
    is_constant = spec.stop - spec.start > width
    if BITS[spec.dtype] < 8 or spec.start == spec.stop:
        return 0, 0, False
    for block in source.read(spec.file, spec.start, spec.stop, READ):
        values = block.view(kind)
        if first is None:
            first = values[0].copy()
        is_constant = is_constant and bool((values == first).all())
        if made is not None and made.special == "ieee":
            unsigned = values & kind.type((1 << made.bits) - 1)
            nan += int(np.count_nonzero(unsigned > made.infinity))
            infinite += int(np.count_nonzero(unsigned == made.infinity))
        nan += sum(int(np.count_nonzero(values == code)) for code in nans)
    return nan, infinite, is_constant
