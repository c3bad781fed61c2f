"""Damaged files of a real checkpoint: refused with one message, or grown into what verifies."""

from random import Random

import alter
import heron
import mutations
import pytest
import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.planning.plan_lines import to_lines

# Every file of a case is written anew, and what a case writes is removed, so one folder serves all.
often = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**32).map(Random)


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@often
@given(random=seeds)
def test_a_damaged_header_is_refused_or_what_the_library_reads(checkpoint, tmp_path, random):
    content = sorted(checkpoint().glob("*.safetensors"))[-1].read_bytes()
    targets.header(mutations.damaged_header(content, random), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@often
@given(random=seeds)
def test_a_damaged_index_is_refused_or_read(checkpoint, source, random):
    text = (checkpoint() / INDEX).read_text()
    targets.index(mutations.damaged_json(text, random), source)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3", "gemma4_text", "zaya"])
@often
@given(random=seeds)
def test_a_damaged_config_is_refused_or_grown(checkpoint, model_type, random):
    source = open_checkpoint(checkpoint(model_type))
    targets.config(mutations.damaged_json(source.config_text, random), source)


@often
@given(random=seeds)
def test_a_damaged_family_file_is_refused_or_grown(heron_source, random):
    text = mutations.damaged_toml(heron.family_text(), random)
    targets.family(text, heron_source)


@pytest.fixture(scope="module")
def heron_source(tmp_path_factory):
    return open_checkpoint(heron.build(tmp_path_factory.mktemp("fuzz") / "heron"))


@pytest.mark.parametrize(
    ("verb", "flags"),
    [("depth", {"new_layers": "identity"}), ("width", {}), ("width", {"preset": "upcycling"})],
)
@often
@given(random=seeds)
def test_a_damaged_plan_is_refused_or_written_as_it_says(checkpoint, tmp_path, verb, flags, random):
    before = alter.contents(checkpoint())
    text = "\n".join(to_lines(getattr(moegrow, verb)(checkpoint(), **flags)))
    targets.plan(mutations.damaged_lines(text, random), tmp_path)
    assert not list(tmp_path.iterdir())
    assert alter.contents(checkpoint()) == before


def test_what_is_not_damaged_passes_every_target(checkpoint, heron_source, source, tmp_path):
    file = next(source.glob("*.safetensors"))
    (tmp_path / "header").mkdir()
    assert targets.header(file.read_bytes(), tmp_path / "header")
    assert targets.index((source / INDEX).read_text(), source)
    assert targets.config((source / CONFIG).read_text(), open_checkpoint(source))
    assert targets.family(heron.family_text(), heron_source)
    assert targets.plan("\n".join(to_lines(moegrow.width(source))), tmp_path)
