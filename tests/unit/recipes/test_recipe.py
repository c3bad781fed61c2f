"""A recipe's text is read strictly, and what is written is read as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegrow.errors import MoegrowError
from moegrow.recipes.recipe import LARGEST, MOST_STEPS, Recipe, is_below, read_recipe, to_toml
from moegrow.steps import Convert, Depth, Width

STEP = '[[step]]\ngrow = "depth"\n'
WHOLE = f"moegrow_recipe = 1\n{STEP}"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
STEPS = (
    st.builds(Depth, layers=TEXTS | st.none())
    | st.builds(Width, noise=st.floats(0, 1), seed=st.integers(0, 2**62), top_k=TEXTS | st.none())
    | st.builds(Convert)
)


@given(
    st.lists(STEPS, min_size=1, max_size=4),
    TEXTS | st.none(),
    TEXTS.filter(is_below) | st.none(),
    st.integers(0, 2**62) | st.none(),
)
def test_what_is_written_is_read_as_the_same(steps, source, output, seed):
    recipe = Recipe(steps=tuple(steps), source=source, output=output, seed=seed)
    assert read_recipe(to_toml(recipe), "it") == recipe


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "moegrow_recipe is None, not 1", "moegrow_recipe = 1"),
        ("moegrow_recipe = true", "moegrow_recipe is True", ""),
        ("moegrow_recipe = 2", "moegrow_recipe is 2", ""),
        ("x = ", "not valid TOML", ""),
        ("a" * (LARGEST + 1), "bytes", ""),
        ("x = " + "[" * 20000, "nests too deeply", ""),
        ("x = " + "9" * 5000, "not valid TOML", ""),
        ("moegrow_recipe = 1", "no list of steps", "[[step]]"),
        ("moegrow_recipe = 1\nstep = []", "0 steps", "[[step]]"),
        ("moegrow_recipe = 1\n" + STEP * (MOST_STEPS + 1), "17 steps", ""),
        ("moegrow_recipe = 1\nstep = [1]", "step 1 is 1", ""),
        ("moegrow_recipe = 1\n[[step]]\nmode = 'stack'", "grow is None", 'grow = "depth"'),
        ("moegrow_recipe = 1\n[[step]]\ngrow = 'dept'", "grow is 'dept'", "did you mean depth?"),
        (f"{WHOLE}time = '2x'", "step 1: the key 'time' is not known", "did you mean times?"),
        (f"{WHOLE}keep-first = 1", "'keep-first' is not known", "did you mean keep_first?"),
        (f"{WHOLE}experts = 2", "'experts' is not known", "known: mode, times"),
        (f"{WHOLE}mode = 3", "mode is 3, not a text", ""),
        (f"{WHOLE}mode = 'stak'", "step 1: mode='stak' is not known", "did you mean stack?"),
        (f"{WHOLE}times = 2.5", "times is 2.5, not a text or a whole number", ""),
        (f"{WHOLE}mode = 'stack'\nmode = 'stack'", "not valid TOML", ""),
        (
            f"{WHOLE}[[step]]\ngrow = 'width'\nseed = -1",
            "step 2: seed=-1 is out of range",
            "from 0",
        ),
        (f"{WHOLE}[[step]]\ngrow = 'width'\nnoise = nan", "step 2: noise=nan", "such as 0.01"),
        (f"{WHOLE}to = 2.0", "to is 2.0, not a whole number", ""),
        (f"{WHOLE}to = true", "to is True, not a whole number", ""),
        (f"{WHOLE}[[step]]\ngrow = 'width'\nallow_nonfinite = 1", "is 1, not true or false", ""),
        (f"{WHOLE}layers = '{'0,' * 3000}'", "layers has 6000 characters", ""),
        (f"sead = 1\n{WHOLE}", "the key 'sead' is not known", "did you mean seed?"),
        (f"output = '../x'\n{WHOLE}", "leads out of the folder", "output writes anywhere"),
        (f"output = '/x'\n{WHOLE}", "leads out of the folder", ""),
        (f"output = 'a/../../x'\n{WHOLE}", "leads out of the folder", ""),
        (f"output = '~/x'\n{WHOLE}", "leads out of the folder", ""),
        (f"output = ''\n{WHOLE}", "leads out of the folder", ""),
    ],
)
def test_a_slip_is_refused_with_the_word_that_was_meant(text, says, hint):
    with pytest.raises(MoegrowError) as refused:
        read_recipe(text, "recipe.toml")
    assert refused.value.message.startswith("recipe.toml")
    assert says in refused.value.message
    assert hint in refused.value.hint
    assert len(refused.value.message) < 300


def test_nothing_in_a_recipe_steers_the_terminal_that_shows_it():
    text = to_toml(Recipe(steps=(Width(top_k="\x9b2J\u202e\x1b[1m\n"),)))
    assert all(line.isprintable() for line in text.split("\n"))
