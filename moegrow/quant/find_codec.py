"""Find the codec of a stored tensor by its name, in the one `match` over all codecs."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, assert_never

from moegrow.checkpoint.header import TensorSpec
from moegrow.quant.decoding import CODECS, SETTINGS, CodecName, Decoding

if TYPE_CHECKING:
    from moegrow.quant.codec import Codec, Decoder

Tensors = Mapping[str, TensorSpec]


@cache
def _decoder(name: CodecName) -> type["Decoder"]:
    """The class of a name, loaded only now: plans of weights that are only copied need no numpy."""
    match name:
        case "plain":
            from moegrow.quant.plain import Plain

            return Plain
        case "exact":
            from moegrow.quant.plain import Exact

            return Exact
        case "scaled":
            from moegrow.quant.scaled import Scaled

            return Scaled
        case "fp4":
            from moegrow.quant.fp4 import Fp4

            return Fp4
        case "packed":
            from moegrow.quant.packed import Packed

            return Packed
        case "gptq":
            from moegrow.quant.gptq import Gptq

            return Gptq
        case "awq":
            from moegrow.quant.awq import Awq

            return Awq
        case _:
            assert_never(name)


def codec_class(name: str) -> type["Codec"]:
    """The codec of a quantised format; raises ValueError for a name that is none."""
    from moegrow.quant.codec import Codec

    found = _decoder(_known(name))
    if not issubclass(found, Codec):
        raise ValueError(f"the codec {name!r} has no codes")
    return found


def find_decoder(spec: TensorSpec, decoding: Decoding, tensors: Tensors) -> "Decoder":
    """A stored tensor as its codec has it.

    Raises ValueError, with what does not fit, where tensor, companions and settings are not what
    the codec needs: a plan may be a stranger's.
    """
    return _decoder(_known(decoding.codec))(spec, _parts(decoding, tensors), decoding)


def find_codec(spec: TensorSpec, decoding: Decoding, tensors: Tensors) -> "Codec":
    """A quantised weight as its codec has it; raises ValueError as `find_decoder` does."""
    return codec_class(decoding.codec)(spec, _parts(decoding, tensors), decoding)


def decoded_shape(spec: TensorSpec, decoding: Decoding, tensors: Tensors) -> tuple[int, ...]:
    """The shape of the numbers that a stored tensor holds; raises as `find_decoder` does."""
    return find_decoder(spec, decoding, tensors).shape


def _known(name: str) -> CodecName:
    for codec in CODECS:
        if name == codec:
            return codec
    raise ValueError(f"the codec {name!r} is not known")


def _parts(decoding: Decoding, tensors: Tensors) -> Mapping[str, TensorSpec]:
    for role, name in decoding.companions:
        if name not in tensors:
            raise ValueError(f"its {role}, {name}, is not there")
    for key, number in decoding.settings:
        if key not in SETTINGS or not 0 <= number < 2**31:
            raise ValueError(f"{key} {number} makes no sense")
    parts = {role: tensors[name] for role, name in decoding.companions}
    if len(parts) != len(decoding.companions):
        raise ValueError("a companion is named twice")
    return parts
