"""Laws that hold for every codec: requantizing, zero codes and factors, on random tensors."""

from fractions import Fraction

import numpy as np
import pytest

from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.quant.decoding import CODECS, Decoding
from moegrow.quant.find_codec import codec_class, decoded_shape, find_codec
from moegrow.quant.rescale import multiplied

ROWS, COLUMNS = 32, 64
RANDOM = np.random.default_rng(11)


class Stored:
    """A weight in memory, called `w`, with its companions by their roles."""

    def __init__(self, codec, settings=(), **parts):
        self.decoding = Decoding(codec, tuple((role, role) for role in parts if role != "w"),
                                 tuple(dict(settings).items()))  # fmt: skip
        self.tensors, self.bytes = {}, {}
        for name, (dtype, values) in parts.items():
            stored = np.ascontiguousarray(values)
            self.bytes[name] = stored.reshape(-1).view(np.uint8)
            self.tensors[name] = TensorSpec(name, "", dtype, stored.shape, 0, 0)
            assert self.bytes[name].size == nbytes(dtype, stored.shape)

    @property
    def codec(self):
        return find_codec(self.tensors["w"], self.decoding, self.tensors)

    def read(self, spec, start, stop):
        return self.bytes[spec.name][start:stop].copy()

    def numbers(self, rows=None):
        codec = self.codec
        blocks = codec.dequantize(self.read, rows or (0, codec.shape[0]))
        found = np.concatenate([block.copy() for block in blocks])
        return found.reshape(-1, *codec.shape[1:])


def codes(dtype, *shape, below=256):
    width = {"I32": 4}.get(dtype, 1)
    stored = RANDOM.integers(0, below, (*shape[:-1], shape[-1] * width), np.uint8)
    return dtype, stored.view("<i4") if width == 4 else stored


def scales(*shape, kind="<f4"):
    # With few bits, so that products of codes and scales are exact.
    names = {"<f4": "F32", "<f2": "F16"}
    return names[kind], (RANDOM.integers(1, 16, shape) / 64).astype(kind)


def powers(*shape):
    return "U8", RANDOM.integers(118, 132, shape).astype(np.uint8)


def fp8(dtype, *scale):
    # No code is NaN or infinite.
    return {"w": codes(dtype, ROWS, COLUMNS, below=0x7B), "scale": scales(*scale)}


