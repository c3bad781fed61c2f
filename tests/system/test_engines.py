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
import stored_formats
import table
import tiny
import torch
from repository import DOCS
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

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


HEAD = {"engine": "E", "date": "2026-01-02", "versions": {"e": "1"}}


def lines_of(path):
    return [line for run in measure.runs(path) for line in run]


def test_a_run_takes_the_place_of_what_earlier_runs_had_of_its_models(tmp_path):
    path = tmp_path / "e.jsonl"
    old, new = HEAD, HEAD | {"versions": {"e": "2"}, "made with": {"moegrow": "3"}}
    one, other, again = (
        {"model": model, "operation": "source", "command": "", "outcome": outcome}
        for model, outcome in (("one", "ran"), ("other", "ran"), ("one", "refused"))
    )
    measure.keep([old, one, other], path)
    assert lines_of(path) == [old, one, other]
    measure.keep([new, again], path)
    assert lines_of(path) == [old, other, new, again]
    shown, rows = table.read(tmp_path)
    assert len(shown) == 2
    assert rows["E", "source", "one"] == again
    measure.keep([new, other], path)
    assert lines_of(path) == [new, again, other]


def test_every_result_is_of_a_model_and_a_command_of_cases_toml():
    for (_, operation, model), row in table.read(FOLDER / "results")[1].items():
        assert row["command"] == prepare.commands(model)[operation][0]


def test_experts_stored_in_mxfp4_are_read_by_transformers_as_they_were(checkpoint, tmp_path):
    folder = alter.copy(checkpoint("gpt_oss", intermediate_size=32), tmp_path)
    old = tiny.tensors(folder)
    stored_formats.in_mxfp4(folder)
    new = tiny.tensors(folder)
    experts = [name for name in old if name.endswith(("gate_up_proj", "down_proj"))]
    assert experts
    for name in experts:
        packed = (new[f"{name}_blocks"], new[f"{name}_scales"])
        found = convert_moe_packed_tensors(*packed, dtype=torch.float32)
        assert (found - old[name]).norm() < 0.2 * old[name].norm()


def test_matrices_stored_in_fp8_are_as_they_were_within_three_bits(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored_formats, "BLOCK", 8)
    folder = alter.copy(checkpoint("qwen3_moe"), tmp_path)
    old = tiny.tensors(folder)
    stored_formats.in_fp8_blocks(folder)
    new = tiny.tensors(folder)
    scaled = [name for name in new if name.endswith("_scale_inv")]
    assert scaled
    for scales in scaled:
        name = scales.removesuffix("_scale_inv")
        factors = new[scales].repeat_interleave(8, 0).repeat_interleave(8, 1)
        found = new[name].float() * factors
        assert ((found - old[name]).abs() <= old[name].abs() / 16 + factors / 512).all()


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
