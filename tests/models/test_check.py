"""Problems of a plan that are found before a byte is written."""

from dataclasses import replace
from fractions import Fraction

import alter
import pytest
import torch

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.planning.check import check_plan
from moegrow.planning.op import Fill, Perturb

NORM = "model.norm.weight"


@pytest.fixture
def refused(checkpoint, tmp_path):
    """Change the plan's output of one tensor, or its piece, and see it refused by apply."""

    def refused(says, *, output=None, piece=None):
        plan = moegrow.depth(checkpoint())
        (norm,) = (o for o in plan.outputs if o.name == NORM)
        changed = norm._replace(**output or {})
        if piece is not None:
            changed = changed._replace(pieces=(changed.pieces[0]._replace(**piece),))
        outputs = tuple(changed if o is norm else o for o in plan.outputs)
        with pytest.raises(MoegrowError, match=says) as error:
            moegrow.apply(replace(plan, outputs=outputs), tmp_path / "grown")
        assert list(tmp_path.iterdir()) == []
        return error.value

    return refused


def test_a_plan_that_moegrow_made_has_no_problems(checkpoint):
    check_plan(moegrow.width(moegrow.depth(checkpoint())), open_checkpoint(checkpoint()))


@pytest.mark.parametrize(
    ("output", "piece", "says"),
    [
        ({}, {"source": "nothing"}, "comes from nothing, which the source does not hold"),
        ({}, {"source": "lm_head.weight"}, r"is F32 \[32\] and comes from F32 \[64, 32\]"),
        ({"dtype": "F16"}, {}, r"is F16 \[32\] and comes from F32 \[32\]"),
        ({"shape": (33,)}, {"stop": 33}, "asks for rows 0 to 33 .* which has 32"),
        ({}, {"start": 20, "stop": 10}, "asks for rows 20 to 10"),
        ({}, {"stop": 31}, "has 32 rows and pieces of 31"),
        ({"shape": (31,)}, {}, "has 31 rows and pieces of 32"),
        ({"pieces": ()}, None, "has 32 rows and pieces of 0"),
        ({"name": "lm_head.weight"}, {}, "1 names stand twice"),
        ({"name": ""}, {}, "cannot be the name of a tensor"),
        ({"name": "a\x1b[2J"}, {}, "cannot be the name of a tensor"),
    ],
)
def test_an_output_that_cannot_be_is_refused(refused, output, piece, says):
    error = refused(says, output=output, piece=piece)
    assert "make the plan again" in error.hint
    assert "\x1b" not in error.message


def test_every_problem_is_told_at_once(checkpoint):
    plan = moegrow.plan(checkpoint())
    outputs = tuple(output._replace(shape=(1, 2, 3)) for output in plan.outputs[:3])
    with pytest.raises(MoegrowError) as refused:
        check_plan(replace(plan, outputs=outputs), open_checkpoint(checkpoint()))
    assert all(output.name in refused.value.message for output in outputs)


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Perturb(scale=Fraction(1, 2)), "can be copied but not multiplied by 1/2"),
        (Fill(), "in no format whose zeros are known"),
    ],
)
def test_a_scale_on_what_is_no_float_is_refused(checkpoint, tmp_path, op, said):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors[NORM] = tensors[NORM].to(torch.int8)
    plan = moegrow.plan(source)
    outputs = tuple(
        o._replace(pieces=(o.pieces[0]._replace(op=op),)) if o.name == NORM else o
        for o in plan.outputs
    )
    plan = replace(plan, outputs=outputs)
    with pytest.raises(MoegrowError, match=said):
        check_plan(plan, open_checkpoint(source))
