"""`moegrow report` as a person meets it."""

import json
import os

import alter
import hubserver
import pytest


@pytest.fixture
def grown(run, checkpoint, tmp_path):
    run("depth", checkpoint(), "-o", "grown", "-q")
    return tmp_path / "grown"


def test_a_page_is_written_where_it_is_asked_for_and_its_path_printed(run, grown, tmp_path):
    before = alter.contents(grown)
    assert run("report", grown).stdout == "report.html\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert run("report", "-o", "other.html", stdin=f"{grown}\n").stdout == "other.html\n"
    assert alter.contents(grown) == before


def test_what_is_there_is_kept_unless_force_is_given(run, grown, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    assert "exists already" in run("report", grown, code=1).stderr
    assert (tmp_path / "report.html").read_text() == "mine"
    run("report", grown, "--force")
    assert (tmp_path / "report.html").read_text() != "mine"


def test_nothing_is_written_into_a_checkpoint_or_nowhere(run, grown, checkpoint):
    before = alter.contents(grown)
    assert "is in the checkpoint" in run("report", grown, "-o", checkpoint() / "x", code=1).stderr
    assert not (checkpoint() / "x").exists()
    assert "is in the checkpoint" in run("report", grown, "-o", grown / "x.html", code=1).stderr
    assert "is in the checkpoint" in run("report", ".", cwd=grown, code=1).stderr
    assert "no folder that exists" in run("report", grown, "-o", "no/x.html", code=1).stderr
    assert "is a folder" in run("report", grown, "-o", grown, code=1).stderr
    assert alter.contents(grown) == before


def test_a_result_that_is_not_as_planned_has_a_page_that_says_so_and_fails(run, grown, tmp_path):
    file = next(grown.glob("*.safetensors"))
    alter.flip(file, file.stat().st_size - 1)
    done = run("report", grown, "--verify", "--json", code=1)
    assert json.loads(done.stdout)["ok"] is False
    assert "differs from its plan" in done.stderr
    text = (tmp_path / "report.html").read_text()
    assert 'class="bad"' in text
    assert "differs from its plan" in text


def test_a_folder_that_moegrow_did_not_write_is_refused(run, checkpoint, tmp_path):
    assert "holds no moegrow-plan" in run("report", checkpoint(), code=1).stderr
    assert not (tmp_path / "report.html").exists()


def test_a_source_that_has_moved_is_named(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    run("width", source, "-o", "wide", "-q")
    source.rename(tmp_path / "moved")
    said = run("report", "wide", code=1).stderr
    assert f"report shows the source too, and {source} is gone" in said
    assert "hint: --source names another place that has it" in said
    assert not (tmp_path / "report.html").exists()
    assert run("report", "wide", "--source", "moved").stdout == "report.html\n"
    assert "Before and after" in (tmp_path / "report.html").read_text()


def test_of_a_source_that_is_far_away_a_sample_is_read(run, checkpoint, tmp_path, monkeypatch):
    sizes = {"hidden_size": 128, "moe_intermediate_size": 128}
    with hubserver.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        hub.add("org/base", checkpoint(**sizes))
        run("depth", "org/base", "-o", "grown", "-q")
        run("report", "grown")
    assert (
        "Root mean square of the weights, by a sample of" in (tmp_path / "report.html").read_text()
    )


def test_what_is_no_plain_file_is_not_replaced_by_a_page(run, checkpoint, tmp_path):
    run("depth", checkpoint(), "-o", "grown")
    os.mkfifo(tmp_path / "pipe.html")  # as a device of the machine would be
    for force in ([], ["--force"]):
        assert run("report", "grown", "-o", "pipe.html", *force, code=1).stdout == ""
    assert (tmp_path / "pipe.html").is_fifo()
