"""Random cases of every model type, held against models that are grown in memory."""

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
