"""What is tried in serving engines is measured rightly, and docs/serving.md has all of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import alter
import measure
import numpy as np
import prepare
import pytest
import table
from repository import DOCS

FOLDER = Path(measure.__file__).parent
PAGE = DOCS / "serving.md"


def printed(script, *arguments):
    command = [sys.executable, FOLDER / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What becomes of gpt_oss in transformers, and of a copy in which two results are altered."""
    work = tmp_path_factory.mktemp("engines") / "work"
    prepare.prepare("gpt_oss", work)
    altered = work / "altered"
    shutil.copytree(work / "gpt_oss", altered)
    with alter.table(altered / "identity" / "config.json") as config:
        kinds = ["sliding_attention", "full_attention"] * 4
        assert config["layer_types"] != kinds
        config["layer_types"] = kinds
    (altered / "periods" / "config.json").write_text('{"vocab_size": 512}')
    with alter.table(altered / "case.json") as operations:
        del operations["width"], operations["keep"]
    _, *rows = map(json.loads, printed("with_transformers.py", work).splitlines())
    return {(row["model"], row["operation"]): row for row in rows}


def test_transformers_as_an_engine_computes_the_same_for_sources_and_results(rows):
    for operation in ("source", *table.CASES["operations"]):
        row = rows["gpt_oss", operation]
        assert row["outcome"] == "ran"
        assert row["same tokens"]
        assert row["nats"] <= measure.EQUAL


def test_windows_where_an_engine_puts_them_that_reads_no_list_are_seen(rows):
    assert rows["altered", "source"]["nats"] <= measure.EQUAL
    assert rows["altered", "identity"]["nats"] > 1


def test_the_message_of_what_is_refused_is_kept(rows):
    assert rows["altered", "periods"]["outcome"] == "refused"
    assert rows["altered", "periods"]["message"] == "KeyError: 'architectures'"


def test_the_prompts_are_longer_than_every_window():
    window = table.CASES["sizes"]["sliding_window"]
    lengths = [len(prompt) for prompt in measure.prompts(512)]
    assert min(lengths) > window
    assert max(lengths) < table.CASES["sizes"]["max_position_embeddings"]


def test_a_distance_is_the_largest_difference_of_two_log_probabilities():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    ours = measure.Answers([measure.logprobs(logits + 3)], [[1]])
    theirs = measure.Answers([np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])], [[1]])
    assert measure.distance(ours, ours) == 0
    assert measure.distance(ours, theirs) == pytest.approx(np.log(2))


ROWS = {
    "right": ({"outcome": "ran", "expects": "source", "nats": 2e-6}, "equal"),
    "wrong": ({"outcome": "ran", "expects": "source", "nats": 3.6}, "**off by 3.6**"),
    "rounded": ({"outcome": "ran", "expects": "source", "nats": 1.5e-5}, "1.5e-05"),
    "refused": ({"outcome": "refused", "message": "no"}, "**refused**"),
    "other": ({"outcome": "ran", "expects": "transformers", "nats": 2.0}, "differs by 2"),
    "alike": ({"outcome": "ran", "expects": "transformers", "nats": 2e-4}, "agrees"),
    "not grown": ({"outcome": "not grown", "message": ""}, "refused by moegrow"),
}


@pytest.mark.parametrize(("row", "cell"), ROWS.values(), ids=ROWS)
def test_a_cell_says_what_became_of_a_result(row, cell):
    source = {"outcome": "ran", "expects": "transformers", "nats": 2e-5}
    rows = {("E", "source", "m"): source, ("E", "width", "m"): row}
    assert table.cell(rows, "E", "width", "m") == cell


@pytest.mark.parametrize(
    ("source", "result", "cells"),
    [
        ({"outcome": "refused", "message": ""}, {"outcome": "not tried"}, ("not taken", "–")),
        (
            {"outcome": "ran", "expects": "transformers", "nats": 2.0},
            {"outcome": "ran", "expects": "transformers", "nats": 2.0},
            ("differs by 2", "as its source"),
        ),
    ],
)
def test_faults_of_the_source_are_not_those_of_the_result(source, result, cells):
    rows = {("E", "source", "m"): source, ("E", "keep", "m"): result}
    assert table.cell(rows, "E", "source", "m") == cells[0]
    assert table.cell(rows, "E", "keep", "m") == cells[1]


def test_the_page_has_the_tables_of_the_results():
    shown = table.markdown(FOLDER / "results")
    assert shown in PAGE.read_text(), "put in what python tests/engines/table.py prints"


def test_the_page_names_every_script_and_its_installation():
    page = PAGE.read_text()
    for script in sorted(FOLDER.glob("with_*.py")):
        assert f"tests/engines/{script.name}" in page
        installs = [line for line in script.read_text().splitlines() if "pip install" in line]
        assert installs
        for line in installs:
            assert line.split("pip install", 1)[1].strip() in page
