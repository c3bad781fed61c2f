"""Pack codes into 32-bit words, and unpack them."""

from collections.abc import Mapping

from moegrow.checkpoint.header import TensorSpec
from moegrow.quant.codec import Parts, expect, same, two_sizes
from moegrow.quant.decoding import FLOAT_SCALES, Decoding


def per_word(decoding: Decoding) -> int:
    """How many codes are in a word; raises ValueError where that is not decoded."""
    bits = decoding.setting("bits")
    if not bits:
        raise ValueError("nothing says of how many bits it is")
    if bits not in (4, 8):
        raise ValueError(f"{bits} bits are not decoded, only 4 and 8")
    return 32 // bits


def bits_of(words: int, numbers: int) -> int:
    """Of how many bits numbers are that fill words of 32 bits; 0 where that cannot be."""
    return 32 * words // numbers if numbers and not 32 * words % numbers else 0


def length(spec: TensorSpec, axis: int) -> int:
    """How long a tensor is along an axis; 0 for a single number."""
    return spec.shape[axis] if spec.shape else 0


def groups_of_columns(parts: Parts, rows: int, each: int) -> int:
    """The number of groups of GPTQ's and AWQ's scales, which have a column for each row."""
    expect(parts["scale"], *FLOAT_SCALES)
    expect(parts["zero"], "I32")
    groups = two_sizes(parts["scale"])[0]
    same(parts["scale"].shape, (groups, rows))
    same(parts["zero"].shape, (groups, -(-rows // each)))
    return groups


def zero_words(bits: int, zero_shift: int = 0) -> Mapping[str, int]:
    """Words of codes and of zero points that stand for 0: the middle of the codes, which symmetric
    weights take for 0 without looking it up."""
    middle = 1 << (bits - 1)
    return {"values": _word(middle, bits), "zero": _word(middle - zero_shift, bits)}


def _word(code: int, bits: int) -> int:
    """A signed word of 32 bits, full of one code.

    >>> hex(_word(8, 4) + (1 << 32))
    '0x88888888'
    """
    word = sum(code << at for at in range(0, 32, bits))
    return word - (1 << 32) if word >> 31 else word
