"""A growth that is written down is reviewed and repeated like code."""

import json
import tomllib

import alter
import pytest

from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD
from moegrow.recipes import cookbook

# They say by which command the result came about, which is another one; so do their digests.
SAY_HOW = {CARD, PLAN, DIGESTS}

RECIPE = """
moegrow_recipe = 1
source = "qwen3_moe"
output = "by-recipe"
seed = 5

[[step]]
grow = "width"
experts = 6
noise = 0.02

[[step]]
grow = "depth"
mode = "expand"
every = 2
"""


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def weights(folder):
    return {name: data for name, data in alter.contents(folder).items() if name not in SAY_HOW}


def test_a_recipe_gives_the_same_bytes_as_the_commands(run, source, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert run("run", "recipe.toml").stdout == "by-recipe\n"
    plan = run("width", source, "--experts", "6", "--noise", "0.02", "--seed", 5, "--plan").stdout
    run("depth", "--mode", "expand", "--every", 2, "-o", "by-hand", stdin=plan)
    assert weights(tmp_path / "by-recipe") == weights(tmp_path / "by-hand")
    run("verify", "by-recipe")


@pytest.mark.parametrize("name", sorted(cookbook.texts()))
def test_a_recipe_that_ships_runs_by_its_name(run, checkpoint, tmp_path, name):
    source = checkpoint(num_hidden_layers=12)
    run("run", name, source, "-o", "grown", "-q")
    run("verify", "grown")


def test_flags_override_what_a_recipe_says(run, source, checkpoint, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("seed", 'max_shard_size = "30KB"\nseed'))
    assert run("run", "recipe.toml", "-q").stdout == "by-recipe\n"
    assert len(list((tmp_path / "by-recipe").glob("*.safetensors"))) > 3
    flags = ["-o", "other", "--seed", "9", "--max-shard-size", "5GB", "--plan"]
    header = json.loads(run("run", "recipe.toml", *flags[2:]).stdout.splitlines()[0])
    assert header["growth"]["weight_noise"] == [[4, 6, "normal", 0.02, 9]]
    run("run", "recipe.toml", checkpoint(), *flags[:-1], "-q")
    assert len(list((tmp_path / "other").glob("*.safetensors"))) == 1


def test_paths_of_a_recipe_begin_where_the_command_runs(run, source, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "recipe.toml").write_text(RECIPE)
    run("run", "kept/recipe.toml", "-q")
    assert (tmp_path / "by-recipe").is_dir()
    assert not (tmp_path / "kept" / "by-recipe").exists()


def test_a_command_writes_its_recipe_down(run, source, tmp_path):
    run("width", source, "--experts", "3x", "--noise", "0.1", "-o", "one", "-q",
        "--max-shard-size", "100KB", "--save-recipe", "recipe.toml")  # fmt: skip
    saved = tomllib.loads((tmp_path / "recipe.toml").read_text())
    assert (saved["source"], saved["output"]) == ("qwen3_moe", "one")
    run("run", "recipe.toml", "-o", "two", "-q")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_pipe_writes_down_both_of_its_steps(run, source, tmp_path):
    plan = run("depth", "--mode", "stack", source, "--plan").stdout
    run("width", "--top-k", "keep", "-o", "one", "-q", "--save-recipe", "r.toml", stdin=plan)
    steps = tomllib.loads((tmp_path / "r.toml").read_text())["step"]
    assert [step["grow"] for step in steps] == ["depth", "width"]
    run("run", "r.toml", "-o", "two", "-q")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_recipe_can_be_kept_with_a_plan_alone(run, source, tmp_path):
    plan = run("depth", source, "--plan", "--save-recipe", "r.toml").stdout
    again = run("run", "r.toml", "--plan").stdout
    assert plan.splitlines()[1:] == again.splitlines()[1:]
    assert not (tmp_path / "qwen3_moe-depth2x").exists()


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["depth", "qwen3_moe", "--save-recipe", "there.toml"], "there.toml exists already", 1),
        (["depth", "qwen3_moe", "--save-recipe", "no/r.toml"], "is in no folder that exists", 1),
        (["depth", "qwen3_moe", "--save-recipe", "r.toml", "--dry-run"], "--dry-run writes", 2),
        (["run", "solr", "qwen3_moe"], "there is no recipe 'solr'", 1),
        (["run", "there.toml"], "moegrow_recipe is None", 1),
        (["recipes", "solr"], "there is no recipe 'solr'", 1),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    run, source, tmp_path, arguments, says, code
):
    (tmp_path / "there.toml").write_text("")
    before = alter.contents(tmp_path)
    done = run(*arguments, code=code)
    assert says in done.stderr
    assert alter.contents(tmp_path) == before


def test_a_plan_of_an_older_moegrow_has_no_recipe_to_save(run, source, tmp_path):
    header, *lines = run("depth", source, "--plan").stdout.splitlines()
    table = json.loads(header)
    del table["recipe"]
    plan = "\n".join([json.dumps(table), *lines])
    done = run("width", "--save-recipe", "r.toml", stdin=plan, code=1)
    assert "does not say by which steps" in done.stderr
    run("width", "-o", "grown", "-q", stdin=plan)
    assert "as a recipe" not in (tmp_path / "grown" / "README.md").read_text()


def test_recipes_are_listed_with_their_papers(run):
    lines = run("recipes").stdout.splitlines()
    assert len(lines) == len(cookbook.texts())
    assert all("(arXiv " in line for line in lines)
    assert run("recipes", "solar").stdout == cookbook.texts()["solar"]
    assert json.loads(run("recipes", "--json").stdout)["solar"]["paper"] == "arXiv 2312.15166"


# The commands that the model card shows


def commands_of(folder):
    card = (folder / "README.md").read_text()
    return card.partition("```console\n")[2].partition("```")[0]


def test_the_card_shows_a_pipe_as_a_pipe_and_files_as_files(run, source, tmp_path):
    plan = run("depth", source, "--plan").stdout
    run("width", "-o", "piped", "-q", stdin=plan)
    assert commands_of(tmp_path / "piped") == (
        f"$ moegrow depth {source} --plan | moegrow width -o piped -q\n"
    )
    (tmp_path / "plan.jsonl").write_text(plan)
    run("width", "plan.jsonl", "-o", "kept", "-q")
    assert commands_of(tmp_path / "kept") == (
        f"$ moegrow depth {source} --plan > plan.jsonl\n$ moegrow width plan.jsonl -o kept -q\n"
    )
    run("apply", "plan.jsonl", "-o", "applied", "-q")
    assert commands_of(tmp_path / "applied") == (
        f"$ moegrow depth {source} --plan > plan.jsonl\n$ moegrow apply plan.jsonl -o applied -q\n"
    )
    run("width", "-q", stdin="applied\n")
    assert commands_of(tmp_path / "applied-width2x") == "$ moegrow width -q applied\n"
