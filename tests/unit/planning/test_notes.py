"""Summaries of an axis are values that a plan's header holds as text."""

import dataclasses
import json
from typing import get_args

import pytest

import moegrow
from moegrow.growth import Noise
from moegrow.planning import notes
from moegrow.planning.notes import (
    AxisSummary,
    FunctionLost,
    FunctionPreserved,
    LayersMade,
    NoiseAdded,
    Quoted,
    read_summary,
    recognised,
)
from moegrow.planning.plan_file import from_lines
from moegrow.planning.plan_lines import to_lines
from moegrow.planning.router_notes import FactorInScales, OutputsScaled, UnevenCopies
from moegrow.planning.summary import with_factor

NOISE = Noise("normal", 0.01, 0)
DEPTH = AxisSummary("depth", (LayersMade((0, 0, 1, 1), 2),), layers=(2, 4))
WIDTH = AxisSummary(
    "width",
    (
        NoiseAdded("weights", (NOISE,)),
        OutputsScaled(0.5, "undivided"),
        FunctionLost(UnevenCopies(favoured=1, experts=2, most=2, least=1)),
    ),
    experts=(2, 3),
    top_k=(1, 2),
    preserves_function=False,
)


def test_a_summary_that_is_read_is_quoted_with_its_numbers_and_its_table():
    for made in (DEPTH, WIDTH):
        read = read_summary(json.loads(json.dumps(made.table())))
        assert (read.axis, read.numbers) == (made.axis, made.numbers)
        assert read.notes == tuple(Quoted(str(note)) for note in made.notes)
        assert read.table() == made.table()


def test_a_summary_with_the_text_of_one_made_anew_is_that_one_and_no_other_is():
    other = read_summary({**WIDTH.table(), "says": ["another sentence"]})
    read = (read_summary(DEPTH.table()), other)
    depth, width = recognised(read, (WIDTH, DEPTH))
    assert depth is DEPTH
    assert width is other


def test_a_factor_in_scales_stands_behind_the_other_compensations():
    factor = FactorInScales(("fp8",))
    depth, width = with_factor((DEPTH, WIDTH), factor)
    assert depth is DEPTH
    assert width.compensations == (WIDTH.notes[1], factor)
    assert width.notes == (*WIDTH.notes[:2], factor, WIDTH.notes[2])


def test_the_order_of_the_keys_in_a_table_is_that_of_the_plan_format():
    assert [*WIDTH.table()] == [
        "axis", "experts", "top_k", "preserves_function", "compensated", "says",
    ]  # fmt: skip
    assert [*DEPTH.table()] == ["axis", "layers", "says"]


def test_a_plan_that_is_opened_has_the_notes_that_it_was_made_with(checkpoint, tmp_path):
    plan = moegrow.width(moegrow.depth(checkpoint(), new_layers="identity"), noise=0.01)
    (tmp_path / "plan.jsonl").write_text("".join(f"{line}\n" for line in to_lines(plan)))
    opened = moegrow.plan(tmp_path / "plan.jsonl")
    assert [step.notes for step in opened.steps] == [step.notes for step in plan.steps]
    assert {type(note) for note in plan.steps[1].notes} == {NoiseAdded, FunctionPreserved}
    (header, *_) = from_lines(to_lines(plan)).steps
    assert header.notes == tuple(Quoted(str(note)) for note in plan.steps[0].notes)


@pytest.mark.parametrize("note", get_args(notes.Note), ids=lambda note: note.__name__)
def test_a_note_is_frozen(note):
    assert dataclasses.is_dataclass(note)
    assert note.__dataclass_params__.frozen