def gptq(bits):
    each = 32 // bits
    return {
        "w": codes("I32", COLUMNS // each, ROWS),
        "scale": scales(2, ROWS, kind="<f2"),
        "zero": codes("I32", 2, ROWS // each),
        "group": ("I32", (np.arange(COLUMNS) // 32)[::-1].astype("<i4")),
    }


def packed(bits, **more):
    return {
        "w": codes("I32", ROWS, COLUMNS * bits // 32),
        "scale": scales(ROWS, 4),
        "shape": ("I64", np.array([ROWS, COLUMNS], "<i8")),
        **more,
    }


WEIGHTS = {
    "fp8 of a tensor": Stored("scaled", **fp8("F8_E4M3")),
    "fp8 of channels": Stored("scaled", **fp8("F8_E5M2", ROWS, 1)),
    "fp8 in blocks": Stored(
        "scaled", {"block_rows": 8, "block_columns": 16}, **fp8("F8_E4M3", 4, 4)
    ),
    "int8": Stored("scaled", w=codes("I8", ROWS, COLUMNS), scale=scales(ROWS, 1)),
    "int8 with zeros": Stored(
        "scaled", w=codes("I8", ROWS, COLUMNS), scale=scales(ROWS, 1), zero=codes("I8", ROWS, 1)
    ),
    "mxfp4": Stored("fp4", w=codes("U8", ROWS, COLUMNS // 2), scale=powers(ROWS, 2)),
    "mxfp4 of experts": Stored(
        "fp4", {"transposed": 1}, w=codes("U8", 3, COLUMNS, 2, 16), scale=powers(3, COLUMNS, 2)
    ),
    "nvfp4 with a divisor": Stored(
        "fp4", w=codes("U8", ROWS, COLUMNS // 2), scale=codes("F8_E4M3", ROWS, 4, below=0x70),
        divisor=("F32", np.array([4], "<f4")),
    ),
    "nvfp4 with a factor": Stored(
        "fp4", w=codes("U8", ROWS, COLUMNS // 2), scale=codes("F8_E4M3", ROWS, 4, below=0x70),
        factor=("F32", np.array(0.25, "<f4")),
    ),
    "int4": Stored("packed", {"bits": 4}, **packed(4)),
    "int4 with zeros": Stored(
        "packed", {"bits": 4}, **packed(4, zero=codes("I32", ROWS // 8, 4))
    ),
    "int8 in words": Stored("packed", {"bits": 8}, **packed(8)),
    "gptq": Stored("gptq", {"transposed": 1, "bits": 4, "zero_shift": 1}, **gptq(4)),
    "gptq of 8 bits": Stored("gptq", {"transposed": 1, "bits": 8, "zero_shift": 0}, **gptq(8)),
    "awq": Stored(
        "awq", {"transposed": 1, "bits": 4}, w=codes("I32", COLUMNS, ROWS // 8),
        scale=scales(2, ROWS, kind="<f2"), zero=codes("I32", 2, ROWS // 8),
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("stored", WEIGHTS.values(), ids=WEIGHTS)


class Nothing:
    """A change that changes nothing, with draws that would round up."""

    def __init__(self):
        self.old = []

    def numbers(self, old, start):
        assert start == sum(map(len, self.old))
        self.old.append(old.copy())
        return old

    def levels(self, start, count):
        return np.zeros(count, np.uint16)

    def made(self, old, new, start):
        assert np.array_equal(old, new)


def test_every_codec_has_its_laws_tested():
    assert {one.decoding.codec for one in WEIGHTS.values()} == set(CODECS) - {"plain", "exact"}


@EVERY
def test_numbers_that_stay_keep_their_codes(stored):
    making = Nothing()
    blocks = stored.codec.requantize(stored.read, (0, stored.tensors["w"].shape[0]), making)
    assert np.array_equal(np.concatenate(list(blocks)), stored.bytes["w"])
    assert np.array_equal(np.concatenate(making.old), stored.numbers().ravel())


@EVERY
def test_a_matrix_is_made_of_its_codes_scales_and_zeros(stored):
    codec = stored.codec
    matrix, grid, rows = codec.matrix(stored.read, 0), codec.grid(), (0, codec.shape[-2])
    zeros = matrix.zeros and matrix.zeros(*rows)
    made = grid.numbers(matrix.codes(*rows), matrix.scales(*rows), zeros)
    assert np.array_equal(made, matrix.numbers(*rows).reshape(made.shape))
    assert matrix.codes(*rows).max() < 1 << (4 if codec.floats == "F4" else codec.bits)


@EVERY
def test_some_rows_are_those_of_the_whole(stored):
    whole = stored.numbers()
    assert whole.shape == stored.codec.shape
    assert whole.shape == decoded_shape(stored.tensors["w"], stored.decoding, stored.tensors)
    stop = len(whole)
    for rows in ((1, 2), (1, stop), (0, stop - 1)):
        assert np.array_equal(stored.numbers(rows), whole[slice(*rows)])


@EVERY
def test_zero_codes_are_the_number_0_whatever_the_scale(stored):
    zeros = stored.codec.zeros()
    assert stored.numbers().any()
    before = dict(stored.bytes)
    try:
        for role, part in (("values", "w"), ("zero", "zero")):
            if part in stored.tensors:
                width = nbytes(stored.tensors[part].dtype, (1,))
                word = np.array([zeros[role]], f"<i{width}").view(np.uint8)
                stored.bytes[part] = np.tile(word, stored.bytes[part].size // width)
        assert not stored.numbers().any()
    finally:
        stored.bytes = before


@pytest.mark.parametrize("factor", [Fraction(1, 4), Fraction(2)])
@EVERY
def test_a_power_of_two_on_one_companion_is_on_every_number(stored, factor):
    role, own = stored.codec.factor(factor)
    # It leads back to the factor from the companion's own.
    assert stored.codec.factor(own) == (role, factor)
    expected = stored.numbers() * np.float32(float(factor))
    before = stored.bytes
    new = multiplied(role, before[role], stored.tensors[role].dtype, own)
    stored.bytes = before | {role: new}
    try:
        assert np.array_equal(stored.numbers(), expected)
    finally:
        stored.bytes = before


@EVERY
def test_each_companion_is_one_that_the_codec_names(stored):
    codec = stored.codec
    known = {role.removesuffix("?") for role in codec.roles}
    assert {role for role, _ in stored.decoding.companions} <= known
    for role in known - codec.parts.keys():
        assert f"{role}?" in codec.roles
    for role in codec.parts:
        less = tuple(pair for pair in stored.decoding.companions if pair[0] != role)
        if role in codec.roles:
            with pytest.raises(ValueError, match=f"not {codec.roles[0]}"):
                find_codec(stored.tensors["w"], stored.decoding._replace(companions=less),
                           stored.tensors)  # fmt: skip


def test_a_name_that_is_no_codec_is_refused():
    for name, problem in (("zip", "is not known"), ("plain", "has no codes")):
        with pytest.raises(ValueError, match=problem):
            codec_class(name)
