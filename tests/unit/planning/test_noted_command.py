"""A command that a plan notes has one form, however odd its text is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegrow.planning.noted_command import Form, noted, read_command


@given(st.lists(st.text()), st.booleans())
def test_the_words_that_were_typed_come_back(words, is_piped):
    command = read_command(noted(["moegrow", *words], is_piped=is_piped))
    assert command.words == ("moegrow", *words)
    assert command.form is (Form.PIPED if is_piped else Form.SHELL)


@pytest.mark.parametrize(
    ("text", "prints_plan"),
    [
        ("moegrow depth ckpt --plan", True),
        ("| moegrow width --plan > plan.jsonl", True),
        ("moegrow depth 'folder --plan' -o deep", False),
        ("moegrow depth ckpt -o x--plan", False),
        ("moegrow.depth(source, times='--plan')", False),
        ("moegrow depth 'ckpt --plan", False),
        ("", False),
    ],
)
def test_only_an_option_makes_a_command_print_a_plan(text, prints_plan):
    assert read_command(text).prints_plan is prints_plan
    assert read_command(text).text == text


def test_a_call_in_python_has_no_words():
    assert read_command("moegrow.depth(source)").form is Form.PYTHON
    assert read_command("moegrow.depth(source)").words == ()
