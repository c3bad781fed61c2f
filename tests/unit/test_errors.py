"""Messages name parameters as Python has them, and a command line spells them as flags."""

import pickle
from pathlib import Path

import pytest

from moegrow.errors import LONGEST, Message, MoegrowError, Parameter, UsageError, raise_all, spell
from moegrow.options import as_flag


@pytest.mark.parametrize(
    ("parameter", "python", "flag"),
    [
        (Parameter("keep_first"), "keep_first", "--keep-first"),
        (Parameter("keep_first", 0), "keep_first=0", "--keep-first 0"),
        (Parameter("times", 1), "times=1", "--times 1"),
        (Parameter("mode", "stack"), "mode='stack'", "--mode stack"),
        (Parameter("force", True), "force=True", "--force"),
        (Parameter("part", "3/16"), "part='3/16'", "--shards 3/16"),
        (Parameter("output", Path("a b")), "output='a b'", "-o 'a b'"),
        (Parameter("links_to", ["a b"]), "links_to=['a b']", "--links-to 'a b'"),
        (Parameter("moegrow.plan()"), "moegrow.plan()", "--plan"),
    ],
)
def test_a_parameter_has_two_spellings(parameter, python, flag):
    assert str(parameter) == spell(parameter) == python
    assert spell(parameter, as_flag) == flag


def test_texts_and_parameters_are_joined_in_their_order():
    to, times = Parameter("to", 8), Parameter("times")
    text = "use " + to + " or " + times + "; " + (to + times)
    assert text == Message(("use ", to, " or ", times, "; ", to, times))
    assert str(text) == "use to=8 or times; to=8times"
    assert spell(text, as_flag) == "use --to 8 or --times; --to 8--times"


def test_an_error_holds_its_message_as_text_and_as_a_value():
    error = UsageError(Parameter("drop", 9) + " does not fit", "use " + Parameter("drop", 1))
    assert (error.message, error.hint) == ("drop=9 does not fit", "use drop=1")
    assert str(error) == error.message
    assert spell(error.said, as_flag) == "--drop 9 does not fit"
    assert spell(error.advice, as_flag) == "use --drop 1"
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_a_text_that_looks_like_a_parameter_stays_as_it_is():
    told = "keep_first=" + Parameter("keep_first", "keep_first=1")
    assert spell(told, as_flag) == "keep_first=--keep-first keep_first=1"


def test_a_message_of_any_length_is_cut():
    error = MoegrowError(Parameter("layers", "0," * LONGEST) + " is no layer map")
    assert len(error.message) < LONGEST + 60
    assert error.message.endswith("more characters")


def test_problems_in_a_list_keep_their_parameters():
    with pytest.raises(MoegrowError) as refused:
        raise_all("two", [Parameter("to", 8) + " is wrong", "other"], "use " + Parameter("times"))
    assert refused.value.message == "two:\n  to=8 is wrong\n  other"
    assert spell(refused.value.said, as_flag) == "two:\n  --to 8 is wrong\n  other"
    assert spell(refused.value.advice, as_flag) == "use --times"
