"""Pictures of norms: whole files of the kind that their name says, for everybody to read."""

import shutil
import struct
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from moegrow.analysis import norm_profile, norms_plot
from moegrow.errors import MoegrowError
from moegrow.planning.open_source import load

SVG = "{http://www.w3.org/2000/svg}"


def test_a_png_is_an_image_wide_enough_to_be_halved(run, checkpoint, tmp_path):
    done = run("norms", checkpoint(), checkpoint("deepseek_v3"), "--plot", "both.png", "--json")
    assert done.stderr == "drawn: both.png\n"
    image = (tmp_path / "both.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", image[16:24])
    assert width >= 1200
    assert height >= 600


def test_an_svg_is_the_same_each_time_and_has_a_panel_for_each_kind(checkpoint, tmp_path):
    opened = load(str(checkpoint("deepseek_v3")))
    found = [norm_profile.of(opened), norm_profile.of(opened, sample=True)]
    for name in ("a.svg", "b.svg"):
        norms_plot.draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    panels = [it for it in root.iter(f"{SVG}g") if it.get("id", "").startswith("axes_")]
    assert len(panels) == len(found[0].norms) == 6


def test_lines_differ_in_more_than_colour():
    first = len(norms_plot._COLOURS)
    assert len(set(norms_plot._COLOURS)) == len(set(norms_plot._MARKS)) == first
    ways = {(norms_plot._MARKS[i % 7], str(norms_plot._DASHES[i % 4])) for i in range(28)}
    assert len(ways) == 28


def test_names_that_would_be_read_as_formulas_are_drawn_as_they_are(checkpoint, tmp_path):
    found = norm_profile.of(load(str(checkpoint())))
    odd = [replace(found, name=name) for name in ("$x_{", "_hidden", "a\\b^")]
    norms_plot.draw(odd, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 10_000


@pytest.mark.parametrize("target", ["norms.pdf", "norms", "missing/norms.png"])
def test_what_could_not_be_drawn_is_refused_before_weights_are_read(run, checkpoint, target):
    done = run("norms", checkpoint(), "--plot", target, code=None)
    assert done.returncode in (1, 2)
    assert "error: --plot" in done.stderr
    assert not done.stdout


def test_without_matplotlib_the_hint_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MoegrowError) as error:
        norms_plot.check()
    assert error.value.hint == "pip install 'moegrow[plot]'"


def test_strangers_names_are_drawn_without_a_word_and_leave_a_whole_svg(run, checkpoint, tmp_path):
    names = ["a\x1b[31m<b>&'$x$", "new\nline", "模型", "n" * 200]
    for name in names:
        shutil.copytree(checkpoint(), tmp_path / name)
    done = run("norms", *names, "--plot", "odd.svg", "--csv")
    assert done.stderr == "drawn: odd.svg\n"
    assert b"\x1b" not in (tmp_path / "odd.svg").read_bytes()
    ElementTree.parse(tmp_path / "odd.svg")


def test_labels_are_short_enough_for_two_to_stand_beside_each_other(checkpoint):
    found = norm_profile.of(load(str(checkpoint())))
    given = [replace(found, name=name) for name in ("n" * 200, "模" * 40, "short")]
    assert norms_plot._named(given)[0].count("n") == norms_plot.LONGEST - 1
    assert max(map(len, norms_plot._named(given))) == norms_plot.LONGEST
    assert norms_plot._named(given)[1].startswith(r"\u6a21")


def test_what_others_are_drawn_over_is_broad(checkpoint):
    found = norm_profile.of(load(str(checkpoint())))
    predicted = replace(found, is_predicted=True)
    rows = ((found, found, found), (found, predicted, found, predicted), (predicted, found))
    assert [[norms_plot._is_below(row, number) for number in range(len(row))] for row in rows] == [
        [True, False, False], [True, False, True, False], [True, False],
    ]  # fmt: skip
