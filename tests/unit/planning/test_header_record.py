"""The header line of a plan: what is read of it, and what is refused with its place."""

import pytest

from moegrow.errors import MoegrowError
from moegrow.growth import Growth, Noise
from moegrow.planning.header_record import header_of
from moegrow.planning.plan import AS_STORED, Storage

GROWTH = {
    "layers": [0, 0, 1], "silent": [1], "experts": [0, 1, 0, -1],
    "weight_noise": [[2, 3, "normal", 0.01, 7, "stochastic"]], "router_noise": [], "top_k": 2,
}  # fmt: skip


def header(**changes):
    file = {"name": "model.safetensors", "size": 8, "digest": "d"}
    source = {"path": "/models/a", "config_digest": "c", "files": [file]}
    table = {
        "moegrow_plan": 1, "source": source, "family": "qwen3_moe", "growth": GROWTH,
        "steps": [{"axis": "depth", "layers": [2, 3], "says": []}], "commands": [], "config": "{}",
        "outputs": 5,
    }  # fmt: skip
    return table | changes


def test_a_header_is_read_as_a_plan_without_outputs_and_their_number():
    plan, promised = header_of(header())
    assert promised == 5
    assert plan.outputs == ()
    assert plan.growth == Growth(
        (0, 0, 1), (False, True, False), (0, 1, 0, -1),
        (None, None, Noise("normal", 0.01, 7, "stochastic"), None), (None,) * 4, 2,
    )  # fmt: skip
    assert plan.source.files[0].size == 8
    assert plan.storage == AS_STORED
    assert plan.recipe is None
    assert header_of(header(storage={"experts": "BF16"}))[0].storage == Storage(experts="BF16")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"salt": 1}, "unknown field `salt`"),
        ({"growth": GROWTH | {"salt": 1}}, r"unknown field `salt` - at `\$.growth`"),
        ({"growth": GROWTH | {"layers": [0, -1]}}, r"at `\$.growth.layers\[1\]`"),
        ({"growth": GROWTH | {"experts": [-2]}}, ">= -1"),
        ({"growth": GROWTH | {"weight_noise": [[0, 1, "loud", 1, 0]]}}, "'loud'"),
        ({"growth": GROWTH | {"weight_noise": [[0, 1, "normal", 0, 0]]}}, "> 0"),
        ({"growth": GROWTH | {"weight_noise": [[2, 1, "normal", 1, 0]]}}, "run backwards"),
        ({"storage": {"dtype": "F64"}}, "'F64'"),
        ({"metadata": {"format": "pt"}}, "cannot say the format"),
        ({"files": {"config.json": ""}}, "no file that a plan can change"),
        ({"steps": [{"axis": "depth", "says": []}]}, "KeyError 'layers'"),
        ({"steps": [{"axis": "depth", "layers": [0, 3], "says": []}]}, "layers 0 makes no sense"),
        ({"recipe": [{}] * 1001}, "the recipe makes no sense"),
    ],
)
def test_a_header_of_other_keys_or_kinds_is_refused_with_the_place(changes, says):
    with pytest.raises(MoegrowError, match=says) as refused:
        header_of(header(**changes))
    assert refused.value.message.startswith("line 1 of the plan is malformed")
