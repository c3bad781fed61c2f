"""Facts of the safetensors dtypes: sizes, names elsewhere, and the bits of their floats."""

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Float(NamedTuple):
    """A floating-point dtype: a sign, then bits of the exponent, then bits of the mantissa.

    `special` says which codes are no finite numbers: "ieee", all with the largest exponent; "fn",
    NaN alone, all bits set; "fnuz", NaN alone, in place of -0; "none", no code.
    """

    exponent: int
    mantissa: int
    special: Literal["ieee", "fn", "fnuz", "none"] = "ieee"

    @property
    def bits(self) -> int:
        """Bits beside the sign."""
        return self.exponent + self.mantissa

    @property
    def least(self) -> int:
        """The smallest exponent of a normal number."""
        return (1 if self.special == "fnuz" else 2) - (1 << (self.exponent - 1))

    @property
    def top(self) -> int:
        """The code of the largest number."""
        if self.special == "ieee":
            return self.infinity - 1
        return (1 << self.bits) - (2 if self.special == "fn" else 1)

    @property
    def infinity(self) -> int:
        """The code with the largest exponent and no mantissa: infinity, where a dtype has it."""
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def nan(self) -> tuple[int, ...]:
        """The codes of NaN, with their signs, of a dtype without infinity."""
        sign = 1 << self.bits
        return {"fn": (sign - 1, 2 * sign - 1), "fnuz": (sign,)}.get(self.special, ())

    @property
    def highest(self) -> int:
        """The exponent of the largest number."""
        return (self.top >> self.mantissa) - 1 + self.least

    @property
    def largest(self) -> float:
        """The largest number."""
        whole = (1 << self.mantissa) + self.top % (1 << self.mantissa)
        return math.ldexp(whole, self.highest - self.mantissa)


class Dtype(NamedTuple):
    """What is known of a dtype: the `bits` of an element, the numpy type that elements are read
    as, and how its numbers are made, if they are floats with a sign.

    numpy has no BF16, and no smaller floats: those are read as the whole numbers of their bits.
    """

    bits: int
    numpy: str = ""
    float: Float | None = None


# Every dtype that safetensors 0.8 knows, in the order of messages.
DTYPES: Mapping[str, Dtype] = {
    "F64": Dtype(64, "<f8", Float(11, 52)), "I64": Dtype(64, "<i8"), "U64": Dtype(64, "<u8"),
    "C64": Dtype(64, "<c8"),
    "F32": Dtype(32, "<f4", Float(8, 23)), "I32": Dtype(32, "<i4"), "U32": Dtype(32, "<u4"),
    "F16": Dtype(16, "<f2", Float(5, 10)), "BF16": Dtype(16, "<u2", Float(8, 7)),
    "I16": Dtype(16, "<i2"), "U16": Dtype(16, "<u2"),
    "F8_E4M3": Dtype(8, "u1", Float(4, 3, "fn")), "F8_E5M2": Dtype(8, "u1", Float(5, 2)),
    "F8_E8M0": Dtype(8, "u1"),  # powers of two without a sign
    "F8_E4M3FNUZ": Dtype(8, "u1", Float(4, 3, "fnuz")),
    "F8_E5M2FNUZ": Dtype(8, "u1", Float(5, 2, "fnuz")),
    "I8": Dtype(8, "i1"), "U8": Dtype(8, "u1"), "BOOL": Dtype(8, "?"),
    "F6_E2M3": Dtype(6, "", Float(2, 3, "none")), "F6_E3M2": Dtype(6, "", Float(3, 2, "none")),
    "F4": Dtype(4, "", Float(2, 1, "none")),
}  # fmt: skip
BITS: Mapping[str, int] = {name: dtype.bits for name, dtype in DTYPES.items()}

# Floats that weights are computed in: they can be read, changed and rounded back.
PLAIN = ("F64", "F32", "F16", "BF16")
# What weights can be written as.
WRITTEN = ("F32", "F16", "BF16")
# Tables of numbers, which can be scaled and shifted exactly.
TABLES = ("I64", "I32", "I16")
# Floats of a byte that quantised values are stored in.
FP8 = ("F8_E4M3", "F8_E5M2")
# Scales of a byte that are powers of two: the byte is the exponent, plus 127.
POWERS = ("F8_E8M0", "U8")

# The names of dtypes as options of commands, and in configs and torch.
OPTIONS: Mapping[str, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
TORCH: Mapping[str, str] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def float_of(dtype: str) -> Float:
    """How the numbers of a floating-point dtype are made."""
    found = DTYPES[dtype].float
    assert found is not None
    return found


def integers(dtype: str) -> range:
    """The numbers that an integer dtype holds; none of others."""
    bits = BITS[dtype]
    if dtype.startswith("I"):
        return range(-(1 << (bits - 1)), 1 << (bits - 1))
    return range(1 << bits) if dtype.startswith("U") else range(0)


@cache
def numpy_type(dtype: str) -> "np.dtype[Any]":
    """The numpy type that elements of a dtype are read as."""
    import numpy as np

    return np.dtype(DTYPES[dtype].numpy)
