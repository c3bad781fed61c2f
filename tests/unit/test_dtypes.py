"""Facts of dtypes, held against numpy, and against the numbers of the papers that define them."""

import math

import numpy as np
import pytest

from moegrow.dtypes import BITS, DTYPES, FP8, POWERS, float_of, integers, numpy_type
from moegrow.quant.unpack import float_values, numbers

# The largest number, the smallest normal one, and the distance from 1 to the next.
PUBLISHED = {
    "BF16": (2.0**127 * (2 - 2**-7), 2.0**-126, 2.0**-7),
    "F8_E4M3": (448, 2.0**-6, 0.125),
    "F8_E5M2": (57344, 2.0**-14, 0.25),
    "F8_E4M3FNUZ": (240, 2.0**-7, 0.125),
    "F8_E5M2FNUZ": (57344, 2.0**-15, 0.25),
    "F6_E2M3": (7.5, 1, 0.125),
    "F6_E3M2": (28, 0.25, 0.25),
    "F4": (6, 1, 0.5),
}
SMALL = [name for name, bits in BITS.items() if bits <= 8 and DTYPES[name].float]


def facts(name):
    made = float_of(name)
    return made.largest, 2.0**made.least, 2.0**-made.mantissa


@pytest.mark.parametrize("name", ["F64", "F32", "F16"])
def test_floats_of_numpy_are_as_it_has_them(name):
    known = np.finfo(numpy_type(name))
    assert facts(name) == (known.max, known.tiny, known.eps)
    codes = np.array([float_of(name).top, float_of(name).infinity], f"<u{BITS[name] // 8}")
    assert codes.view(numpy_type(name)).tolist() == [known.max, math.inf]
    assert float_of(name).highest == math.frexp(float(known.max))[1] - 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_floats_are_as_they_are_published(name):
    assert facts(name) == PUBLISHED[name]
    assert float_of(name).highest == math.frexp(PUBLISHED[name][0])[1] - 1


def test_every_float_is_looked_at():
    floats = {name for name, dtype in DTYPES.items() if dtype.float}
    assert floats == {"F64", "F32", "F16", *PUBLISHED}


@pytest.mark.parametrize("name", SMALL)
def test_codes_of_small_floats_are_in_order_and_end_at_the_largest(name):
    made, values = float_of(name), float_values(name)
    half = 1 << made.bits
    positive = values[: made.top + 1]
    assert len(values) == 2 * half == 1 << BITS[name]
    assert positive[0] == 0
    assert (np.diff(positive) > 0).all()
    assert positive[-1] == made.largest
    assert np.array_equal(values[half + 1 : half + made.top + 1], -positive[1:])
    assert np.isnan(values[list(made.nan)]).all()
    assert np.isfinite(values).sum() + len(made.nan) == len(values) or made.special == "ieee"
    assert (np.isinf(values).sum() == 2) == (made.special == "ieee")


def test_types_of_numpy_have_the_bits_of_their_dtypes():
    for name, dtype in DTYPES.items():
        assert dtype.bits < 8 or numpy_type(name).itemsize * 8 == dtype.bits


@pytest.mark.parametrize("name", [name for name in DTYPES if name[0] in "IU"])
def test_integers_are_those_of_numpy(name):
    known = np.iinfo(numpy_type(name))
    assert (integers(name)[0], integers(name)[-1]) == (known.min, known.max)
    assert not integers("BF16")


def test_bytes_that_are_powers_of_two_are_these():
    codes = np.array([0, 126, 127, 128, 254], np.uint8)
    for name in POWERS:
        assert numbers(codes, name).tolist() == [2.0**-127, 0.5, 1, 2, 2.0**127]
        assert np.isnan(numbers(np.array([255], np.uint8), name)).all()
    assert not set(POWERS) & set(FP8)
