"""How the lines of tensors in a plan were read before msgspec: by hand, to hold the reader against.

A piece is a tuple of its source, two rows, its noise, scale, shift and decoding.
"""

import re
from fractions import Fraction
from typing import get_args

from moegrow.checkpoint.header import BITS
from moegrow.files import json_edit
from moegrow.growth import Noise, Rounding
from moegrow.quant.decoding import CODECS, SETTINGS, Decoding

WRONG_KINDS = (
    AttributeError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError,
)  # fmt: skip


def read(line):
    """What a line says, or None where it is malformed; raises MoegrowError where it is no JSON."""
    try:
        return _output(json_edit.loads(line, "the line"))
    except WRONG_KINDS:
        return None


def _noise(kind, amount, seed, rounding="nearest"):
    if kind not in ("normal", "finite", "uniform"):
        raise ValueError(f"noise {kind!r} is neither normal nor finite nor uniform")
    if type(amount) not in (int, float) or not 0 < amount < 1e6:
        raise ValueError(f"a noise of {amount!r} makes no sense")
    if rounding not in get_args(Rounding):
        raise ValueError(f"the rounding {rounding!r} is not known")
    return Noise(kind, float(amount), _number(seed), rounding)


def _output(table):
    if table["dtype"] not in BITS:
        raise ValueError(f"the dtype {table['dtype']!r} is not known")
    _check_keys(table, "name", "dtype", "shape", "axis", "pieces")
    if not type(table["shape"]) is type(table["pieces"]) is list:
        raise TypeError("an empty table or text passed for an empty list")
    pieces = tuple(map(_piece, table["pieces"]))
    shape, axis = _numbers(table["shape"]), _number(table.get("axis", 0))
    if axis and axis >= len(shape):
        raise ValueError(f"there is no axis {axis} in {list(shape)}")
    return _text(table["name"]), table["dtype"], shape, pieces, axis


def _piece(table):
    start, stop = table["rows"]
    noise = None
    if "noise" in table:
        told = dict(table["noise"])
        seed, rounding = told.pop("seed"), told.pop("rounding", "nearest")
        ((kind, amount),) = told.items()
        noise = _noise(kind, amount, seed, rounding)
    scale, shift = (
        _fraction(table.get("scale", "1")),
        _fraction(table.get("shift", "0")),
    )
    if scale < 0:
        raise ValueError("the scale makes no sense")
    decoding = _decoding(table["decode"]) if "decode" in table else None
    _check_keys(table, "from", "rows", "decode", "noise", "scale", "shift")
    rows = _number(start), _number(stop)
    return _text(table["from"]), *rows, noise, scale, shift, decoding


def _decoding(table):
    _check_keys(table, "codec", "with", *SETTINGS)
    if table["codec"] not in CODECS:
        raise ValueError(f"the codec {table['codec']!r} is not known")
    companions = tuple((role, _text(name)) for role, name in table.get("with", {}).items())
    settings = tuple((key, _number(table[key])) for key in table if key in SETTINGS)
    return Decoding(table["codec"], companions, settings)


def _fraction(text):
    """A fraction of whole numbers; Fraction itself would also work out 1e999999999."""
    if not re.fullmatch(r"-?[0-9]{1,18}(/[0-9]{1,18})?", _text(text)):
        raise ValueError(f"{text!r} is not a fraction that makes sense")
    return Fraction(text)


def _check_keys(table, *known):
    """A key that is not known could mean something that would be left undone."""
    for key in table:
        if key not in known:
            raise ValueError(f"the key {key!r} is not known")


def _checked(kind, what, is_good):
    def check(value):
        if type(value) is not kind or not is_good(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return check


_number = _checked(int, "a number from 0 up", lambda n: 0 <= n < 2**63)
_text = _checked(str, "a text", lambda text: True)


def _numbers(values):
    return tuple(map(_number, values))
