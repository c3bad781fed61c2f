"""Outputs that stay quantised and take noise: decoded, and put back on their grid."""

from collections.abc import Iterable, Iterator

from moegrow.config.quantconfig import quantised_in
from moegrow.families.structure import Layout
from moegrow.formats.formats import Weight
from moegrow.plans import Output, Piece


def regridded(outputs: Iterable[Output], layout: Layout) -> Iterator[Output]:
    """The outputs, with how its numbers are had in every piece of a quantised weight with noise
    that a draw rounds.

    The companions of such a weight, on whose scales its numbers are put back, take no noise: they
    are copied.
    """
    quantised = quantised_in(layout)
    weights, owners = quantised.weights, quantised.owners
    for output in outputs:
        source = output.pieces[0].source if output.pieces else ""
        if source not in weights and source not in owners:
            yield output
        elif any(piece.is_rounded_by_draw for piece in output.pieces):
            weight = weights.get(source)
            yield output._replace(pieces=tuple(_piece(piece, weight) for piece in output.pieces))
        else:
            yield output


def _piece(piece: Piece, weight: Weight | None) -> Piece:
    if not piece.is_rounded_by_draw or piece.decoding is not None:
        return piece
    if weight is None:
        return piece._replace(noise=None)
    return piece if weight.problem else piece._replace(decoding=weight.decoding)
