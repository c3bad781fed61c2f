"""Plans as JSON lines, and what is refused on the way in."""

import json
from dataclasses import replace

import pytest

import moegrow
from moegrow.errors import MoegrowError
from moegrow.planning import plan_file
from moegrow.planning.notes import AxisSummary
from moegrow.planning.op import Perturb
from moegrow.planning.plan_file import from_lines, take_lines
from moegrow.planning.plan_lines import to_lines


@pytest.fixture(scope="module")
def plan(checkpoint):
    return moegrow.width(moegrow.depth(checkpoint("llama4_text"), new_layers="identity"))


def by_draw(op):
    """The same noise, rounded by a draw."""
    if isinstance(op, Perturb) and op.noise:
        return Perturb(op.noise._replace(rounding="stochastic"), op.scale, op.shift)
    return op


@pytest.fixture
def lines(plan):
    return list(to_lines(plan))


def changed(line, **changes):
    return json.dumps(json.loads(line) | changes)


def test_a_plan_is_a_header_line_and_a_line_for_each_tensor(plan, lines):
    header, *tensors = map(json.loads, lines)
    assert header["moegrow_plan"] == 1
    assert header["outputs"] == len(tensors) == len(plan.outputs)
    assert [tensor["name"] for tensor in tensors] == [output.name for output in plan.outputs]
    assert all("\n" not in line for line in lines)


def test_lines_and_plan_are_the_same_thing(plan, lines):
    again = from_lines(lines)
    assert again == plan
    assert again.commands == plan.commands
    assert list(to_lines(again)) == lines


@pytest.mark.parametrize("preset", ["orthogonal", "upcycling"])
def test_noise_that_a_draw_rounds_is_of_version_3_and_the_same_thing_too(checkpoint, preset):
    plan = moegrow.width(checkpoint("llama4_text"), preset=preset, rounding="stochastic")
    header, *lines = to_lines(plan)
    assert json.loads(header)["moegrow_plan"] == 3
    assert '"stochastic"]]' in header
    noised = [line for line in lines if '"noise"' in line]
    assert noised
    assert all('"rounding":"stochastic"}' in line for line in noised)
    assert from_lines([header, *lines]) == plan
    plainly = [line.replace(',"rounding":"stochastic"', "") for line in lines]
    assert from_lines([header, *plainly]) != plan


def test_an_edited_plan_says_by_its_version_that_a_draw_rounds(plan):
    stochastic = [
        output._replace(
            pieces=tuple(piece._replace(op=by_draw(piece.op)) for piece in output.pieces)
        )
        for output in plan.outputs
    ]
    edited = replace(plan, outputs=tuple(stochastic), steps=(*plan.steps, AxisSummary("hand", ())))
    assert json.loads(next(to_lines(edited)))["moegrow_plan"] == 3


def test_lines_are_written_as_a_json_encoder_would(plan):
    outputs = (plan.outputs[0]._replace(name='"\\ü\n\x01\u2028/', shape=()), *plan.outputs)
    _, *lines = to_lines(replace(plan, outputs=outputs))
    for line in lines:
        table = json.loads(line)
        assert json.dumps(table, separators=(",", ":"), ensure_ascii=False) == line
    assert any("noise" in line for line in lines)
    assert any("scale" in line for line in lines)


def test_lines_that_spell_the_outputs_are_told_from_all_others_unparsed(plan, lines):
    outputs = plan.outputs
    assert take_lines(line + "\n" for line in lines).spell(outputs)
    assert not take_lines(lines).spell(outputs[1:])
    assert not take_lines(lines[:-1]).spell(outputs)
    assert not take_lines([*lines[:-1], lines[-1] + " "]).spell(outputs)
    fewer = changed(lines[0], outputs=len(outputs) - 1)
    assert not take_lines([fewer, *lines[1:-1]]).spell(outputs)


def test_line_ends_and_empty_lines_do_not_matter(plan, lines):
    assert from_lines(line + "\n" for line in lines) == plan
    assert from_lines([*lines, "", "\n", "  "]) == plan


