"""Where every layer and expert came from: the stretches are the map, however it was made."""

import json
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moegrow
from moegrow import maps
from moegrow.analysis import lineage
from moegrow.analysis.lineage import Axis, Mark, Start


def axis_of(a_map, old=None):
    marks = tuple(Mark(is_copy) for is_copy in maps.repeats(a_map))
    return Axis("layers", max(a_map) + 1 if old is None else old, tuple(a_map), marks)


def spelled_out(parts):
    """The map that stretches stand for."""
    return tuple(
        part.old + group * part.size + place
        for part in parts
        for group in range(part.groups)
        for _ in range(part.times)
        for place in range(part.size)
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=24))
def test_stretches_are_the_map_and_no_more_than_runs(numbers):
    axis = axis_of(numbers)
    parts = lineage.stretches(axis)
    assert spelled_out(parts) == spelled_out(lineage.runs(axis)) == tuple(numbers)
    assert [part.new for part in parts] == [
        sum(part.length for part in parts[:i]) for i in range(len(parts))
    ]
    assert len(parts) <= len(lineage.runs(axis))


@pytest.mark.parametrize(
    ("a_map", "expected"),
    [
        (maps.interpose(28, to=56), [("0-55", "0-27", "each 2 times in place")]),
        (maps.stack(28, to=56), [("0-27", "0-27", ""), ("28-55", "0-27", "copies")]),
        (
            maps.interpose(8, to=16, group=2),
            [("0-15", "0-7", "each 2 together 2 times in place")],
        ),
        (
            maps.interpose(6, to=10, keep_first=1, keep_last=1),
            [("0", "0", ""), ("1-8", "1-4", "each 2 times in place"), ("9", "5", "")],
        ),
        (
            maps.overlap(32, drop=8),
            [("0-23", "0-23", ""), ("24-39", "8-23", "copies"), ("40-47", "24-31", "")],
        ),
    ],
)
def test_what_a_mode_does_is_said_in_as_few_lines_as_there_can_be(a_map, expected):
    assert lineage.rows(lineage.stretches(axis_of(a_map))) == expected


def test_a_very_long_map_is_read_as_runs_alone():
    a_map = maps.stack(1000, to=3000)
    assert lineage.rows(lineage.stretches(axis_of(a_map))) == [
        ("0-999", "0-999", ""), ("1000-2999", "0-999,0-999", "copies"),
    ]  # fmt: skip


def test_a_folder_a_plan_in_a_file_and_one_piped_in_say_the_same(run, checkpoint, tmp_path):
    plan = run("width", checkpoint(), "--experts", "6", "--plan").stdout
    (tmp_path / "plan.jsonl").write_text(plan)
    run("apply", "plan.jsonl", "-o", "wide", "-q")
    said = run("map", "wide").stdout
    assert said == run("map", "plan.jsonl").stdout == run("map", stdin=plan).stdout
    assert "layers: 4 as they were\nexperts: 4 -> 6\n" in said
    assert "  there once: 2 of 4 (0,2)" in said
    (row,) = (line.split() for line in said.splitlines() if line.split()[:1] == ["4-5"])
    assert row[1:3] == ["1,3", "copies,"]


def test_the_map_is_that_of_the_plan(run, checkpoint):
    plan = moegrow.width(moegrow.depth(checkpoint(), layers="0,2,1,1"), noise=0.02, seed=7)
    found = lineage.document(plan)
    assert found["layers"]["map"] == [0, 2, 1, 1]
    assert found["layers"]["copies"] == [False, False, False, True]
    assert found["layers"]["old"] == 4
    assert found["experts"]["map"] == [0, 1, 2, 3] * 2
    assert found["experts"]["noise"][:4] == [None] * 4
    assert found["experts"]["noise"][4] == {
        "kind": "normal", "amount": 0.02, "seed": 7, "rounding": "nearest",
    }  # fmt: skip


def test_layers_that_are_gone_and_identities_are_named(checkpoint):
    layers, experts = lineage.axes(
        moegrow.depth(checkpoint(), layers="0,1,1", new_layers="identity")
    )
    assert lineage.copies(layers) == {0: 1, 1: 2, 2: 0, 3: 0}
    starts = [(mark.is_copy, mark.start) for mark in layers.marks]
    assert starts == [(False, Start.AS_OLD)] * 2 + [(True, Start.IDENTITY)]
    assert {mark.start for mark in experts.marks} == {Start.AS_OLD}


def test_experts_that_do_nothing_are_said_to(run, checkpoint):
    plan = run("width", checkpoint("zaya"), "--plan").stdout
    starts = [mark.start for mark in lineage.axes(moegrow.width(checkpoint("zaya")))[1].marks]
    assert Start.EMPTY in starts
    assert Start.NOISY in starts
    assert None in json.loads(run("map", "--json", stdin=plan).stdout)["experts"]["map"]


def test_what_holds_no_plan_is_refused(run, checkpoint, tmp_path):
    assert "holds no moegrow-plan.jsonl" in run("map", checkpoint(), code=1).stderr
    (tmp_path / "other.txt").write_text("text")
    assert "is not a plan" in run("map", "other.txt", code=1).stderr
    assert "is not a plan" in run("map", "missing", code=1).stderr


def test_rows_of_as_many_layers_as_there_may_be_take_no_time():
    axis = axis_of([0] * maps.LARGEST)
    started = process_time()
    ((_, olds, _), *_) = reversed(lineage.rows(lineage.stretches(axis)))
    assert process_time() - started < 4
    assert olds.count("0") == maps.LARGEST - 1
