"""The limits of docs/reliability.md hold for what anyone may have written, in the real command.

tests/fuzz/limits.py has more of such inputs, and is run by hand.
"""

import json

import alter
import pytest

SECONDS, MEMORY = 5, 500_000_000
DOTTED = "a" + ".a" * 20_000 + " = 1\n"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def bounded(run):
    """Run a command within the limits; gives what it says."""

    def bounded(*arguments, code):
        done = run(*arguments, code=code)
        assert done.seconds < SECONDS
        assert done.peak < MEMORY
        return done

    return bounded


@pytest.fixture
def plan(run, source):
    """The header of a plan, and the lines behind it."""
    header, *lines = run("depth", source, "--plan").stdout.split("\n")
    return json.loads(header), lines


def test_a_family_file_with_a_long_key(source, bounded, plan, tmp_path):
    family = tmp_path / "family.toml"
    family.write_text(f'{DOTTED}model_types = ["qwen3_moe"]\n')
    done = bounded("inspect", source, "--family", family, code=1)
    assert "20000 dots in one line" in done.stderr
    header, lines = plan
    path = tmp_path / "plan.jsonl"
    path.write_text("\n".join([json.dumps({**header, "family_text": family.read_text()}), *lines]))
    assert "20000 dots in one line" in bounded("inspect", path, code=1).stderr


def test_a_recipe_with_a_long_key(bounded, tmp_path):
    (tmp_path / "recipe.toml").write_text(f"moegrow_recipe = 1\n{DOTTED}")
    assert "20000 dots" in bounded("run", tmp_path / "recipe.toml", "nowhere", code=1).stderr


def test_a_plan_of_more_layers_than_there_may_be(bounded, plan, tmp_path):
    header, _ = plan
    path = tmp_path / "plan.jsonl"
    for count, code in ((200_000, 2), (100_000, 0)):
        growth = {**header["growth"], "layers": [number * 7 % 4 for number in range(count)]}
        path.write_text(json.dumps({**header, "growth": growth}) + "\n")
        bounded("map", path, code=code)


def test_a_plan_of_few_huge_lines(bounded, plan, tmp_path):
    header, _ = plan
    path = tmp_path / "plan.jsonl"
    for size, says in ((15, "malformed"), (17, "the most of a tensor is")):
        with path.open("w") as file:
            file.write(json.dumps({**header, "outputs": 9}) + "\n")
            for _ in range(9):
                file.write('{"x":"\U0001f600' + "a" * (size << 20) + '"}\n')
        assert says in bounded("inspect", path, code=1).stderr
