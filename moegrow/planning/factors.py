"""Factors and zeros on quantised weights: in their scales, and in codes that stand for zero."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

from moegrow.config.quantconfig import quantised_in
from moegrow.families.structure import Layout
from moegrow.formats.decoding import EXACT, is_power_of_two
from moegrow.formats.formats import Weight
from moegrow.plans import ONE, Growth, Output, Piece

# The companion that takes a factor: the first of these that a weight has.
_TAKES = ("factor", "divisor", "scale")


def are_asked(layout: Layout, growth: Growth, output_scale: Fraction) -> bool:
    """Whether a growth multiplies a weight, or sets one to zero."""
    tensors = layout.family.tensors
    return bool(output_scale != ONE or any(growth.silent) or tensors.not_in_first or tensors.beside)


class Factors:
    """The outputs of a growth, with what is to happen to quantised weights as it can, exactly.

    A factor that is a power of two multiplies the scales, or divides the divisor, and the codes
    are copied. Zeros are codes, and zero points, that stand for zero, whatever the scale. `taken`
    are the formats of the weights whose scales took a factor.
    """

    def __init__(self, layout: Layout) -> None:
        quantised = quantised_in(layout)
        self._weights = quantised.weights
        self._owners = quantised.owners
        self.taken: set[str] = set()

    def outputs(self, outputs: Iterable[Output]) -> Iterator[Output]:
        """The outputs; what is no quantised weight, or is decoded, stays as it is asked for."""
        for output in outputs:
            if self._weights and any(_is_changed(piece) for piece in output.pieces):
                pieces = tuple(map(self._piece, output.pieces))
                yield output._replace(pieces=pieces)
            else:
                yield output

    def _piece(self, piece: Piece) -> Piece:
        weight = self._weights.get(self._owners.get(piece.source, piece.source))
        if weight is None or weight.problem or not _is_changed(piece):
            return piece
        roles = {name: role for role, name in weight.decoding.companions}
        role = "values" if piece.source == weight.values else roles.get(piece.source, "")
        copy = Piece(piece.source, piece.start, piece.stop)
        if not piece.scale:
            code = zeros(weight).get(role)
            if code is None:
                return copy
            return copy._replace(scale=piece.scale, shift=Fraction(code), decoding=EXACT)
        if not is_power_of_two(piece.scale):
            return piece  # which no plan is allowed to ask for
        if role == "values":
            return piece._replace(scale=ONE)
        if role != next(taker for taker in _TAKES if taker in roles.values()):
            return copy
        self.taken.add(weight.format)
        scale = 1 / piece.scale if role == "divisor" else piece.scale
        return copy._replace(scale=scale, decoding=EXACT)


def _is_changed(piece: Piece) -> bool:
    return piece.scale != ONE and piece.decoding is None


def in_scales(outputs: Iterable[Output], layout: Layout) -> dict[str, Fraction]:
    """The factors that quantised weights have in their scales, by the outputs of their values."""
    multiplied = [
        (output.name, piece)
        for output in outputs
        for piece in output.pieces[:1]
        if piece.decoding == EXACT and piece.scale
    ]
    if not multiplied:
        return {}
    quantised, found = quantised_in(layout), {}
    owners = quantised.owners
    for name, piece in multiplied:
        if piece.source not in owners:
            continue
        weight = quantised.weights[owners[piece.source]]
        stem = weight.values.removesuffix(weight.ending)
        role = next(role for role, name in weight.decoding.companions if name == piece.source)
        values = name.removesuffix(piece.source.removeprefix(stem)) + weight.ending
        found[values] = 1 / piece.scale if role == "divisor" else piece.scale
    return found


def zeros(weight: Weight) -> dict[str, int]:
    """What to store for the codes of a weight and its zero points, so that it is zero."""
    decoding = weight.decoding
    if decoding.codec not in ("packed", "gptq", "awq"):
        return {"values": 0, "zero": 0}
    bits = decoding.setting("bits")
    # The middle of the codes, which symmetric weights take for zero without looking it up.
    middle = 1 << (bits - 1)
    return {
        "values": _word(middle, bits),
        "zero": _word(middle - decoding.setting("zero_shift"), bits),
    }


def _word(code: int, bits: int) -> int:
    """A signed word of 32 bits, full of one code.

    >>> hex(_word(8, 4) + (1 << 32))
    '0x88888888'
    """
    word = sum(code << at for at in range(0, 32, bits))
    return word - (1 << 32) if word >> 31 else word
