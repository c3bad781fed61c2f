"""The toys of the fast loop have the configs, names and shapes that transformers saves."""

import json

import pytest
import toy


@pytest.mark.parametrize("name", toy.TOYS)
def test_a_toy_is_as_transformers_saves_it(name, tmp_path):
    assert toy.record(name, tmp_path / "saved") == json.loads(toy.FILE.read_text())[name]
