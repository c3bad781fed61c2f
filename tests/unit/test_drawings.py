"""The drawings are current, show the maps that moegrow computes, and can be read by everyone."""

import importlib.util
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from repository import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def load():
    """docs/drawings.py as a module; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("drawings", ROOT / "docs" / "drawings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawings = load()
PICTURES = [name for name in drawings.drawings() if name != "favicon.svg"]


def luminance(colour: str) -> float:
    """The relative luminance of a colour by WCAG 2.1, from 0 to 1."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_drawings_in_the_folder_are_those_that_the_script_makes():
    stored = {file.name: file.read_text() for file in drawings.FOLDER.iterdir()}
    assert stored == drawings.drawings(), "run python docs/drawings.py"


def test_every_drawing_is_shown_on_one_page():
    pages = [(ROOT / "docs" / page).read_text() for page in ("concepts.md", "architecture.md")]
    shown = re.findall(r"!\[[^\]]+\]\(drawings/([^)]+)\)", "".join(pages))
    assert sorted(shown) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_drawing_says_what_it_shows_and_its_text_is_large_enough_for_a_phone(name):
    root = ElementTree.fromstring(drawings.drawings()[name])
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc")) > 40
    assert root.get("viewBox").split()[2] == "360"
    assert min(map(float, re.findall(r"font-size:([\d.]+)px", drawings.STYLE))) >= 11
    for text in root.iter(f"{SVG}text"):
        # A generous width for a letter: no line may leave the panel.
        middle = "middle" in text.get("class") or text.get("class") in {"index", "number"}
        width = 7.2 * len(text.text) / (2 if middle else 1)
        assert float(text.get("x")) + width <= drawings.WIDTH, text.text


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("interpose.svg", "00112233"),
        ("stack.svg", "01230123"),
        ("expand.svg", "011233"),
        ("overlap.svg", "012123"),
        ("append.svg", "01230123"),
        ("interleave.svg", "00112233"),
    ],
)
def test_a_drawing_has_the_tiles_of_its_map_in_order(name, below):
    root = ElementTree.fromstring(drawings.drawings()[name])
    tiles = [text for text in root.iter(f"{SVG}text") if text.get("class") == "number"]
    rows = sorted({float(tile.get("y")) for tile in tiles})
    for row, numbers in zip(rows, ("0123", below), strict=True):
        shown = sorted((float(t.get("x")), t.text) for t in tiles if float(t.get("y")) == row)
        assert "".join(number for _, number in shown) == numbers
    indices = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "index"]
    assert indices == [str(i) for i in range(len(below))]


@pytest.mark.parametrize("scheme", [drawings.LIGHT, drawings.DARK])
def test_text_stands_out_in_both_schemes(scheme):
    for kind in ("text", "muted"):
        assert contrast(scheme[kind], scheme["panel"]) >= 4.5
    assert contrast(scheme["edge"], scheme["panel"]) >= 4.5
    for colour in drawings.COLOURS:
        assert contrast(drawings.INK, colour) >= 4.5


# Colours as they are seen without one kind of cones, for linear RGB (Viénot, Brettel, Mollon 1999).
PROTAN = ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1))
DEUTAN = ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1))


@pytest.mark.parametrize("matrix", [PROTAN, DEUTAN])
def test_the_colours_differ_for_colour_blind_readers(matrix):
    def seen(colour):
        rgb = [(int(colour[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5)]
        linear = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in matrix)
        return [max(value, 0) ** (1 / 2.2) for value in linear]

    for a, b in combinations(drawings.COLOURS, 2):
        far = sum((x - y) ** 2 for x, y in zip(seen(a), seen(b), strict=True)) ** 0.5
        assert far > 0.1, (a, b)
