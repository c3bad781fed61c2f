"""The closed set of operations on the rows of a piece."""

from fractions import Fraction
from typing import assert_never

from msgspec import Struct

from moegrow.growth import Noise
from moegrow.quant.decoding import AS_IT_IS, EXACT, Decoding

ONE, ZERO = Fraction(1), Fraction(0)


class Copy(Struct, frozen=True, gc=False):
    """The bytes stay as they are."""


class Fill(Struct, frozen=True, gc=False):
    """Every value becomes `value`, whatever is stored.

    With a `decoding` the rows are those of the decoded tensor, but for EXACT: then `value` is a
    code, which stands for zero.
    """

    value: Fraction = ZERO
    decoding: Decoding | None = None


class Perturb(Struct, frozen=True, gc=False):
    """Each value becomes (value + noise) · scale + shift, in the dtype that it has."""

    noise: Noise | None = None
    scale: Fraction = ONE
    shift: Fraction = ZERO


UNCHANGED = Perturb()


class Cast(Struct, frozen=True, gc=False):
    """Plain numbers are changed as `change` says, and rounded once to the output's dtype."""

    change: Perturb = UNCHANGED


class Dequantize(Struct, frozen=True, gc=False):
    """Quantised values are decoded, changed as `change` says, and rounded to the output's dtype.

    The rows are those of the decoded tensor.
    """

    decoding: Decoding
    change: Perturb = UNCHANGED


class Requantize(Struct, frozen=True, gc=False):
    """Quantised values take noise as numbers, and are put back on the scales that they have.

    The rows are the stored ones.
    """

    decoding: Decoding
    noise: Noise


class Rescale(Struct, frozen=True, gc=False):
    """Stored scales are multiplied by `factor`, a power of two, which is exact."""

    factor: Fraction


class Renumber(Struct, frozen=True, gc=False):
    """Numbers of experts in a table of integers become number · factor + shift."""

    factor: int
    shift: int


Op = Copy | Fill | Perturb | Cast | Dequantize | Requantize | Rescale | Renumber

COPY = Copy()


def perturbed(noise: Noise | None, scale: Fraction = ONE, shift: Fraction = ZERO) -> Op:
    """What noise, a scale and a shift make of values; a scale of 0 leaves no noise.

    >>> perturbed(None)
    Copy()
    >>> perturbed(None, ZERO, ONE)
    Fill(value=Fraction(1, 1), decoding=None)
    """
    if not scale:
        return Fill(shift)
    if noise is None and scale == 1 and not shift:
        return COPY
    return Perturb(noise, scale, shift)


def renumbered(factor: int, shift: int) -> Op:
    """What a factor and a shift make of the numbers in a table."""
    return COPY if (factor, shift) == (1, 0) else Renumber(factor, shift)


def decoded(op: Op, decoding: Decoding) -> Op:
    """The operation with its values decoded first; one that says how they are had stays."""
    match op:
        case Copy():
            return Cast() if decoding == AS_IT_IS else Dequantize(decoding)
        case Perturb():
            return Cast(op) if decoding == AS_IT_IS else Dequantize(decoding, op)
        case Fill(value):
            return Fill(value, decoding)
        case Cast() | Dequantize() | Requantize() | Rescale() | Renumber():
            return op
        case _:
            assert_never(op)


def noise_of(op: Op) -> Noise | None:
    """The noise that values take, if any."""
    match op:
        case Copy() | Fill() | Rescale() | Renumber():
            return None
        case Perturb(noise) | Requantize(noise=noise):
            return noise
        case Cast(change) | Dequantize(change=change):
            return change.noise
        case _:
            assert_never(op)


def is_rounded_by_draw(op: Op) -> bool:
    """Whether a draw decides how its values are rounded."""
    noise = noise_of(op)
    return noise is not None and noise.is_rounded_by_draw


def decoding_of(op: Op) -> Decoding | None:
    """How stored values become the numbers that are worked on; None where they are these."""
    match op:
        case Copy() | Perturb() | Renumber():
            return None
        case Fill(decoding=decoding) | Dequantize(decoding=decoding) | Requantize(decoding):
            return decoding
        case Cast():
            return AS_IT_IS
        case Rescale():
            return EXACT
        case _:
            assert_never(op)


def change_of(op: Op) -> Perturb:
    """The arithmetic on each number, once it is decoded."""
    match op:
        case Copy():
            return UNCHANGED
        case Fill(value):
            return Perturb(None, ZERO, value)
        case Perturb():
            return op
        case Cast(change) | Dequantize(change=change):
            return change
        case Requantize(noise=noise):
            return Perturb(noise)
        case Rescale(factor):
            return Perturb(None, factor)
        case Renumber(factor, shift):
            return Perturb(None, Fraction(factor), Fraction(shift))
        case _:
            assert_never(op)
