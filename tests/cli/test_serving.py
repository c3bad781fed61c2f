"""Limits of serving engines have a source and are on the page; growth that meets one says so."""

import json

import alter
import pytest
from repository import DOCS

import moegrow
from moegrow.families.registry import known_types
from moegrow.planning import serving
from moegrow.planning.notices import NoticeKind, notices
from moegrow.planning.open_source import load

FACTS = serving.facts()


def told(done):
    return [line for line in done.stderr.splitlines() if line.startswith("serving: ")]


def test_every_fact_names_known_engines_and_types_and_has_a_source():
    engines = {*FACTS.engines, "older TensorRT-LLM"}
    for fact in (*FACTS.limits, *FACTS.recognised, *FACTS.kinds):
        assert set(fact.types) <= set(known_types())
        assert engines >= set(getattr(fact, "engines", None) or [fact.engine])
        assert fact.source


def rows():
    """What the page says of each engine, limit and kind of layers, as rows of its tables."""
    for engine, version in FACTS.engines.items():
        yield f"| {engine} | {version} |"
    for limit in FACTS.limits:
        new = {"experts": "so many", "layers": "more", "top_k": "more", "groups": "so many"}
        types = f" ({', '.join(limit.types)})" if limit.types else ""
        said = limit.says.format(most=limit.most, new=new[limit.of], old="its")
        yield f"| {limit.engine}{types} | {said} |"
    for known in FACTS.recognised:
        numbers = " or ".join(map(str, known.values))
        where = "".join(f", {key} {value}" for key, value in known.where.items())
        result = "computes something else" if known.loads else "does not load"
        yield (
            f"| {known.engine} ({', '.join(known.types)}) | takes {numbers} {known.of}{where} for"
            f" {known.what}; where growth changes that it {result} |"
        )
    for kinds in FACTS.kinds:
        result = "loads, and computes something else" if kinds.loads else "does not load"
        what = "layers without experts come first" if kinds.rule is None else kinds.what
        yield f"| {', '.join(kinds.types)} | {', '.join(kinds.engines)} | {what} | {result} |"


def test_the_page_has_every_fact_and_the_day_on_which_it_was_looked_at():
    page = (DOCS / "method.md").read_text()
    assert FACTS.looked_at in page
    assert [row for row in rows() if row not in page.splitlines()] == []


@pytest.mark.parametrize(
    ("experts", "top_k", "says"),
    [
        (12, 3, "vLLM routes among 12 experts by a generic kernel, slower"),
        (992, 8, "vLLM declines 992 experts in its Triton kernel"),
        (2048, 8, "llama.cpp takes at most 1024 experts, not 2048"),
        (64, 16, "older TensorRT-LLM fuses at most 8 top-k, not 16"),
    ],
)
def test_leaving_what_serving_engines_accept_is_told(run, checkpoint, experts, top_k, says):
    done = run("width", "--experts", experts, "--top-k", top_k, checkpoint(), "--dry-run")
    assert any(line.startswith(f"serving: {says}") for line in told(done))


def test_what_they_accept_is_told_of_nothing(run, checkpoint):
    assert not told(run("width", checkpoint(), "--dry-run"))
    assert not told(run("width", "--experts", 64, "--top-k", 8, checkpoint(), "--dry-run"))


def test_llama_cpp_takes_1024_experts(run, checkpoint):
    done = run("width", "--experts", 1024, "--top-k", 8, checkpoint(), "--dry-run")
    assert not any("llama.cpp" in line for line in told(done))


def test_a_limit_of_blocks_of_fp8_is_for_them_alone(run, made, checkpoint):
    flags = ["--experts", 516, "--top-k", 8, "--noise", "0", "--dry-run"]
    source = made("fp8 blocks")
    assert any("FlashInfer" in line for line in told(run("width", *flags, source)))
    assert not any("FlashInfer" in line for line in told(run("width", *flags, checkpoint())))
    decoded = run("width", *flags, "--dtype", "bf16", source)
    assert not any("FlashInfer" in line for line in told(decoded))


def test_groups_beyond_the_fused_kernel_are_told(run, checkpoint):
    done = run("width", "--experts", "16x", "--noise", "0", checkpoint("deepseek_v3"), "--dry-run")
    assert any("64 groups" in line for line in told(done))


def test_a_second_expert_of_llama_4_is_refused_by_vllm_and_the_option_named_is_not(run, checkpoint):
    source = checkpoint("llama4_text")
    (line,) = told(run("width", source, "--dry-run"))
    assert line.startswith("serving: vLLM refuses top-2")
    assert "--top-k keep" in line
    assert not told(run("width", "--top-k", "keep", source, "--dry-run"))


def test_a_number_by_which_llama_cpp_knows_a_model_is_told(run, checkpoint, tmp_path):
    done = run("width", "--experts", 128, "--top-k", "keep", checkpoint("llama4_text"), "--dry-run")
    assert any("128 experts" in line and "something else" in line for line in told(done))
    deep = run("depth", "--to", "26", checkpoint("deepseek_v3"), "--dry-run")
    assert any("26 or 27 layers" in line and "does not load" in line for line in told(deep))
    source = alter.copy(checkpoint("deepseek_v3"), tmp_path)
    other = run("depth", "--to", "48", source, "--dry-run")
    assert not told(other)
    with alter.table(source / "config.json") as config:
        config["vocab_size"] = 128256
    known = run("depth", "--to", "48", source, "--dry-run")
    assert any("48 layers" in line for line in told(known))


def test_the_json_has_the_same_warnings(run, checkpoint):
    (told,) = notices(*load(moegrow.width(checkpoint(), experts=12)))
    assert (told.about, told.kind, told.is_warning) == ("serving", NoticeKind.ENGINE_LIMIT, True)
    done = run("width", "--experts", 12, checkpoint(), "--dry-run", "--json")
    assert json.loads(done.stdout)["warnings"] == [told.text]
    assert f"{told}\n" in done.stderr
