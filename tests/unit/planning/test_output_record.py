"""Lines of tensors, held against how they were read by hand before."""

import json
from copy import deepcopy
from fractions import Fraction

import handmade_reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.planning.op import (
    COPY,
    Cast,
    Dequantize,
    Fill,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    change_of,
    decoding_of,
)
from moegrow.planning.output_record import output_of
from moegrow.planning.plan import Output, Piece
from moegrow.planning.plan_lines import output_line
from moegrow.quant.decoding import EXACT, Decoding

fractions = st.fractions(0, 100, max_denominator=99)
positive = fractions.filter(bool)
noises = st.builds(
    Noise, st.sampled_from(["normal", "finite", "uniform"]),
    st.floats(0, 1e6, exclude_min=True, exclude_max=True), st.integers(0, 2**63 - 1),
    st.sampled_from(["nearest", "stochastic"]),
)  # fmt: skip
by_draw = noises.map(lambda noise: noise._replace(rounding="stochastic"))
changes = st.builds(Perturb, st.none() | noises, positive, fractions)
decodings = st.builds(
    Decoding, st.sampled_from(["scaled", "fp4", "packed", "gptq"]),
    st.dictionaries(st.sampled_from(["scale", "zero"]), st.text()).map(lambda d: (*d.items(),)),
    st.dictionaries(st.sampled_from(["bits", "block_rows"]), st.integers(0, 9)).map(
        lambda d: (*d.items(),)
    ),
)  # fmt: skip
floats = st.one_of(
    st.just(COPY), st.builds(Fill, fractions, st.none() | decodings | st.just(EXACT)),
    changes.filter(lambda change: change != Perturb()), st.builds(Cast, changes),
    st.builds(Dequantize, decodings, changes), st.builds(Rescale, positive),
)  # fmt: skip
codes = st.just(COPY) | st.builds(Requantize, decodings, by_draw)
tables = st.just(COPY) | st.builds(Renumber, st.integers(2, 9), st.integers(0, 9))
sizes = st.integers(0, 2**63 - 1)


@st.composite
def outputs(draw):
    dtype, axis, ops = draw(
        st.sampled_from([("BF16", 0, floats), ("F8_E4M3", 0, codes), ("I64", 1, tables)])
    )
    pieces = st.lists(st.builds(Piece, st.text(), sizes, sizes, ops), max_size=3)
    shape = draw(st.lists(sizes, min_size=2, max_size=3))
    return Output(draw(st.text()), dtype, tuple(shape), tuple(draw(pieces)), axis)


def flat(output):
    """An output as it was before its pieces held operations."""

    def fields(piece):
        change = change_of(piece.op)
        parts = change.noise, change.scale, change.shift, decoding_of(piece.op)
        return piece.source, piece.start, piece.stop, *parts

    return output.name, output.dtype, output.shape, tuple(map(fields, output.pieces)), output.axis


def read(line):
    """What is read of a line, as `handmade_reader` gives it."""
    try:
        return flat(output_of(line, 2))
    except MoegrowError:
        return None


def read_by_hand(line):
    try:
        return handmade_reader.read(line)
    except MoegrowError:
        return None


@given(outputs())
def test_a_line_is_read_as_by_hand_and_written_again(output):
    line = output_line(output)
    assert output_of(line, 2) == output
    assert flat(output) == handmade_reader.read(line)


ODD = [
    None, True, -1, 0, 1.0, 2**63, 2**80, "", "1/2", "0", "-1", "1/0", [], {}, [1], [0, 1],
    [0, 1, 2], "F32", "I64", "gptq", "plain", {"scale": "s"}, {"normal": 1, "seed": 0}, 1e400,
    "\ud800", {"normal": 0.5, "uniform": 0.5, "seed": 0}, {"seed": 0},
    {"codec": "plain", "bits": 4},
]  # fmt: skip
KEYS = [
    "name", "dtype", "shape", "axis", "pieces", "from", "rows", "decode", "noise", "scale", "shift",
    "seed", "normal", "rounding", "codec", "with", "bits", "salt",
]  # fmt: skip


