"""Regular expressions of anyone: as Python matches them, in linear time, or refused with why."""

import re
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moegrow.files import linear_regex
from moegrow.files.linear_regex import Budget, compiled, joined

NAMES = [
    "model.layers.3.mlp.gate", "model.layers.30.mlp.up_proj", "mtp.layers.0.mlp.experts.7.w1",
    "visual.blocks.0.attn", "lm_head", "LM_HEAD", "", "a|b", "(a",
]  # fmt: skip
# As published configs have them.
PUBLISHED = [
    ".*lm_head", r"^(?!mtp\.).*layers\.\d+\.mlp\.up_proj$", "(?!.*experts).*proj",
    r"^(?!mtp\.layers\.0\.mlp\.experts(?:\.|$)).*", r".*\.(?:1[6-9]|2[0-9]|3[01])\..*",
    r"(?!(?:lm_head|mtp.*))(?:.*gate|.*head)", "(?i)(?!mtp).*HEAD", "visual.*", r"[(?!|]a",
    r"lm_head|(?!m)v.*|(?=mtp)(?!mtp\.l).*",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_expressions_match_as_python_matches_them(text):
    for name in NAMES:
        assert compiled(text).begins(name) == bool(re.match(text, name)), name
        assert compiled(text).is_whole(name) == bool(re.fullmatch(text, name)), name
    others = [one for one in PUBLISHED if one != text]
    for name in NAMES:
        expected = any(re.match(one, name) for one in others)
        assert joined(others).begins(name) == expected, name


part = st.recursive(
    st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", "[]|(]", r"\(", ""]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map("|".join).map("({})".format),
        inner.map("(?:{})*".format),
    ),
    max_leaves=6,
)
ahead = st.builds("{}{})".format, st.sampled_from(["(?!", "(?="]), part)
whole = st.lists(st.builds("{}{}{}".format, st.sampled_from(["", "^"]), ahead | st.just(""), part))


@settings(max_examples=40, deadline=None)
@given(whole.map("|".join), st.text("ab.(|]", max_size=6))
def test_any_expression_is_matched_as_python_matches_it(text, name):
    assert compiled(text).begins(name) == bool(re.match(text, name))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(", "no regular expression"), ("(?!a", "do not match each other"),
        ("(?!a)b)", "do not match each other"), ("a(?!b)c", "linear time"),
        (r"(a)\1", "linear time"), ("(?<!a)b", "linear time"), ("a" * 65_537, "the most is 65536"),
        ("(?!" * 20_000, "do not match"), ("(" * 60_000 + ")" * 60_000, "the most is"),
        ("(?:(a{1000}){1000})", "repetition"), ("\ud800", "linear time"), ("(a" * 9000, "missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_with_why(text, why):
    started = process_time()
    with pytest.raises(ValueError, match=why):
        compiled(text)
    assert process_time() - started < 1


def test_what_takes_long_all_the_same_is_stopped(monkeypatch):
    monkeypatch.setattr(linear_regex, "MOST_STEPS", 100_000)
    budget = Budget()
    long = compiled(".*a.{300}")
    with pytest.raises(ValueError, match="too long to try"):
        any(budget.begins(long, "b" * 60) for _ in range(1000))
    small = Budget()
    assert not any(small.begins(compiled(".*a"), "b" * 60) for _ in range(1000))
