"""The pictures of docs/looking.md are made by a script that runs, and are those that are shown."""

import importlib.util
import re

from repository import DOCS


def load():
    """docs/pictures.py as a module; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_every_picture_that_the_page_shows(tmp_path):
    pictures = load()
    pictures.make(tmp_path)
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", (DOCS / "looking.md").read_text())
    made = {file.name for file in tmp_path.iterdir()}
    assert made == set(shown) == {file.name for file in pictures.FOLDER.iterdir()}
    # What matplotlib draws differs with its version and the fonts there are.
    assert (tmp_path / "map.svg").read_bytes() == (pictures.FOLDER / "map.svg").read_bytes()
    assert (tmp_path / "seams.png").stat().st_size > 50_000
