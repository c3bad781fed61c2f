"""Norms as text: tables that need no colour, and CSV that others read."""

import csv
import io
import os
import shutil
import subprocess
import sys

import alter
import terminals
from conftest import MOEGROW

from moegrow.analysis import norm_profile, norms_text, seams
from moegrow.planning.open_source import load


def test_a_table_has_a_row_for_each_layer_and_a_mark_where_there_is_nothing(run, checkpoint):
    said = run("norms", checkpoint("deepseek_v3")).stdout
    rows = [line.split() for line in said.splitlines()]
    heading = next(row for row in rows if row[:1] == ["layer"])
    assert heading == ["layer", "experts", "shared", "dense", "attention", "router", "norms"]
    first, second = (next(row for row in rows if row[:1] == [number]) for number in "01")
    assert first[1:3] == ["-", "-"]
    assert second[4] == "-"
    assert "\x1b" not in said


def test_csv_holds_every_digit(run, checkpoint):
    said = run("norms", checkpoint("deepseek_v3"), checkpoint(), "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [row["source"] for row in rows] == ["deepseek_v3"] * 4 + ["qwen3_moe"] * 4
    found = norm_profile.of(load(str(checkpoint("deepseek_v3")))).norms
    assert float(rows[1]["experts"]) == found["experts"][1]
    assert rows[0]["experts"] == rows[1]["dense"] == ""


def test_where_only_ascii_can_be_shown_bars_are_ascii(checkpoint):
    done = subprocess.run(
        [sys.executable, "-m", "moegrow", "norms", checkpoint()], capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert b"#" * 16 in done.stdout
    assert b"\\u" not in done.stdout


def test_norms_that_are_all_alike_make_bars_of_half_the_length():
    assert norms_text.bar((1.0, 1.0), 0, plain=True) == "#" * 8
    assert norms_text.curve((1.0, 1.0)) == "▅▅"
    assert norms_text.curve((None, None)) == "  "


def test_csv_and_json_are_not_printed_together(run, checkpoint):
    assert "--csv and --json" in run("norms", checkpoint(), "--csv", "--json", code=2).stderr


def test_a_plan_that_is_piped_in_is_shown_as_what_it_will_make(run, checkpoint):
    plan = run("depth", checkpoint(), "--plan").stdout
    said = run("norms", stdin=plan).stdout
    assert said.startswith("qwen3_moe-depth2x: 8 layers, predicted from its plan")


def test_csv_names_sources_apart_and_harmlessly(run, checkpoint, tmp_path):
    places = [tmp_path / folder / "a\x1b[31m\nb" for folder in ("one", "two")]
    for place in places:
        shutil.copytree(checkpoint(), place)
    said = run("norms", *places, "--csv").stdout
    assert "\x1b" not in said
    found = [row["source"] for row in csv.DictReader(io.StringIO(said))]
    assert set(found) == {"one/a\\x1b[31m\\nb", "two/a\\x1b[31m\\nb"}
    assert len(found) == 8
    told = run("norms", *places).stdout
    assert "one/a\\x1b[31m\\nb: 4 layers" in told
    assert "\x1b" not in told


def test_what_was_left_out_is_counted_in_values(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["model.layers.2.mlp.gate.weight"][0, :5] = float("nan")
    said = run("norms", source).stdout
    assert (
        "left out: 5 values that are NaN or infinite, in model.layers.2.mlp.gate.weight\n" in said
    )
    with alter.weights(source) as tensors:
        tensors["model.layers.1.mlp.gate.weight"][0, :5] = float("inf")
    assert "in model.layers.{1-2}.mlp.gate.weight (2 tensors)\n" in run("norms", source).stdout


def long_profile(layers):
    norms = {"experts": tuple(range(layers)), "norms": (1.0,) * layers}
    return norm_profile.Profile("a-model", "/a", "qwen3_moe", layers, norms, {}, False, 1, 1, 1, 1)


def test_a_curve_of_many_layers_fits_into_a_terminal_and_says_that_it_was_made_to():
    wide, narrow = (norms_text.curves(long_profile(94), width) for width in (None, 60))
    assert len(wide[0]) > 94
    assert len(wide) == 2
    assert max(map(len, narrow)) <= 60
    drawn = narrow[0].split()[2]
    assert list(drawn) == sorted(drawn)
    (said,) = narrow[2:]
    assert said == f"(a mark is the mean of {94 / len(drawn):.1f} layers)"


def test_a_table_that_is_too_wide_goes_without_bars(checkpoint):
    found = norm_profile.of(load(str(checkpoint("deepseek_v3"))))
    wide, narrow = (norms_text.table(found, width=width).splitlines() for width in (80, 60))
    assert max(map(len, wide)) <= 80
    assert max(map(len, narrow)) <= 60
    assert any("█" * 16 in line for line in wide)
    assert not any("█" * 16 in line for line in narrow)
    assert [line.split()[0] for line in narrow[-4:]] == ["0", "1", "2", "3"]
    assert norms_text.table(found).splitlines() == wide


def test_ways_side_by_side_fit_into_a_terminal(checkpoint):
    opened = load(str(checkpoint("deepseek_v3")))
    found = norm_profile.of(opened)
    its = seams.ways(opened, found)
    for width, columns in ((100, ["layers", "seams"]), (85, ["layers"]), (80, [])):
        lines = norms_text.ways_table(found, its, width=width).splitlines()
        assert max(map(len, lines)) <= width
        heads = next(line.split() for line in lines if line.split()[-2:] == ["router", "norms"])
        assert heads[: -len(found.norms)] == columns


def test_a_terminal_is_asked_for_its_width(checkpoint):
    said = terminals.printed(*MOEGROW, "norms", checkpoint("deepseek_v3"), columns=60)
    assert max(map(len, said.splitlines())) <= 60
    assert "attention  router" in said
