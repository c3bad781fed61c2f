"""Prepare the change of a piece: its noise, standard deviation, factor and constant."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from moegrow.errors import MoegrowError, Parameter
from moegrow.kernels import perturb
from moegrow.kernels.noise import Draw
from moegrow.kernels.perturb import Bytes, Change, Workspace
from moegrow.kernels.reader import READ
from moegrow.planning.op import Fill, change_of, noise_of
from moegrow.planning.plan import Output, Piece


def constant(dtype: str, fill: Fill, count: int) -> Iterator[Bytes]:
    """`count` bytes of values that are all the same."""
    if not count:
        return
    block = np.zeros(min(count, READ), np.uint8)
    if fill.value:
        # Like any other value that is scaled by 0 and shifted.
        Change(dtype, change_of(fill), None, 0.0, Workspace()).apply(block.copy(), 0, block)
    while count:
        yield block[:count]
        count -= min(count, block.size)


def change(
    output: Output, piece: Piece, row: int, deviation: float, workspace: Workspace
) -> Change:
    """What a piece that begins at `row` of its output does to its values.

    `deviation` is what `sigma` says of the piece; where it is 0, the output is noted as still.
    """
    draw, amount, drawn_side = None, 0.0, None
    made = change_of(piece.op)
    if made.noise:
        draw = Draw(made.noise, output.name, row)
        drawn_side = side(output, piece, row)
        amount = made.noise.amount * deviation
        if not deviation:
            workspace.still.add(output.name)
    return Change(output.dtype, made, draw, amount, workspace, drawn_side)


def side(output: Output, piece: Piece, row: int) -> Draw | None:
    """What decides to which side values are rounded that begin at `row`, if not the nearer one."""
    noise = noise_of(piece.op)
    if noise is None or not noise.is_rounded_by_draw:
        return None
    return Draw(noise, output.name, row, "rounding")


def is_relative(piece: Piece) -> bool:
    """Whether noise in a piece is relative to the deviation of its values."""
    noise = noise_of(piece.op)
    return noise is not None and noise.kind != "uniform"


def sigma(
    piece: Piece, dtype: str, read: Callable[[], Iterator[Bytes]], workspace: Workspace
) -> float:
    """The deviation that noise in a piece is relative to: 1 where it is relative to nothing.

    `read` gives the blocks of the piece, anew each time that it is called, each of a multiple of
    CHUNK values but the last. Raises MoegrowError where the values have no deviation.
    """
    noise = noise_of(piece.op)
    if noise is None or not is_relative(piece):
        return 1.0
    found = perturb.deviation(read(), dtype, workspace)
    if not math.isfinite(found) and noise.kind == "finite":
        found = perturb.deviation_of_finite(read(), dtype, workspace)
    if not math.isfinite(found):
        raise MoegrowError(
            f"{piece.source} holds NaN, infinity or values beyond 1e18, so noise relative to"
            " their deviation means nothing",
            "moegrow inspect --values shows where; "
            + Parameter("allow_nonfinite", True)
            + " takes the sigma of the others"
            " and leaves those as they are, " + Parameter("noise", 0) + " copies all as it is",
        )
    return found
