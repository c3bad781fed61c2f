"""How the numbers that a tensor stores are had: by which codec, with which companions."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import FP8, PLAIN, POWERS

Shape = tuple[int, ...]
Tensors = Mapping[str, TensorSpec]

# Dtypes whose values are what they store.
NUMBERS = (*PLAIN, *FP8)
FLOAT_SCALES = ("F32", "BF16", "F16")
SCALES = (*FLOAT_SCALES, "F8_E4M3", *POWERS)
CODES = (*FP8, "U8", "I8", "I32")
SETTINGS = ("block_rows", "block_columns", "bits", "transposed", "zero_shift")


class Decoding(NamedTuple):
    """What turns a tensor of stored values into numbers.

    `codec` is one of CODECS, `companions` are pairs of a part that a tensor plays in it and its
    name, `settings` pairs of a key and a number. docs/quantised.md says what each codec computes.
    """

    codec: str
    companions: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, int], ...] = ()

    def setting(self, key: str, default: int = 0) -> int:
        return dict(self.settings).get(key, default)


AS_IT_IS = Decoding("plain")

# What is stored is not decoded for good: it is multiplied, or set to one number, as it is stored.
EXACT = Decoding("exact")


def is_power_of_two(number: Fraction) -> bool:
    """Whether a number above 0 is a power of two, up or down."""
    return (
        number.numerator & (number.numerator - 1)
        == 0
        == (number.denominator & (number.denominator - 1))
        and number > 0
    )


def decoded_shape(spec: TensorSpec, decoding: Decoding, tensors: Tensors) -> Shape:
    """The shape of the numbers that a stored tensor holds.

    Raises ValueError, with what does not fit, where tensor, companions and settings are not what
    the codec needs: a plan may be a stranger's.
    """
    check = CODECS.get(decoding.codec)
    if check is None:
        raise ValueError(f"the codec {decoding.codec!r} is not known")
    for role, name in decoding.companions:
        if name not in tensors:
            raise ValueError(f"its {role}, {name}, is not there")
    for key, number in decoding.settings:
        if key not in SETTINGS or not 0 <= number < 2**31:
            raise ValueError(f"{key} {number} makes no sense")
    parts = {role: tensors[name] for role, name in decoding.companions}
    if len(parts) != len(decoding.companions):
        raise ValueError("a companion is named twice")
    return check(spec, parts, decoding)


def decoded_rows(
    spec: TensorSpec, decoding: Decoding, tensors: Tensors, rows: tuple[int, int]
) -> tuple[int, int]:
    """The rows that some rows of what is stored are of, once they are decoded.

    Raises ValueError where they lie across others: only the whole of a matrix that is turned can
    be decoded by itself.
    """
    shape = decoded_shape(spec, decoding, tensors)
    is_turned = decoding.codec in ("gptq", "awq") or decoding.setting("transposed")
    if len(shape) > 2 or not is_turned:
        return rows
    if rows != (0, spec.shape[0]):
        raise ValueError(f"rows {rows[0]} to {rows[1]} lie across others")
    return 0, shape[0]


def block_of(shape: Shape, scale: Shape, decoding: Decoding) -> tuple[int, int]:
    """How many rows and columns of a matrix share a scale; raises ValueError where none would do.

    The last blocks may be smaller where the decoding says how large the others are.
    """
    if math.prod(scale) == 1:
        return (shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1] if shape else 1)
    if len(shape) < 2:
        raise ValueError(f"a scale of {list(scale)} does not fit {list(shape)}")
    rows, columns = shape[-2:]
    if len(scale) == 1:
        if len(shape) == 2 and scale[0] == rows:
            return 1, columns
        if len(shape) == 3 and scale[0] == shape[0]:
            return rows, columns
    elif scale[:-2] == shape[:-2] and min(scale) > 0:
        high = _block(rows, scale[-2], decoding.setting("block_rows"))
        wide = _block(columns, scale[-1], decoding.setting("block_columns"))
        if high and wide:
            return high, wide
    told = decoding.setting("block_rows"), decoding.setting("block_columns")
    blocks = f" in blocks of {list(told)}" if min(told) and len(scale) > 1 else ""
    raise ValueError(f"a scale of {list(scale)} does not fit {list(shape)}{blocks}")


def _block(length: int, count: int, told: int) -> int:
    """How many of `length` rows or columns share one of `count` scales, or 0 if nothing tells."""
    if told and -(-length // told) == count:
        return told
    if count == 1:
        return length
    if count == length:
        return 1
    each, rest = divmod(length, count)
    # Blocks are a power of two wide, and where these are, the last one cannot be a smaller one.
    is_even = not told and not rest and each & (each - 1) == 0
    return each if is_even else 0


Parts = Mapping[str, TensorSpec]


def _plain(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, *NUMBERS)
    _only(parts)
    return spec.shape


def _exact(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, *SCALES, *CODES)
    _only(parts)
    return spec.shape


def _scaled(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, *FP8, "I8")
    _only(parts, "scale", "zero?")
    _expect(parts["scale"], *FLOAT_SCALES, *POWERS)
    if "zero" in parts:
        _expect(spec, "I8")
        _expect(parts["zero"], "I8")
        _same(parts["zero"].shape, parts["scale"].shape)
    block_of(spec.shape, parts["scale"].shape, decoding)
    return spec.shape


def _fp4(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, "U8")
    _only(parts, "scale", "divisor?", "factor?")
    scale = parts["scale"]
    _expect(scale, *SCALES)
    for role in ("divisor", "factor"):
        if role in parts:
            _expect(parts[role], "F32")
            if math.prod(parts[role].shape) != 1:
                raise ValueError(f"its {role} {list(parts[role].shape)} is not one number")
    if len(spec.shape) == len(scale.shape) + 1:
        _same(spec.shape[:-1], scale.shape)
        shape = (*spec.shape[:-2], spec.shape[-2] * spec.shape[-1] * 2)
    else:
        _same(spec.shape[:-1], scale.shape[:-1])
        shape = (*spec.shape[:-1], spec.shape[-1] * 2)
    if len(shape) < 2 or not scale.shape[-1] or shape[-1] % scale.shape[-1]:
        raise ValueError(f"a scale of {list(scale.shape)} does not fit {list(shape)}")
    if decoding.setting("transposed"):
        shape = (*shape[:-2], shape[-1], shape[-2])
    return shape


def _packed(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, "I32")
    _only(parts, "scale", "zero?", "group?", "shape")
    each = _per_word(decoding)
    if "group" in parts:
        raise ValueError("its columns are in the order of activations, which is not decoded")
    rows, words = _matrix(spec)
    scale = parts["scale"]
    _expect(scale, *FLOAT_SCALES)
    _expect(parts["shape"], "I64", "I32")
    _same(parts["shape"].shape, (2,))
    groups = _matrix(scale)[1]
    _same(scale.shape, (rows, groups))
    if not groups or words * each % groups:
        raise ValueError(f"a scale of {list(scale.shape)} does not fit {[rows, words * each]}")
    if "zero" in parts:
        _expect(parts["zero"], "I32")
        _same(parts["zero"].shape, (-(-rows // each), groups))
    return rows, words * each


def _gptq(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, "I32")
    _only(parts, "scale", "zero", "group")
    each = _per_word(decoding)
    words, rows = _matrix(spec)
    _grouped(parts, rows, each)
    _expect(parts["group"], "I32")
    _same(parts["group"].shape, (words * each,))
    return rows, words * each


def _awq(spec: TensorSpec, parts: Parts, decoding: Decoding) -> Shape:
    _expect(spec, "I32")
    _only(parts, "scale", "zero")
    each = _per_word(decoding)
    if each != 8:
        raise ValueError(f"{decoding.setting('bits')} bits are not decoded, only 4")
    columns, words = _matrix(spec)
    groups = _grouped(parts, words * each, each)
    if not groups or columns % groups:
        raise ValueError(f"{groups} groups do not fit {columns} columns")
    return words * each, columns


def _grouped(parts: Parts, rows: int, each: int) -> int:
    """The number of groups of GPTQ's and AWQ's scales, which have a column for each row."""
    _expect(parts["scale"], *FLOAT_SCALES)
    _expect(parts["zero"], "I32")
    groups = _matrix(parts["scale"])[0]
    _same(parts["scale"].shape, (groups, rows))
    _same(parts["zero"].shape, (groups, -(-rows // each)))
    return groups


CODECS: Mapping[str, Callable[[TensorSpec, Parts, Decoding], Shape]] = {
    "plain": _plain, "scaled": _scaled, "fp4": _fp4, "packed": _packed, "gptq": _gptq, "awq": _awq,
    "exact": _exact,
}  # fmt: skip


def _per_word(decoding: Decoding) -> int:
    bits = decoding.setting("bits")
    if not bits:
        raise ValueError("nothing says of how many bits it is")
    if bits not in (4, 8):
        raise ValueError(f"{bits} bits are not decoded, only 4 and 8")
    return 32 // bits


def _matrix(spec: TensorSpec) -> tuple[int, int]:
    if len(spec.shape) != 2:
        raise ValueError(f"{spec.name} {list(spec.shape)} is no matrix")
    return spec.shape[0], spec.shape[1]


def _expect(spec: TensorSpec, *dtypes: str) -> None:
    if spec.dtype not in dtypes:
        raise ValueError(f"{spec.name} is {spec.dtype}, and not {' or '.join(dtypes)}")


def _same(found: Shape, expected: Shape) -> None:
    if found != expected:
        raise ValueError(f"{list(found)} should be {list(expected)}")


def _only(parts: Parts, *roles: str) -> None:
    """Raise ValueError unless just these companions are there; a question mark: or not."""
    needed = {role for role in roles if not role.endswith("?")}
    known = {role.removesuffix("?") for role in roles}
    if not needed <= parts.keys() or not parts.keys() <= known:
        raise ValueError(f"it has {', '.join(parts) or 'no companions'}, not {', '.join(roles)}")
