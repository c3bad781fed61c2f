"""Seams: how far norms jump where layers are joined, held against profiles that are known."""

import json
from itertools import pairwise
from statistics import median

import alter
import hubserver
import pytest
import tiny

import moegrow
from moegrow.analysis import norm_profile, seams
from moegrow.planning.open_source import load

# The profile of the 3B model of arXiv 2510.08008 at its ends, evenly rising between.
PAPER = tuple(0.0323 + layer * (0.0356 - 0.0323) / 19 for layer in range(20))


def test_stacking_makes_a_cliff_and_interposing_none():
    (cliff,) = seams.jumps(PAPER, tuple(range(20)) * 2)
    assert (cliff.new, cliff.old) == ((19, 20), (19, 0))
    assert cliff.size == pytest.approx(0.0033)
    assert cliff.times == pytest.approx(19)
    flat = list(seams.jumps(PAPER, tuple(layer for layer in range(20) for _ in "12")))
    assert len(flat) == 20
    assert {jump.size for jump in flat} == {0}


def test_layers_without_a_norm_are_passed_over():
    norms = (None, 1.0, None, 2.0)
    assert list(seams.jumps(norms, (0, 1, 2, 3))) == []
    (jump,) = seams.jumps(norms, (0, 1, 2, 3, 0, 1, 2, 3))
    assert (jump.new, jump.old, jump.times) == ((3, 5), (3, 1), 1)


def test_where_neighbours_are_alike_no_number_of_steps_is_given():
    (jump,) = seams.jumps((1.0, 1.0, 1.0), (0, 1, 2, 0, 1, 2))
    assert jump.times is None


@pytest.fixture
def rising(checkpoint, tmp_path):
    """A model of ten layers whose norms rise from layer to layer."""
    source = alter.copy(checkpoint(num_hidden_layers=10), tmp_path)
    with alter.weights(source) as tensors:
        for name in tensors:
            if ".experts." in name:
                tensors[name] = tensors[name] * (1 + 0.1 * int(name.split(".")[2]))
    return source


def test_the_modes_are_shown_side_by_side(run, rising):
    found = json.loads(run("norms", rising, "--seams", "--json").stdout)["profiles"][0]
    by_options = {its["options"]: its for its in found["seams"]}
    assert list(by_options) == [
        "--mode interpose", "--mode stack", "--mode expand --every 4", "--mode overlap --drop 2",
    ]  # fmt: skip
    stack = by_options["--mode stack"]["largest"]["experts"]
    experts = found["norms"]["experts"]
    steps = [abs(b - a) for a, b in pairwise(experts)]
    assert stack["times"] == pytest.approx((experts[9] - experts[0]) / median(steps))
    assert stack["times"] > 8
    assert by_options["--mode interpose"]["largest"]["experts"]["times"] == 0
    said = run("norms", rising, "--seams").stdout
    assert "--mode stack: experts jump between layers 9 and 10, from 9 and 0" in said


def test_the_jump_is_that_of_the_grown_model(run, rising, tmp_path):
    run("depth", "--mode", "stack", rising, "-o", "deep", "-q")
    experts = moegrow.norms(tmp_path / "deep").norms["experts"]
    plan = run("depth", "--mode", "stack", rising, "--plan").stdout
    found = json.loads(run("norms", "--seams", "--json", stdin=plan).stdout)["profiles"][0]
    (planned,) = found["seams"]
    assert planned["options"] == "as planned"
    assert planned["largest"]["experts"]["size"] == pytest.approx(experts[9] - experts[10])


def test_a_mode_that_the_config_cannot_express_is_shown_as_the_first_that_it_can(run, checkpoint):
    found = json.loads(run("norms", checkpoint("deepseek_v3"), "--seams", "--json").stdout)
    stack = found["profiles"][0]["seams"][1]
    assert stack["options"] == "--mode stack --keep-first 1"
    assert stack["layers"] == [0, 1, 2, 3, 1, 2, 3]
    in_groups = checkpoint("jamba", num_hidden_layers=8)
    found = json.loads(run("norms", in_groups, "--seams", "--json").stdout)
    assert found["profiles"][0]["seams"][0]["options"] == "--mode interpose --group 4"


def test_a_mode_that_the_config_cannot_express_at_all_is_refused_with_its_reason(run, checkpoint):
    done = run("norms", checkpoint("jamba"), "--seams")
    assert "--mode interpose is refused: config.json can only say" in done.stdout
    assert "--mode stack: experts jump between" in done.stdout


def test_copies_in_a_grown_model_do_not_make_its_usual_step_nothing(checkpoint, tmp_path):
    source = checkpoint(num_hidden_layers=8)
    moegrow.apply(moegrow.depth(str(source)), tmp_path / "grown")
    before, after = (moegrow.norms(its).norms["experts"] for its in (source, tmp_path / "grown"))
    assert seams.usual_step(after) == seams.usual_step(before) > 0
    assert median(abs(b - a) for a, b in pairwise(after)) == 0


def test_a_dry_run_says_in_a_line_how_far_norms_jump(run, rising, tmp_path):
    said = run("depth", "--mode", "stack", rising, "--dry-run").stderr
    (line,) = (line for line in said.splitlines() if line.startswith("seams: "))
    assert "layers 9 and 10, from 9 and 0; norms of experts" in line
    assert "of the weights read" in line
    assert "seams: no jump: " in run("depth", rising, "--dry-run").stderr
    assert "seams" not in run("width", rising, "--dry-run").stderr
    assert "seams" not in run("depth", "--mode", "stack", rising, "-o", "deep").stderr


def test_a_dry_run_of_a_repository_reads_no_weights_and_says_what_would(
    run, rising, tmp_path, monkeypatch
):
    with hubserver.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        hub.add("org/rising", rising)
        done = run("depth", "org/rising", "--mode", "stack", "--dry-run", "--json")
    says = "seams: not looked at so far away; moegrow norms --seams --sample hf://"
    assert says in done.stderr
    found = json.loads(done.stdout)["seams"]
    assert (found["seams"], found["largest"], found["share"]) == (1, None, 0)
    assert found["says"].startswith(says)


def test_a_picture_of_seams_has_a_line_for_each_mode(rising):
    opened = load(str(rising))
    profile = norm_profile.of(opened)
    found = seams.ways(opened, profile)
    lines = seams.drawn([profile], [found])
    assert [line.name for line in lines][:3] == ["qwen3_moe", "--mode interpose", "--mode stack"]
    assert [line.layers for line in lines] == [10, 20, 20, 12, 16]
    beside = seams.drawn([profile, profile], [found, found])
    assert beside[1].name == "qwen3_moe --mode interpose"
    grown = moegrow.depth(str(rising), mode="stack")
    assert lines[2].norms["experts"] == pytest.approx(norm_profile.of(load(grown)).norms["experts"])


def test_quantised_weights_leave_the_dry_run_without_a_number(run, rising):
    import torch

    with alter.weights(rising) as tensors:
        for name in tensors:
            if ".experts." in name:
                tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    assert len(tiny.tensors(rising)) > 100
    said = run("depth", rising, "--mode", "stack", "--dry-run").stderr
    assert "seams: not known; model.layers.0.mlp.experts.0.down_proj.weight is stored as" in said
    assert "nothing was written" in said
