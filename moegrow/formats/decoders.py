"""The numbers that stored tensors hold, decoded: tables looked up, codes times scales."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moegrow.errors import MoegrowError
from moegrow.formats.decoding import Decoding, block_of, decoded_shape
from moegrow.source.header import TensorSpec, nbytes

Floats = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]  # of 32 bits, and what is packed in them
Read = Callable[[TensorSpec, int, int], Bytes]

BAND = 1 << 20  # values that are decoded at a time, in whole rows
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that each 4 bits of a word are of

# The values of FP4 (e2m1), by their bits.
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


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
    parts = {role: tensors[name] for role, name in decoding.companions}
    codec = _CODECS[decoding.codec]
    if len(shape) < 3:
        matrix = codec(spec, parts, decoding, shape, read, 0)
        yield from _bands(matrix.numbers, rows, shape[-1] if shape else 1)
        return
    each = math.prod(shape[1:-2])
    for number in range(rows[0] * each, rows[1] * each):
        matrix = codec(spec, parts, decoding, shape, read, number)
        yield from _bands(matrix.numbers, (0, shape[-2]), shape[-1])


# Something of the rows of a matrix from one to another: a value for each column, or one for all.
Rows = Callable[[int, int], npt.NDArray[Any]]


class Matrix(NamedTuple):
    """A stored matrix: its numbers, or, of the same rows and columns, what they are made of.

    `codes` are what is stored, whole numbers of 8 bits or fewer. What they stand for, less `zeros`
    and times `scales`, is the number.
    """

    numbers: Rows
    codes: Rows
    scales: Rows
    zeros: Rows | None = None


def matrix_of(
    spec: TensorSpec, decoding: Decoding, tensors: Mapping[str, TensorSpec], read: Read, number: int
) -> Matrix:
    """One matrix of a tensor, the only one where it has no more than two dimensions."""
    parts = {role: tensors[name] for role, name in decoding.companions}
    shape = decoded_shape(spec, decoding, tensors)
    return _CODECS[decoding.codec](spec, parts, decoding, shape, read, number)


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


def numbers(stored: Bytes, dtype: str) -> Floats:
    """Stored numbers as float32, or float64 where they are that; bytes are powers of two (E8M0)."""
    if dtype in _TABLES:
        if stored.size % 2:
            return np.take(_single(dtype), stored, mode="wrap")
        pairs = np.take(_double(dtype), stored.view("<u2"), mode="wrap")
        return pairs.view(np.float32)
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    found = stored.view({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}[dtype])
    return found.astype(np.float64 if dtype == "F64" else np.float32)


def _scaled(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Codes times a scale for each block of them."""
    columns = shape[-1] if shape else 1
    height = shape[-2] if len(shape) > 1 else 1
    block_rows, block_columns = block_of(shape, parts["scale"].shape, decoding)
    grid = -(-height // block_rows), -(-columns // block_columns)
    one = math.prod(parts["scale"].shape) == 1
    scale = companion(parts["scale"], read, 0 if one else number, math.prod(grid)).reshape(grid)
    zero = parts.get("zero")
    offset = None if zero is None else companion(zero, read, 0 if one else number, math.prod(grid))
    base = number * height * columns * nbytes(spec.dtype, (1,))

    def rows(first: int, stop: int) -> Floats:
        found = numbers(codes(first, stop).reshape(-1), spec.dtype).reshape(-1, columns)
        if block_rows == 1:
            wide = _wide(scale[first:stop], block_columns, columns)
            if offset is not None:
                found -= _wide(offset.reshape(grid)[first:stop], block_columns, columns)
            found *= wide
            return found
        for block in range(first // block_rows, -(-stop // block_rows)):
            part = found[max(0, block * block_rows - first) : (block + 1) * block_rows - first]
            if offset is not None:
                part -= _wide(offset.reshape(grid)[block], block_columns, columns)
            part *= _wide(scale[block], block_columns, columns)
        return found

    def codes(first: int, stop: int) -> Bytes:
        return read(spec, base + first * columns, base + stop * columns).reshape(-1, columns)

    def spread(each: Floats) -> Rows:
        return lambda first, stop: _wide(
            each[np.arange(first, stop) // block_rows], block_columns, columns
        )

    zeros = None if offset is None else spread(offset.reshape(grid))
    return Matrix(rows, codes, spread(scale), zeros)


def _wide(scale: Floats, each: int, columns: int) -> Floats:
    """A scale for each column, from one for every so many; a single one is left to be spread."""
    return scale if scale.shape[-1] == 1 else np.repeat(scale, each, axis=-1)[..., :columns]


def _fp4(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Two values of FP4 in a byte, the first in its lower half, times a scale for each group."""
    swapped = bool(decoding.setting("transposed"))
    height, columns = (shape[-1], shape[-2]) if swapped else shape[-2:]
    scale, _ = groups_of(spec, parts, decoding, shape, read, number)
    line = columns // 2
    return _grouped_halves(spec, "FP4", scale, (number * height, line), read, swapped=swapped)


def _grouped_halves(
    spec: TensorSpec, table: str, scale: Floats, at: tuple[int, int], read: Read,
    *, zero: Floats | None = None, swapped: bool = False,
) -> Matrix:  # fmt: skip
    """Two values in a byte times their group's scale; `at`: the first row, and bytes of a row."""
    start, line = at
    height, groups = scale.shape
    size = 2 * line // groups
    held = (
        read(spec, start * line, (start + height) * line).reshape(height, line) if swapped else None
    )

    def rows(first: int, stop: int) -> Floats:
        if held is None:
            stored = read(spec, (start + first) * line, (start + stop) * line)
            found = _halves(stored.reshape(-1, line), table).reshape(stop - first, groups, -1)
            if zero is not None:
                found -= zero[first:stop, :, None]
            found *= scale[first:stop, :, None]
            return found
        # Rows of the result are columns here; a band of them is decoded and turned.
        low, high = first // size, -(-stop // size)
        part = np.ascontiguousarray(held[:, low * size // 2 : high * size // 2])
        found = _halves(part, table).reshape(height, high - low, size)
        found *= scale[:, low:high, None]
        turned = found.reshape(height, -1)[:, first - low * size : stop - low * size]
        return np.ascontiguousarray(turned.T)

    def codes(first: int, stop: int) -> Bytes:
        if held is not None:
            return _apart(held[:, first // 2 : -(-stop // 2)]).T[: stop - first]
        stored = read(spec, (start + first) * line, (start + stop) * line)
        return _apart(stored.reshape(-1, line))

    def spread(each: Floats) -> Rows:
        if swapped:
            return lambda first, stop: each[:, np.arange(first, stop) // size].T
        return lambda first, stop: np.repeat(each[first:stop], size, axis=1)

    return Matrix(rows, codes, spread(scale), None if zero is None else spread(zero))


def _apart(stored: Bytes) -> Bytes:
    """The two codes in each byte of a matrix, the lower half first."""
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1)


def _halves(stored: Bytes, table: str) -> Floats:
    pairs = np.take(_nibbles(table), np.ascontiguousarray(stored), mode="wrap")
    return pairs.view(np.float32).reshape(len(stored), -1)


def _packed(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Whole numbers of some bits, the lowest bits first, minus half their range, times a scale."""
    columns, bits = shape[-1], decoding.setting("bits")
    scale, zero = groups_of(spec, parts, decoding, shape, read, number)
    groups = scale.shape[1]
    line = columns * bits // 8
    if bits == 4:
        return _grouped_halves(spec, "INT4", scale, (0, line), read, zero=zero)

    def rows(first: int, stop: int) -> Floats:
        found = read(spec, first * line, stop * line).astype(np.float32)
        found = found.reshape(stop - first, groups, -1) - 128
        if zero is not None:
            found -= zero[first:stop, :, None]
        found *= scale[first:stop, :, None]
        return found

    def spread(each: Floats) -> Rows:
        return lambda first, stop: np.repeat(each[first:stop], columns // groups, axis=1)

    return Matrix(
        rows,
        lambda first, stop: read(spec, first * line, stop * line).reshape(-1, line),
        spread(scale),
        None if zero is None else spread(zero),
    )


def groups_of(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> tuple[Floats, Floats | None]:  # fmt: skip
    """The scale of every group of matrix `number`, a row for each row as it is stored, and the
    zero that is taken from its codes, where there are zeros."""
    told = parts.get("shape")
    if told is not None:
        sizes = read(told, 0, nbytes(told.dtype, (2,)))
        sizes = sizes.view("<i8" if told.dtype == "I64" else "<i4").tolist()
        if sizes != [*shape]:
            raise MoegrowError(
                f"{told.name} says {sizes}, and {spec.name} holds {[*shape]}",
                "one of them is damaged or padded; copies need no decoding: --noise 0",
            )
    height, groups = parts["scale"].shape[-2:]
    scale = companion(parts["scale"], read, number, height * groups).reshape(height, groups)
    # What becomes infinite, or none, is what such a number stands for.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if "divisor" in parts:
            scale = scale / companion(parts["divisor"], read, 0, 1)
        if "factor" in parts:
            scale = scale * companion(parts["factor"], read, 0, 1)
    if "zero" not in parts:
        return scale, None
    bits = decoding.setting("bits")
    codes = _unpacked(_words(parts["zero"], read), bits, axis=0)[:height]
    return scale, codes.astype(np.float32) - np.float32(1 << (bits - 1))


def pairs_of(decoding: Decoding) -> npt.NDArray[np.uint64]:
    """What each byte of two codes of 4 bits holds: two float32, the lower half's first."""
    return _nibbles("FP4" if decoding.codec == "fp4" else "INT4")


def _gptq(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Whole numbers packed along the inputs, minus a zero and times a scale of their group."""
    bits = decoding.setting("bits")
    words = _words(spec, read)
    scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
    scale = scale.reshape(parts["scale"].shape)
    zeros = _unpacked(_words(parts["zero"], read), bits, axis=1)[:, : shape[0]]
    zeros = zeros.astype(np.float32) + decoding.setting("zero_shift")
    groups = read(parts["group"], 0, nbytes("I32", parts["group"].shape)).view("<i4")
    if groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < len(scale):
        raise MoegrowError(
            f"{parts['group'].name} names groups {groups.min()} to {groups.max()}, and"
            f" {parts['scale'].name} has {len(scale)}",
            "one of them is damaged; copies need no decoding: --noise 0",
        )

    def rows(first: int, stop: int) -> Floats:
        codes = _unpacked(words[:, first:stop], bits, axis=0).astype(np.float32)
        codes -= zeros[groups, first:stop]
        codes *= scale[groups, first:stop]
        return np.ascontiguousarray(codes.T)

    return Matrix(
        rows,
        lambda first, stop: _unpacked(words[:, first:stop], bits, axis=0).T.astype(np.uint8),
        lambda first, stop: scale[groups, first:stop].T,
        lambda first, stop: zeros[groups, first:stop].T,
    )


def _awq(
    spec: TensorSpec, parts: Mapping[str, TensorSpec], decoding: Decoding,
    shape: tuple[int, ...], read: Read, number: int,
) -> Matrix:  # fmt: skip
    """Four bits each, packed along the outputs in AWQ's order, minus a zero and times a scale."""
    words = _words(spec, read)
    scale = companion(parts["scale"], read, 0, math.prod(parts["scale"].shape))
    scale = scale.reshape(parts["scale"].shape)
    zeros = _in_order(_words(parts["zero"], read))
    each = shape[1] // len(scale)

    def rows(first: int, stop: int) -> Floats:
        part = slice(first // 8, -(-stop // 8))
        codes = _in_order(words[:, part])[:, first % 8 : first % 8 + stop - first]
        grouped = codes.reshape(len(scale), each, -1)
        grouped -= zeros[:, None, first:stop]
        grouped *= scale[:, None, first:stop]
        return np.ascontiguousarray(codes.T)

    def stored(first: int, stop: int) -> Bytes:
        part = _in_order(words[:, first // 8 : -(-stop // 8)])
        return part[:, first % 8 : first % 8 + stop - first].T.astype(np.uint8)

    def spread(of: Floats) -> Rows:
        return lambda first, stop: np.repeat(of[:, first:stop], each, axis=0).T

    return Matrix(rows, stored, spread(scale), spread(zeros))


_Codec = Callable[
    [TensorSpec, Mapping[str, TensorSpec], Decoding, tuple[int, ...], Read, int], Matrix
]
_CODECS: Mapping[str, _Codec] = {
    "scaled": _scaled, "fp4": _fp4, "packed": _packed, "gptq": _gptq, "awq": _awq,
}  # fmt: skip


def companion(spec: TensorSpec, read: Read, number: int, count: int) -> Floats:
    """`count` numbers of a companion, those of matrix `number`."""
    width = nbytes(spec.dtype, (1,))
    return numbers(read(spec, number * count * width, (number + 1) * count * width), spec.dtype)


def _words(spec: TensorSpec, read: Read) -> Words:
    return read(spec, 0, nbytes(spec.dtype, spec.shape)).view("<u4").reshape(spec.shape)


def _unpacked(words: Words, bits: int, *, axis: int) -> Words:
    """The whole numbers in words, along an axis of a matrix, the lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    if axis == 0:
        codes = words[:, None, :] >> shifts[None, :, None]
        return (codes & ((1 << bits) - 1)).reshape(-1, words.shape[1])
    codes = words[:, :, None] >> shifts[None, None, :]
    return (codes & ((1 << bits) - 1)).reshape(words.shape[0], -1)


def _in_order(words: Words) -> Floats:
    """The numbers of AWQ's words, as float32, each in its column."""
    codes = np.empty((*words.shape, 8), np.float32)
    for place, column in enumerate(AWQ_ORDER):
        codes[..., column] = (words >> np.uint32(4 * place)) & 15
    return codes.reshape(words.shape[0], -1)


# Bits of exponent and of mantissa, and whether the largest exponent is for infinity and NaN.
_TABLES = {"F8_E4M3": (4, 3, False), "F8_E5M2": (5, 2, True), "F8_E8M0": (8, 0, False),
           "U8": (8, 0, False)}  # fmt: skip


@cache
def _single(dtype: str) -> npt.NDArray[np.float32]:
    """The values that a byte of a dtype can be, by its bits."""
    exponent_bits, mantissa_bits, has_infinity = _TABLES[dtype]
    codes = np.arange(256)
    if exponent_bits == 8:
        found = np.ldexp(1.0, codes - 127)
        found[255] = math.nan
    else:
        mantissa = codes & ((1 << mantissa_bits) - 1)
        exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
        bias = (1 << (exponent_bits - 1)) - 1
        whole = mantissa + ((exponent > 0) << mantissa_bits)
        found = np.ldexp(whole.astype(float), np.maximum(exponent, 1) - bias - mantissa_bits)
        top = exponent == (1 << exponent_bits) - 1
        if has_infinity:
            found[top] = np.where(mantissa[top] == 0, math.inf, math.nan)
        else:
            found[top & (mantissa == (1 << mantissa_bits) - 1)] = math.nan
        found = np.where(codes >> 7, -found, found)
    table = found.astype(np.float32)
    table.setflags(write=False)
    return table


@cache
def _double(dtype: str) -> npt.NDArray[np.uint64]:
    """Two values for each two bytes, as they lie in memory: one look-up for both."""
    single = _single(dtype)
    pairs = np.empty((256, 256, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = single[None, :], single[:, None]
    table = pairs.reshape(-1, 2).view(np.uint64).reshape(-1)
    table.setflags(write=False)
    return table


@cache
def _nibbles(table: str) -> npt.NDArray[np.uint64]:
    """The two values in the halves of a byte, the lower first."""
    if table == "FP4":
        one = np.array([*FP4, *(-value for value in FP4)], np.float32)
    else:
        one = np.arange(16, dtype=np.float32) - 8
    pairs = np.empty((16, 16, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = one[None, :], one[:, None]
    return pairs.reshape(-1, 2).view(np.uint64).reshape(-1)
