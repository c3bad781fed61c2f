"""Find the problems of a piece: rows that do not exist, and operations that do not fit."""

from collections.abc import Iterator
from fractions import Fraction
from typing import assert_never

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import TABLES, WRITTEN, integers
from moegrow.errors import MoegrowError, Parameter
from moegrow.planning.op import (
    ZERO,
    Cast,
    Copy,
    Dequantize,
    Fill,
    Op,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    change_of,
    decoding_of,
)
from moegrow.planning.plan import Output, Piece
from moegrow.quant.decoding import (
    AS_IT_IS,
    EXACT,
    SCALES,
    Decoding,
    is_power_of_two,
)
from moegrow.quant.find_codec import Tensors, decoded_shape, find_decoder


def check_stored(output: Output, op: Op) -> None:
    """Raise MoegrowError where an operation means nothing for what is no plain float."""
    match op:
        case Copy() | Requantize() | Rescale():
            return
        case Fill(decoding=decoding):
            if decoding != EXACT:
                raise _unscalable(output, ZERO)
        case Renumber(factor):
            # Tables of experts' numbers are joined by columns; packed weights never are.
            if output.dtype not in TABLES or not output.axis:
                raise _unscalable(output, Fraction(factor))
        case Perturb() | Cast() | Dequantize():
            change = change_of(op)
            if change.noise and not change.noise.is_rounded_by_draw:
                raise MoegrowError(
                    f"{output.name} is stored as {output.dtype}, and noise on quantised weights is"
                    " mostly lost in rounding to nearest",
                    "use "
                    + Parameter("rounding", "stochastic")
                    + ", or "
                    + Parameter("noise", 0)
                    + " for exact copies, or write the"
                    " weights decoded: " + Parameter("experts_dtype", "bf16"),
                )
            if change.noise and decoding_of(op) is None:
                raise MoegrowError(
                    f"{output.name} is stored as {output.dtype} in a way that moegrow does not"
                    " decode, so noise cannot be added to its numbers",
                    "use " + Parameter("noise", 0) + " for exact copies",
                )
            raise _unscalable(output, change.scale)
        case _:
            assert_never(op)


def _unscalable(output: Output, scale: Fraction) -> MoegrowError:
    """Why a quantised weight cannot be multiplied by a scale."""
    if not scale:
        return MoegrowError(
            f"{output.name} is stored as {output.dtype}, in no format whose zeros are known",
            "repeat the layers without: " + Parameter("new_layers", "copy"),
        )
    return MoegrowError(
        f"{output.name} is stored as {output.dtype}, which can be copied but not multiplied by"
        f" {scale}",
        "write the experts decoded: " + Parameter("experts_dtype", "bf16")
        if is_power_of_two(scale)
        else "take a power of two as many experts, which the scales can make up for, or write the"
        " experts decoded: " + Parameter("experts_dtype", "bf16"),
    )


def piece_problems(output: Output, piece: Piece, checkpoint: Checkpoint) -> Iterator[str]:
    """Why a piece of an output cannot be made of the source, if so."""
    spec = checkpoint.tensors.get(piece.source)
    if spec is None:
        yield f"{output.name} comes from {piece.source}, which the source does not hold"
        return
    tensors = checkpoint.tensors
    match piece.op:
        case Copy() | Perturb() | Renumber() | Fill(decoding=None):
            yield from _stored_problems(output, piece, spec)
        case Fill(value, decoding) if decoding == EXACT:
            problem = _place_problem(output, spec) or _code_problem(value, spec)
            yield from _decoding_problems(output, piece, spec, tensors, EXACT, problem)
        case Rescale(factor):
            problem = _place_problem(output, spec) or _factor_problem(factor, spec)
            yield from _decoding_problems(output, piece, spec, tensors, EXACT, problem)
        case Fill() | Cast() | Dequantize():
            decoding = decoding_of(piece.op) or AS_IT_IS
            yield from _decoding_problems(output, piece, spec, tensors, decoding)
        case Requantize(decoding):
            yield from _requantizing_problems(output, piece, spec, tensors, decoding)
        case _:
            assert_never(piece.op)


