"""Random cases of every model type, held against models that are grown in memory."""

import alter
import differential
import pytest
from drawing import draw

RIGHT, TRIES = 2, 8


@pytest.mark.parametrize("model_type", differential.TYPES)
def test_random_growth_of_a_type_is_what_its_definition_says(model_type, nursery, tmp_path):
    right = 0
    for seed in range(TRIES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome = differential.try_case(draw(model_type, seed), nursery, folder)
        again = f"python tests/system/differential.py --only {model_type}:{seed}"
        assert outcome.kind in ("right", "refused", "cautious"), f"{outcome.why}\n{again}"
        right += outcome.kind != "refused"
        if right == RIGHT:
            break
    assert right


def test_a_factor_that_is_off_by_more_than_its_rounding_is_found(nursery, tmp_path, monkeypatch):
    """A factor of 1/3 in fp16, which turns near ties in the routers of this case."""
    case = draw("cohere2_moe", 379324)
    grow = differential._grow

    def grow_wrongly(*given):
        result, told = grow(*given)
        with alter.weights(result) as tensors:
            tensors["model.layers.2.mlp.experts.down_proj"] *= 1.01
        return result, told

    for name, kind in (("right", "right"), ("wrong", "disagree")):
        (tmp_path / name).mkdir()
        outcome = differential.try_case(case, nursery, tmp_path / name)
        assert outcome.kind == kind, outcome.why
        monkeypatch.setattr(differential, "_grow", grow_wrongly)