def test_a_plan_in_a_file_is_recognised_and_read(plan, lines, tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text("\n".join(lines))
    assert plan_file.is_plan(path)
    assert plan_file.read_plan(path) == plan


def test_folders_weights_and_missing_files_are_no_plans(checkpoint, tmp_path):
    assert not plan_file.is_plan(checkpoint())
    assert not plan_file.is_plan(next(checkpoint().glob("*.safetensors")))
    assert not plan_file.is_plan(tmp_path / "nothing")


@pytest.mark.parametrize("keep", [1, 2, -1])
def test_a_plan_cut_short_at_a_line_is_refused(lines, keep):
    with pytest.raises(MoegrowError, match=r"promises .* tensors and spells out") as refused:
        from_lines(lines[:keep])
    assert "cut short" in refused.value.hint


def test_a_plan_cut_short_within_a_line_is_refused_by_its_number(lines):
    with pytest.raises(MoegrowError, match=f"line {len(lines)} of the plan"):
        from_lines([*lines[:-1], lines[-1][:-5]])


def test_nothing_at_all_is_refused():
    with pytest.raises(MoegrowError, match="line 1"):
        from_lines([])


@pytest.mark.parametrize("version", [0, 5, "1", None, 1.5, []])
def test_another_format_is_refused(lines, version):
    with pytest.raises(MoegrowError, match="not a plan that moegrow can read"):
        from_lines([changed(lines[0], moegrow_plan=version), *lines[1:]])


def test_a_line_that_is_no_table_is_refused(lines):
    with pytest.raises(MoegrowError, match="line 2 of the plan"):
        from_lines([lines[0], "[]", *lines[2:]])


NOISE = {"normal": 0.01, "seed": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"dtype": "F7"},
        {"dtype": ["F32"]},
        {"shape": [-1]},
        {"shape": [1.0]},
        {"shape": [True]},
        {"shape": 3},
        {"pieces": [{}]},
        {"pieces": {"from": "x"}},
        {"pieces": [{"from": "x", "rows": [0]}]},
        {"pieces": [{"from": "x", "rows": [0, 2**80]}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "scale": 0.5}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "scale": "1/0"}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "scale": "much"}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": {}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": {"normal": 0.01}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": {"loud": 0.01, "seed": 0}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": NOISE | {"normal": -1}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": NOISE | {"normal": "1"}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": NOISE | {"seed": -1}}]},
        {"pieces": [{"from": "x", "rows": [0, 1], "noise": 5}]},
    ],
)
def test_a_malformed_tensor_line_is_refused_by_its_number(lines, changes):
    with pytest.raises(MoegrowError, match="line 3 of the plan is malformed"):
        from_lines([*lines[:2], changed(lines[2], **changes), *lines[3:]])


@pytest.mark.parametrize(
    "changes",
    [
        {"source": None},
        {"source": {"path": "x"}},
        {"source": {"path": "x", "config_digest": "y", "files": [{"name": "a"}]}},
        {"family": 5},
        {"growth": {}},
        {"steps": 5},
        {"steps": ["depth"]},
        {"config": {}},
        {"commands": [5]},
        {"commands": None},
        {"metadata": {"key": "\ud800"}},
        {"metadata": {"\ud800": "text"}},
    ],
)
def test_a_malformed_header_line_is_refused(lines, changes):
    with pytest.raises(MoegrowError, match="line 1 of the plan is malformed"):
        from_lines([changed(lines[0], **changes), *lines[1:]])


@pytest.mark.parametrize("key", ["source", "family", "growth", "steps", "config", "commands"])
def test_a_header_line_that_lacks_a_key_is_refused(lines, key):
    header = json.loads(lines[0])
    del header[key]
    with pytest.raises(MoegrowError, match=key):
        from_lines([json.dumps(header), *lines[1:]])


def test_a_long_run_of_noise_cannot_name_more_experts_than_there_are(lines):
    header = json.loads(lines[0])
    header["growth"]["weight_noise"] = [[0, 2**62, "normal", 0.01, 0]]
    plan = from_lines([json.dumps(header), *lines[1:]])
    assert len(plan.growth.weight_noise) == len(plan.growth.experts)
