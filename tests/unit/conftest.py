"""Fixtures of the fast loop: checkpoints that numpy writes, so that no test here needs torch."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import toy


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A toy checkpoint of a model type, written the first time it is asked for.

    All tests of a process share it, so nobody changes it: `alter.copy` gives a copy.
    """

    @cache
    def checkpoint(model_type: str = "qwen3_moe", *, fused: bool = False) -> Path:
        return toy.build(model_type, tmp_path_factory.mktemp("toy") / model_type, fused=fused)

    return checkpoint
