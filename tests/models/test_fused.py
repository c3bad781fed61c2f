"""The names that models have in memory: another layout that transformers writes and reads."""

import pytest
import tiny
from families_page import TYPES, addressed, factor, group

import moegrow
from moegrow.families.registry import find_family


@pytest.mark.parametrize("name", TYPES)
def test_both_axes_keep_the_logits_in_the_layout_of_the_memory(checkpoint, tmp_path, name):
    source = checkpoint(name, fused=True)
    plan = moegrow.plan(source)
    family = find_family(name)
    if not family.router.refuses_width:
        plan = moegrow.width(plan, experts=factor(name), noise=0)
    if not family.depth.identity_is_not:
        kept = addressed(name) or None
        plan = moegrow.depth(plan, new_layers="identity", group=group(name), keep_first=kept)
    moegrow.apply(plan, tmp_path / "grown")
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < 3e-4
