"""Parse the line of one output in a plan, strictly."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from moegrow.dtypes import BITS, TABLES, WRITTEN
from moegrow.errors import MoegrowError, Parameter
from moegrow.files import json_edit
from moegrow.growth import Noise, Rounding
from moegrow.planning.op import (
    Cast,
    Dequantize,
    Fill,
    Op,
    Perturb,
    Requantize,
    Rescale,
    perturbed,
    renumbered,
)
from moegrow.planning.plan import Output, Piece
from moegrow.planning.plan_lines import output_line
from moegrow.quant.decoding import AS_IT_IS, CODECS, EXACT, SETTINGS, Decoding

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Meta(gt=0, lt=1e6)]

# What taking values of the wrong kind apart ends in.
WRONG_KINDS = (
    AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
    ZeroDivisionError, msgspec.MsgspecError,
)  # fmt: skip

# A line of fewer characters cannot hold more values than are read.
SHORT = 1 << 12


class Record(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A table whose keys are all known, and whose values are all of the kinds that they should
    be."""


class NoiseRecord(Record, frozen=True):
    """Noise of a piece: one of three kinds with its amount, and a seed."""

    seed: Number
    normal: Amount | UnsetType = UNSET
    finite: Amount | UnsetType = UNSET
    uniform: Amount | UnsetType = UNSET
    rounding: Rounding = "nearest"


class PieceRecord(Record, frozen=True):
    """Rows of a source tensor, and what is done to them."""

    source: str = msgspec.field(name="from")
    rows: tuple[Number, Number]
    decode: dict[str, str | dict[str, str] | Number] | UnsetType = UNSET
    noise: NoiseRecord | UnsetType = UNSET
    scale: str = "1"
    shift: str = "0"


class OutputRecord(Record, frozen=True):
    """A tensor to write."""

    name: str
    dtype: str
    shape: tuple[Number, ...]
    pieces: list[PieceRecord]
    axis: Number = 0


_DECODER = msgspec.json.Decoder(OutputRecord)


def output_of(text: str, number: int) -> Output:
    """The output that a line spells out; `number` is the line's, for errors.

    Raises MoegrowError where a key is missing, not known or there twice, or a value of the wrong
    kind.
    """
    if len(text) > SHORT:
        json_edit.check_size(text, f"line {number} of the plan", json_edit.MOST_SHALLOW)
    try:
        found = _output(_DECODER.decode(text))
    except WRONG_KINDS as error:
        raise malformed(number, error) from None
    if output_line(found) != text:
        # Not as moegrow writes it: only then can a key stand in it twice.
        json_edit.loads(text, f"line {number} of the plan", most=json_edit.MOST_SHALLOW)
    return found


def malformed(number: int, error: Exception) -> MoegrowError:
    """The error for a line whose values could not be taken apart."""
    is_said = isinstance(error, ValueError | msgspec.MsgspecError)
    return MoegrowError(
        f"line {number} of the plan is malformed:"
        f" {error if is_said else f'{type(error).__name__} {error}'}",
        "make the plan again with " + Parameter("moegrow.plan()"),
    )


def _output(record: OutputRecord) -> Output:
    dtype, shape, axis = record.dtype, record.shape, record.axis
    if dtype not in BITS:
        raise ValueError(f"the dtype {dtype!r} is not known")
    if axis and axis >= len(shape):
        raise ValueError(f"there is no axis {axis} in {list(shape)}")
    pieces = tuple([_piece(piece, dtype, axis) for piece in record.pieces])
    return Output(record.name, dtype, shape, pieces, axis)


def _piece(record: PieceRecord, dtype: str, axis: int) -> Piece:
    decode, noise = record.decode, record.noise
    start, stop = record.rows
    if decode is UNSET and noise is UNSET and record.scale == "1" and record.shift == "0":
        return Piece(record.source, start, stop)
    scale, shift = _fraction(record.scale), _fraction(record.shift)
    if scale < 0:
        raise ValueError("the scale makes no sense")
    decoding = None if isinstance(decode, UnsetType) else _decoding(decode)
    drawn = None if isinstance(noise, UnsetType) else _noise_of(noise)
    op = _op(dtype, axis, decoding, Perturb(drawn, scale, shift))
    return Piece(record.source, start, stop, op)


def _noise_of(record: NoiseRecord) -> Noise:
    kinds = {"normal": record.normal, "finite": record.finite, "uniform": record.uniform}
    asked = [(kind, amount) for kind, amount in kinds.items() if not isinstance(amount, UnsetType)]
    if len(asked) != 1:
        raise ValueError(f"noise is of one kind, and this is of {len(asked)}")
    ((kind, amount),) = asked
    return Noise(kind, amount, record.seed, record.rounding)


def _op(dtype: str, axis: int, decoding: Decoding | None, change: Perturb) -> Op:
    """What a line asks for, by how values are had and what is done to them, in an output of a
    dtype that is joined along an axis."""
    noise, scale, shift = change.noise, change.scale, change.shift
    if noise and (decoding == EXACT or not scale):
        raise ValueError("what is filled, or multiplied as it is stored, takes no noise")
    if not scale:
        return Fill(shift, decoding)
    if decoding is None:
        is_whole = scale.denominator == shift.denominator == 1 and not noise
        if is_whole and axis and dtype in TABLES:
            return renumbered(int(scale), int(shift))
        return perturbed(noise, scale, shift)
    if decoding == EXACT:
        if shift:
            raise ValueError(f"what is stored times {scale} plus {shift} is not exact")
        return Rescale(scale)
    if noise and noise.is_rounded_by_draw and dtype not in WRITTEN and change == Perturb(noise):
        return Requantize(decoding, noise)
    return Cast(change) if decoding == AS_IT_IS else Dequantize(decoding, change)


def _decoding(table: dict[str, str | dict[str, str] | int]) -> Decoding:
    codec, companions, settings = table.get("codec"), table.get("with", {}), []
    if not isinstance(codec, str) or codec not in CODECS:
        raise ValueError(f"the codec {codec!r} is not known")
    if not isinstance(companions, dict):
        raise ValueError("companions are names by the part that each plays")
    for key, value in table.items():
        if key in ("codec", "with"):
            continue
        if key not in SETTINGS:
            raise ValueError(f"the key {key!r} is not known")
        if not isinstance(value, int):
            raise ValueError(f"{key} is no number")
        settings.append((key, value))
    return Decoding(codec, tuple(companions.items()), tuple(settings))


@lru_cache(maxsize=1 << 10)
def _fraction(text: str) -> Fraction:
    """A fraction of whole numbers; Fraction itself would also work out 1e999999999."""
    if not re.fullmatch(r"-?[0-9]{1,18}(/[0-9]{1,18})?", text):
        raise ValueError(f"{text!r} is not a fraction that makes sense")
    return Fraction(text)
