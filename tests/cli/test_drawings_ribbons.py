"""The drawing of a growth: a ribbon for each run, and text that can be read at half the size."""

import re
import shutil
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from moegrow.analysis import drawings
from moegrow.analysis.lineage import runs

SVG = "{http://www.w3.org/2000/svg}"


def drawn(run, tmp_path, *arguments, stdin):
    assert run("map", *arguments, "--svg", "map.svg", stdin=stdin).stderr == "drawn: map.svg\n"
    return ElementTree.parse(tmp_path / "map.svg").getroot()


def test_there_is_a_ribbon_for_each_run_of_each_axis(run, checkpoint, tmp_path):
    plan = run("depth", checkpoint(), "--mode", "stack", "--plan").stdout
    plan = run("width", "--order", "interleave", "--plan", stdin=plan).stdout
    root = drawn(run, tmp_path, stdin=plan)
    ribbons_of = [path for path in root.iter(f"{SVG}path") if path.get("fill-opacity")]
    assert len(ribbons_of) == 2 + 8
    said = {text.text for text in root.iter(f"{SVG}text")}
    assert {"4 old layers, and 8 new ones below", "4 old experts, and 8 new ones below"} <= said
    assert {"as it was", "a copy", "a copy with noise"} <= said
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}desc") == "4 layers become 8. 4 experts become 8."


def test_text_is_large_enough_to_be_read_at_half_the_size():
    assert min(map(float, re.findall(r"font-size:([\d.]+)px", drawings._STYLE))) >= 15


@pytest.mark.parametrize("count", [1, 2, 9, 96, 512, 3000])
def test_numbers_along_a_bar_do_not_run_into_each_other(count):
    unit = 640 / count
    ticks = [
        (float(x), number)
        for tick in drawings._ticks(count, 40, unit, 0)
        for x, number in re.findall(r'x="([\d.]+)".*>(\d+)<', tick)
    ]
    assert ticks[0][1] == "0"
    assert ticks[-1][1] == str(count - 1)
    for (x, number), (other, following) in pairwise(ticks):
        assert other - x > 9 * (len(number) + len(following)) / 2


def test_a_name_from_a_stranger_is_escaped(checkpoint):
    import moegrow
    from moegrow.analysis.lineage import axes

    plan = moegrow.depth(checkpoint())
    root = ElementTree.fromstring(drawings.drawing("<script>&", [axes(plan)[0]]))
    assert "<script>&" in {text.text for text in root.iter(f"{SVG}text")}
    assert len(runs(axes(plan)[0])) == 8


def test_a_name_that_would_steer_a_terminal_leaves_a_whole_drawing(run, checkpoint, tmp_path):
    source = shutil.copytree(checkpoint(), tmp_path / "a\x1b[31m<b>&\nb")
    run("map", "--svg", "map.svg", stdin=run("depth", source, "--plan").stdout)
    drawn = (tmp_path / "map.svg").read_text()
    assert r"grown from a\x1b[31m&lt;b&gt;&amp;\nb" in drawn
    ElementTree.fromstring(drawn)
