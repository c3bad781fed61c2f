"""Numbers of 16 bits in another dtype of 16 bits: there are few enough to look each of them up."""

from functools import cache

import numpy as np
import numpy.typing as npt

from moegrow.formats import codes
from moegrow.formats.decoding import AS_IT_IS, Decoding
from moegrow.numbers.arithmetic import Bytes, Scratch
from moegrow.numbers.conversion import Conversion

DTYPES = {"F16", "BF16"}
SIZE, INFINITY = np.uint16(0x7FFF), np.uint16(0x7C00)  # of float16: all but the sign, and infinity


def is_known(decoding: Decoding | None, old: str, new: str) -> bool:
    """Whether stored numbers of one dtype are looked up in another."""
    return decoding == AS_IT_IS and {old, new} == DTYPES


def looked_up(name: str, stored: Bytes, old: str, new: str) -> Bytes:
    """What `Conversion.stored` makes of the numbers of a tensor, and raises of them."""
    found = np.take(_table(old, new), stored.view("<u2"), mode="wrap")
    if new == "F16" and (found & SIZE).max(initial=0) >= INFINITY:
        numbers = codes.numbers(stored, old).view(np.uint8)
        return Conversion(name, "F32", new, Scratch()).stored(numbers)
    return found.view(np.uint8)


@cache
def _table(old: str, new: str) -> npt.NDArray[np.uint16]:
    """What each number becomes, by its code; too large ones become infinite."""
    every = np.arange(1 << 16, dtype="<u2")
    numbers = codes.numbers(every.view(np.uint8), old)
    if new == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            return numbers.astype("<f2").view("<u2")
    return Conversion("", "F32", new, Scratch()).stored(numbers.view(np.uint8)).view("<u2")