def _stored_problems(output: Output, piece: Piece, spec: TensorSpec) -> Iterator[str]:
    """Where rows that are taken as they are stored are not what the output is made of."""
    axis = output.axis
    other = spec.shape[:axis] + spec.shape[axis + 1 :]
    if spec.dtype != output.dtype or other != output.shape[:axis] + output.shape[axis + 1 :]:
        yield (
            f"{output.name} is {output.dtype} {list(output.shape)} and comes from"
            f" {spec.dtype} {list(spec.shape)}"
        )
    rows = spec.shape[axis] if spec.shape else 1
    if not 0 <= piece.start <= piece.stop <= rows:
        wanted = f"rows {piece.start} to {piece.stop}"
        yield f"{output.name} asks for {wanted} of {piece.source}, which has {rows}"


def _place_problem(output: Output, spec: TensorSpec) -> str:
    """Why an output cannot hold what is changed as it is stored."""
    if output.dtype != spec.dtype or output.axis:
        return f"it is {spec.dtype} and stays that, joined along its first dimension"
    return ""


def _code_problem(value: Fraction, spec: TensorSpec) -> str:
    """Why a stored tensor cannot be made of one number."""
    # A small float can be set to zero alone.
    held = integers(spec.dtype) or range(1)
    if value.denominator == 1 and value.numerator in held:
        return ""
    return f"{value} is no number that all of {spec.dtype} could be"


def _factor_problem(factor: Fraction, spec: TensorSpec) -> str:
    """Why a stored tensor cannot be multiplied as it is."""
    if spec.dtype in SCALES and is_power_of_two(factor):
        return ""
    return f"{spec.dtype} times {factor} is not exact"


def _decoding_problems(
    output: Output,
    piece: Piece,
    spec: TensorSpec,
    tensors: Tensors,
    decoding: Decoding,
    problem: str = "",
) -> Iterator[str]:
    """Where decoded rows are not what the output is made of.

    `problem` is why a piece that stays as it is stored cannot be changed so.
    """
    try:
        shape = decoded_shape(spec, decoding, tensors)
    except ValueError as error:
        yield f"{output.name} is decoded from {piece.source}, and cannot be: {error}"
        return
    axis = output.axis
    if problem:
        yield f"{output.name} cannot be made of {piece.source}: {problem}"
    elif decoding != EXACT and output.dtype not in WRITTEN:
        yield f"{output.name} is decoded, and cannot be written as {output.dtype}"
    elif axis and (
        decoding.codec != "plain" or any(not decoding_of(other.op) for other in output.pieces)
    ):
        yield f"{output.name} is joined along axis {axis}, and not all of it is plain numbers"
    elif (shape[:axis], shape[axis + 1 :]) != (output.shape[:axis], output.shape[axis + 1 :]):
        yield f"{output.name} is {list(output.shape)} and made from {list(shape)}"
    rows = shape[axis] if len(shape) > axis else 1
    if not 0 <= piece.start <= piece.stop <= rows:
        wanted = f"rows {piece.start} to {piece.stop}"
        yield f"{output.name} asks for {wanted} of {piece.source}, which has {rows} decoded"


def _requantizing_problems(
    output: Output, piece: Piece, spec: TensorSpec, tensors: Tensors, decoding: Decoding
) -> Iterator[str]:
    """Where rows that take noise on their numbers and stay quantised are not what is stored."""
    try:
        decoded_shape(spec, decoding, tensors)
    except ValueError as error:
        yield f"{output.name} is decoded from {piece.source}, and cannot be: {error}"
        return
    if output.dtype != spec.dtype:
        yield f"{output.name} is decoded, and cannot be written as {output.dtype}"
        return
    if output.axis or decoding.codec == "plain":
        yield f"{output.name} is decoded, and cannot be put back on a grid of {output.dtype}"
        return
    if spec.shape[1:] != output.shape[1:]:
        yield f"{output.name} is {list(output.shape)} and made from {list(spec.shape)}"
    rows = spec.shape[0] if spec.shape else 1
    if not 0 <= piece.start <= piece.stop <= rows:
        wanted = f"rows {piece.start} to {piece.stop}"
        yield f"{output.name} asks for {wanted} of {piece.source}, which has {rows}"
        return
    try:
        find_decoder(spec, decoding, tensors).rows((piece.start, piece.stop))
    except ValueError as error:
        yield f"{output.name} is made from {piece.source}: {error}"
