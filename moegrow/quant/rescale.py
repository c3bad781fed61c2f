"""Multiply stored scales by a power of two, exactly or not at all."""

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moegrow.checkpoint.header import nbytes
from moegrow.dtypes import numpy_type
from moegrow.errors import MoegrowError, Parameter
from moegrow.quant.unpack import Bytes, numbers

NONE = -1  # the code of a product that a small float does not have


def multiplied(name: str, stored: Bytes, dtype: str, factor: Fraction) -> Bytes:
    """The stored numbers of a tensor called `name`, times a power of two.

    Raises MoegrowError where a product is not among the numbers of the dtype. NaN and infinity
    stay what they are.
    """
    if nbytes(dtype, (1,)) == 1:
        codes = np.take(_codes(dtype, factor), stored)
        if (codes == NONE).any():
            worst = numbers(stored[codes == NONE][:1], dtype)[0]
            raise _refusal(name, dtype, float(worst), factor)
        return codes.astype(np.uint8)
    before = numbers(stored, dtype)
    after = _times(before, factor)
    if dtype == "BF16":
        new = (after.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    else:
        with np.errstate(over="ignore"):
            new = after.astype(numpy_type(dtype)).view(np.uint8)
    # Back by the inverse is where it began, unless something was lost on the way.
    back = _times(numbers(new, dtype), 1 / factor)
    is_lost = (back != before) & ~np.isnan(before)
    if is_lost.any():
        raise _refusal(name, dtype, float(before[is_lost][0]), factor)
    return new


def _times(values: npt.NDArray[Any], factor: Fraction) -> npt.NDArray[Any]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values * np.float32(float(factor))


@cache
def _codes(dtype: str, factor: Fraction) -> npt.NDArray[np.int16]:
    """For every byte that a number can be stored as, the byte of the product, or NONE."""
    values = numbers(np.arange(256, dtype=np.uint8), dtype).astype(np.float64)
    code_of = {
        (value, bool(np.signbit(value))): code
        for code, value in enumerate(values.tolist())
        if not np.isnan(value)
    }
    products = (values * float(factor)).tolist()
    return np.array(
        [
            code if np.isnan(value) else code_of.get((product, bool(np.signbit(product))), NONE)
            for code, (value, product) in enumerate(zip(values.tolist(), products, strict=True))
        ],
        np.int16,
    )


def _refusal(name: str, dtype: str, value: float, factor: Fraction) -> MoegrowError:
    return MoegrowError(
        f"{name} holds {value:g}, and {dtype} cannot hold {factor} of it exactly",
        "write the experts decoded: " + Parameter("experts_dtype", "bf16"),
    )
