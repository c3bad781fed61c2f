"""The decoding of a stored tensor: its codec, its companion tensors and their shapes."""

from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from moegrow.dtypes import FP8, POWERS

CodecName = Literal["plain", "exact", "scaled", "fp4", "packed", "gptq", "awq"]
CODECS: tuple[CodecName, ...] = get_args(CodecName)
SETTINGS = ("block_rows", "block_columns", "bits", "transposed", "zero_shift")

# Dtypes of scales, and of codes and zero points.
FLOAT_SCALES = ("F32", "BF16", "F16")
SCALES = (*FLOAT_SCALES, "F8_E4M3", *POWERS)
CODES = (*FP8, "U8", "I8", "I32")


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
