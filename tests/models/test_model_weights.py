"""A model is built of a config's numbers alone, and runs no code that the config names."""

import json

import alter
import pytest
import torch
from test_run_layerwise import outcome

from moegrow.checkpoint.store import CONFIG


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
        ("attn_implementation", "somebody/their-kernel"),
        ("_attn_implementation", "somebody/their-kernel"),
        ("experts_implementation", "somebody/their-kernel"),
        ("dtype", "float16"),
    ],
)
def test_what_a_config_says_of_code_to_run_is_not_taken(checkpoint, tmp_path, key, value):
    source = alter.copy(checkpoint(), tmp_path)
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    before = outcome(source).logits
    with alter.table(source / CONFIG) as config:
        config[key] = value
    assert torch.equal(outcome(source).logits, before)
    assert not (tmp_path / "ran").exists()


def test_infinities_in_a_config_are_read_in_either_spelling(checkpoint, tmp_path):
    source = alter.copy(checkpoint("nemotron_h"), tmp_path)
    before = outcome(source).logits
    config = json.loads((source / CONFIG).read_text())
    assert config["time_step_limit"][1] == {"__float__": "Infinity"}
    config["time_step_limit"][1] = float("inf")
    (source / CONFIG).write_text(json.dumps(config))
    assert torch.equal(outcome(source).logits, before)
