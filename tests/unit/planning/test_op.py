"""What happens to a piece: the operations, and what each of them says of noise and decoding."""

from fractions import Fraction
from typing import get_args

import pytest

from moegrow.growth import Noise
from moegrow.planning import op as ops
from moegrow.planning.op import (
    COPY,
    UNCHANGED,
    ZERO,
    Cast,
    Copy,
    Dequantize,
    Fill,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    change_of,
    decoded,
    decoding_of,
    noise_of,
    perturbed,
    renumbered,
)
from moegrow.quant.decoding import AS_IT_IS, EXACT, Decoding

NOISE = Noise("normal", 0.01, 3)
FP8 = Decoding("scaled", (("scale", "w.scale"),))
HALF = Fraction(1, 2)
# An operation, its noise, its decoding and its arithmetic, as (noise, scale, shift).
CASES = [
    (COPY, None, None, (None, 1, 0)),
    (Fill(HALF), None, None, (None, 0, HALF)),
    (Fill(Fraction(8), EXACT), None, EXACT, (None, 0, 8)),
    (Perturb(NOISE, HALF), NOISE, None, (NOISE, HALF, 0)),
    (Cast(), None, AS_IT_IS, (None, 1, 0)),
    (Cast(Perturb(NOISE)), NOISE, AS_IT_IS, (NOISE, 1, 0)),
    (Dequantize(FP8, Perturb(NOISE, HALF)), NOISE, FP8, (NOISE, HALF, 0)),
    (Requantize(FP8, NOISE), NOISE, FP8, (NOISE, 1, 0)),
    (Rescale(HALF), None, EXACT, (None, HALF, 0)),
    (Renumber(2, 1), None, None, (None, 2, 1)),
]


@pytest.mark.parametrize(("op", "noise", "decoding", "change"), CASES)
def test_an_operation_says_its_noise_its_decoding_and_its_arithmetic(op, noise, decoding, change):
    assert noise_of(op) == noise
    assert decoding_of(op) == decoding
    assert change_of(op) == Perturb(*change)


def test_every_kind_is_tried_and_no_two_kinds_are_equal():
    assert {type(op) for op, *_ in CASES} == set(get_args(ops.Op))
    assert len({op for op, *_ in CASES}) == len(CASES)
    assert Rescale(HALF) != Fill(HALF)


def test_a_change_that_changes_nothing_is_a_copy_and_a_scale_of_zero_fills():
    assert perturbed(None) is COPY
    assert perturbed(NOISE, ZERO, HALF) == Fill(HALF)
    assert perturbed(None, HALF) == Perturb(None, HALF)
    assert renumbered(1, 0) is COPY
    assert renumbered(1, 4) == Renumber(1, 4)


def test_what_is_decoded_first_keeps_its_arithmetic():
    assert decoded(COPY, AS_IT_IS) == Cast()
    assert decoded(COPY, FP8) == Dequantize(FP8, UNCHANGED)
    assert decoded(Perturb(NOISE), AS_IT_IS) == Cast(Perturb(NOISE))
    assert decoded(Perturb(NOISE, HALF), FP8) == Dequantize(FP8, Perturb(NOISE, HALF))
    assert decoded(Fill(HALF), FP8) == Fill(HALF, FP8)
    for op in (Cast(), Dequantize(FP8), Requantize(FP8, NOISE), Rescale(HALF), Renumber(2, 1)):
        assert decoded(op, AS_IT_IS) == op
    assert isinstance(COPY, Copy)


def test_an_operation_is_frozen():
    with pytest.raises(AttributeError):
        Rescale(HALF).factor = ZERO
