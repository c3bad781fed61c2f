"""Recipes that ship with moegrow say what the papers did, and are found by name."""

import pytest

import moegrow
from moegrow.errors import MoegrowError
from moegrow.growth import Noise
from moegrow.recipes import cookbook
from moegrow.recipes.recipe import to_toml

ORTHOGONAL = Noise("normal", 0.01, 0)


@pytest.mark.parametrize(
    ("name", "settings", "layers", "experts", "top_k", "noise", "router"),
    [
        ("orthogonal", {}, [0, 0, 1, 1, 2, 2, 3, 3], 8, 4, ORTHOGONAL, ORTHOGONAL),
        ("orthogonal-depth", {}, [0, 0, 1, 1, 2, 2, 3, 3], 4, 2, None, None),
        ("orthogonal-width", {}, [0, 1, 2, 3], 8, 4, ORTHOGONAL, ORTHOGONAL),
        ("upcycling", {}, [0, 1, 2, 3], 8, 2, None, Noise("uniform", 1e-3, 0)),
        ("g-stack", {}, [0, 1, 2, 3, 0, 1, 2, 3], 4, 2, None, None),
        ("llama-pro", {}, [0, 1, 2, 3, 3], 4, 2, None, None),
        ("solar", {"num_hidden_layers": 12}, [0, 1, 2, 3, 8, 9, 10, 11], 4, 2, None, None),
    ],
)
def test_a_recipe_that_ships_does_what_its_paper_did(
    checkpoint, name, settings, layers, experts, top_k, noise, router
):
    growth = moegrow.run(checkpoint(**settings), name).growth
    assert list(growth.layers) == layers
    assert any(growth.silent) == (name == "llama-pro")
    assert (len(growth.experts), growth.top_k) == (experts, top_k)
    assert growth.weight_noise[-1] == noise
    assert growth.router_noise[-1] == router


def test_every_recipe_that_ships_says_what_it_is_and_by_whom():
    assert len(cookbook.shipped()) == 7
    for name, recipe in cookbook.shipped().items():
        assert recipe.about
        assert recipe.paper
        assert recipe.paper.startswith("arXiv ")
        assert (recipe.source, recipe.output, recipe.seed) == (None, None, None), name


def test_a_file_is_read_and_a_name_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = cookbook.open_recipe("solar")
    (tmp_path / "mine.toml").write_text(to_toml(recipe))
    (tmp_path / "solar").write_text("")
    assert cookbook.open_recipe("mine.toml") == recipe
    assert cookbook.open_recipe(tmp_path / "mine.toml") == recipe
    assert cookbook.open_recipe("solar") == recipe


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("solr", "there is no recipe 'solr'", "did you mean solar?"),
        ("x.toml", "x.toml is not a file", ""),
        ("./solar", "solar is not a file", ""),
    ],
)
def test_a_recipe_that_is_not_there_is_refused(name, says, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MoegrowError, match=says) as refused:
        cookbook.open_recipe(name)
    assert hint in refused.value.hint
