"""Norms as text: tables that need no colour, and CSV that others read."""

import csv
import io
import os
import subprocess
import sys

from moegrow.analysis import profiles, sketches
from moegrow.planning.opened import load


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
    found = profiles.of(load(str(checkpoint("deepseek_v3")))).norms
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
    assert sketches.bar((1.0, 1.0), 0, plain=True) == "#" * 8
    assert sketches.curve((1.0, 1.0)) == "▅▅"
    assert sketches.curve((None, None)) == "  "


def test_csv_and_json_are_not_printed_together(run, checkpoint):
    assert "--csv and --json" in run("norms", checkpoint(), "--csv", "--json", code=2).stderr


def test_a_plan_that_is_piped_in_is_shown_as_what_it_will_make(run, checkpoint):
    plan = run("depth", checkpoint(), "--plan").stdout
    said = run("norms", stdin=plan).stdout
    assert said.startswith("qwen3_moe-depth2x: 8 layers, predicted from its plan")
