"""The numbers that stored tensors hold, decoded: whole ones or some rows, a few at a time."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.quant import packed_columns, scaled
from moegrow.quant.decoding import Decoding, decoded_shape
from moegrow.quant.scaled import Matrix, Rows
from moegrow.quant.unpack import Floats, Read, numbers

BAND = 1 << 20  # values that are decoded at a time, in whole rows


def decoded(
    spec: TensorSpec,
    decoding: Decoding,
    tensors: Mapping[str, TensorSpec],
    read: Read,
    rows: tuple[int, int],
) -> Iterator[Floats]:
    """The numbers of rows `rows[0]` to `rows[1]` along the first dimension, some rows at a time.

    They are float32, and float64 where the tensor is; each block is one-dimensional and valid until
    the next is asked for. `read` gives bytes `start` to `stop` of a tensor.
    """
    shape = decoded_shape(spec, decoding, tensors)
    if not math.prod(shape) or rows[0] == rows[1]:
        return
    if decoding.codec == "plain":
        yield from _plain(spec, read, rows)
        return
    if len(shape) < 3:
        matrix = matrix_of(spec, decoding, tensors, read, 0)
        yield from _bands(matrix.numbers, rows, shape[-1] if shape else 1)
        return
    each = math.prod(shape[1:-2])
    for number in range(rows[0] * each, rows[1] * each):
        matrix = matrix_of(spec, decoding, tensors, read, number)
        yield from _bands(matrix.numbers, (0, shape[-2]), shape[-1])


def matrix_of(
    spec: TensorSpec, decoding: Decoding, tensors: Mapping[str, TensorSpec], read: Read, number: int
) -> Matrix:
    """One matrix of a tensor, the only one where it has no more than two dimensions."""
    parts = {role: tensors[name] for role, name in decoding.companions}
    shape = decoded_shape(spec, decoding, tensors)
    return _CODECS[decoding.codec](spec, parts, decoding, shape, read, number)


_Codec = Callable[
    [TensorSpec, Mapping[str, TensorSpec], Decoding, tuple[int, ...], Read, int], Matrix
]
_CODECS: Mapping[str, _Codec] = {
    "scaled": scaled.scaled, "fp4": scaled.fp4, "packed": scaled.packed,
    "gptq": packed_columns.gptq, "awq": packed_columns.awq,
}  # fmt: skip


def _bands(numbers: Rows, rows: tuple[int, int], columns: int) -> Iterator[Floats]:
    # Whole words of every packing, so that no band begins within one.
    step = max(8, BAND // columns // 8 * 8)
    for first in range(rows[0], rows[1], step):
        # Scales of any size may go with any code; what becomes infinite is what it stands for.
        with np.errstate(over="ignore", invalid="ignore"):
            found = numbers(first, min(first + step, rows[1]))
        yield found.reshape(-1)


def _plain(spec: TensorSpec, read: Read, rows: tuple[int, int]) -> Iterator[Floats]:
    width = nbytes(spec.dtype, (1,))
    row = nbytes(spec.dtype, spec.shape[1:])
    for start in range(rows[0] * row, rows[1] * row, BAND * width):
        yield numbers(read(spec, start, min(start + BAND * width, rows[1] * row)), spec.dtype)