def tables_in(value):
    """Every table in a value, itself first."""
    if isinstance(value, dict):
        yield value
        value = value.values()
    for inner in value if isinstance(value, list) or not isinstance(value, str | int) else ():
        if isinstance(inner, dict | list):
            yield from tables_in(inner)


@st.composite
def edited(draw):
    """A line of a plan in which some keys have other values, are new, or are gone."""
    table = json.loads(output_line(draw(outputs())))
    for _ in range(draw(st.integers(1, 2))):
        inner = draw(st.sampled_from([*tables_in(table)]))
        key = draw(st.sampled_from([*inner, *KEYS]))
        if draw(st.booleans()):
            inner[key] = deepcopy(draw(st.sampled_from(ODD)))
        else:
            inner.pop(key, None)
    return json.dumps(table, ensure_ascii=draw(st.booleans()))


def is_refused_now(by_hand):
    """Whether what was read by hand is refused while it is read now, and not by a check."""

    def names(value):
        return [value] if isinstance(value, str) else [n for v in value for n in names(v)]

    _, _, _, pieces, _ = by_hand
    texts = [by_hand[0], *(piece[0] for piece in pieces)]
    texts += [name for *_, coding in pieces if coding for name in names(coding.companions)]
    has_half = any("\ud800" <= letter <= "\udfff" for text in texts for letter in text)
    return has_half or any(
        (noise and (not scale or coding == EXACT)) or (coding == EXACT and scale and shift)
        for _, _, _, noise, scale, shift, coding in pieces
    )


@settings(max_examples=400)
@given(edited())
def test_an_edited_line_is_read_or_refused_as_by_hand(line):
    by_hand = read_by_hand(line)
    if by_hand is not None and is_refused_now(by_hand):
        assert read(line) is None
    else:
        assert read(line) == by_hand


@settings(max_examples=400)
@given(outputs().map(output_line), st.data())
def test_a_line_with_other_characters_is_read_or_refused_as_by_hand(line, data):
    at = data.draw(st.integers(0, len(line)))
    put = data.draw(
        st.sampled_from(["", " ", '"', "{", "]", ",", "1", "-", ".5", "e9", "\\", "\t"])
    )
    line = line[:at] + put + line[at + data.draw(st.integers(0, 2)) :]
    by_hand = read_by_hand(line)
    if by_hand is not None and is_refused_now(by_hand):
        assert read(line) is None
    else:
        assert read(line) == by_hand


LINE = '{"name":"a","dtype":"BF16","shape":[2,3],"pieces":[{"from":"b","rows":[0,2]}]}'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"rows":[0,2]', '"rows":[0,-2]', r"`int` >= 0 - at `\$.pieces\[0\].rows\[1\]`"),
        ('"rows"', '"salt":1,"rows"', r"unknown field `salt` - at `\$.pieces\[0\]`"),
        ('"name":"a",', "", "missing required field `name`"),
        ('"BF16"', '"F7"', "the dtype 'F7' is not known"),
        (
            '"rows":[0,2]',
            '"rows":[0,2],"scale":"0","noise":{"normal":1,"seed":0}',
            "takes no noise",
        ),
        ('"name":"a",', '"name":"a","name":"a",', "twice"),
        ('"from":"b"', '"from":"a","from":"b"', "twice"),
        ('"pieces"', '"axis":2,"pieces"', r"no axis 2 in \[2, 3\]"),
    ],
)
def test_what_is_wrong_in_a_line_is_said_with_its_place(old, new, says):
    assert output_of(LINE, 7).pieces == (Piece("b", 0, 2),)
    with pytest.raises(MoegrowError, match=says) as refused:
        output_of(LINE.replace(old, new, 1), 7)
    assert refused.value.message.startswith("line 7 of the plan")


def test_a_table_of_numbers_is_renumbered_only_by_columns():
    change = '"rows":[0,2],"scale":"2","shift":"1"'
    line = LINE.replace("BF16", "I64").replace('"rows":[0,2]', change)
    (piece,) = output_of(line.replace('"pieces"', '"axis":1,"pieces"'), 2).pieces
    assert piece.op == Renumber(2, 1)
    (piece,) = output_of(line, 2).pieces
    assert piece.op == Perturb(None, Fraction(2), Fraction(1))
