"""Find recipes by the name of a shipped one, or by a file."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from moegrow.checkpoint.locate import user_path
from moegrow.errors import MoegrowError, choose
from moegrow.recipes.recipe import LARGEST, Recipe, read_recipe


def open_recipe(name: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file, or the one of this name that ships with moegrow.

    A text without a slash that does not end in .toml is a name. Raises MoegrowError with the
    names that there are where it is none of them.
    """
    text = os.fspath(name)
    if isinstance(name, str) and "/" not in text and not text.endswith(".toml"):
        if text not in shipped():
            raise MoegrowError(
                f"there is no recipe {text!r}",
                choose(
                    text, shipped(), "moegrow recipes lists them; a recipe's file ends in .toml"
                ),
            )
        return shipped()[text]
    path = user_path(text)
    if not path.is_file():
        raise MoegrowError(f"{path} is not a file", "give a recipe's file or name")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    return read_recipe(content.decode("utf-8", "replace"), str(path))


@cache
def texts() -> Mapping[str, str]:
    """The text of each recipe that ships, by its name."""
    found = [entry for entry in files("moegrow.recipes").iterdir() if entry.name.endswith(".toml")]
    named = {entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in found}
    return dict(sorted(named.items()))


@cache
def shipped() -> Mapping[str, Recipe]:
    """Each recipe that ships, by its name."""
    return {name: read_recipe(text, f"the recipe {name}") for name, text in texts().items()}
