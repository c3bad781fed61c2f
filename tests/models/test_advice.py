"""Advice is what has been published, applied to the numbers of a checkpoint."""

import re
import string

import alter
import pytest
from repository import DOCS, ROOT

import moegrow
from moegrow.analysis import advice, norm_profile
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import UsageError
from moegrow.planning import open_source

FACTS = {
    "tokens", "above", "below", "widens", "refuses width", "auxiliary loss", "balancing bias",
    "prediction layers", "bf16", "quantised", "profile", "steps", "copies", "looked at",
    "nonfinite", "has a middle",
}  # fmt: skip
PAGES = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))


def advised(folder, tokens=None):
    return advice.advise(open_source.load(folder), tokens=tokens)


def said(found, topic):
    return "\n".join(sentence.says for sentence in found.sentences if sentence.topic == topic)


@pytest.mark.parametrize("entry", advice.evidence(), ids=lambda entry: entry.says[:40])
def test_a_sentence_has_a_source_that_the_pages_name(entry):
    assert entry.topic in advice.TOPICS
    assert {*entry.when, *entry.unless} <= FACTS
    papers = re.findall(r"\d{4}\.\d{5}", entry.source + entry.limits)
    pages = re.findall(r"docs/[\w/-]+\.md", entry.source)
    own = ("config.json and headers", "measured in this checkpoint")
    assert papers or pages or entry.source in own
    assert all(paper in PAGES for paper in papers)
    assert all((ROOT / page).exists() for page in pages)


@pytest.mark.parametrize("entry", advice.evidence(), ids=lambda entry: entry.says[:40])
def test_every_result_that_a_sentence_quotes_is_on_the_page_of_the_evidence(entry):
    page = (DOCS / "evidence.md").read_text()
    fixed = "".join(text for text, *_ in string.Formatter().parse(entry.says))
    for figure in re.findall(r"\d+\.\d+", fixed + entry.limits):
        assert figure in page or figure in (DOCS / "method.md").read_text(), figure


def test_the_boundary_is_that_of_the_paper_and_decides_the_mode(checkpoint):
    active = moegrow.inspect(checkpoint())["active_parameters"]
    before, after = advised(checkpoint(), 20 * active - 1), advised(checkpoint(), 20 * active)
    assert before.boundary == after.boundary == 120 * active**2
    assert after.sunk == after.boundary
    assert (before.ratio < 1, after.ratio) == (True, 1)
    assert said(before, "mode").startswith("stack or interpose")
    assert said(after, "mode").startswith("interpose: beyond")
    assert [t.command for t in before.targets][1] == "moegrow depth --mode stack"
    assert [t.command for t in after.targets][1] == "moegrow depth --mode interpose"
    unknown = advised(checkpoint())
    assert (unknown.sunk, unknown.ratio) == (None, None)
    assert "--tokens says where it stands" in said(unknown, "boundary")
    assert said(unknown, "mode").startswith("interpose from about 1 × F_c on")


def test_what_only_some_checkpoints_have_is_said_of_them_alone(checkpoint, tmp_path):
    biased, plain = advised(checkpoint("deepseek_v3")), advised(checkpoint("qwen3_moe"))
    assert "bias that balances" in said(biased, "watch")
    assert "bias that balances" not in said(plain, "watch")
    source = alter.copy(checkpoint(), tmp_path)
    for value, half in ((0.001, "0.0005"), (0.02, "0.01")):
        with alter.table(source / CONFIG) as config:
            config["router_aux_loss_coef"] = value
        assert f"router_aux_loss_coef {value}: " in said(advised(source), "watch")
        assert f"(2x: {half})" in said(advised(source), "watch")
    with alter.table(source / CONFIG) as config:
        config["router_aux_loss_coef"] = "{layers} {secret}"
        config["quantization_config"] = {"quant_method": "fp8"}
    odd = advised(source)
    assert "router_aux_loss_coef" not in said(odd, "watch")
    assert "are quantised" in said(odd, "watch")


def test_a_family_whose_experts_cannot_be_copied_is_told_so(checkpoint):
    found = advised(checkpoint("phimoe"))
    assert "always picks two" in said(found, "width")
    assert "top-8" not in said(found, "width")
    assert "width 2x is refused" in str(found)


def test_a_plan_is_advised_on_as_what_it_makes(run, checkpoint, tmp_path):
    (tmp_path / "plan.jsonl").write_text(run("depth", checkpoint(), "--plan").stdout)
    assert advised(tmp_path / "plan.jsonl").numbers.layers == 8


def test_the_command_prints_it_and_reads_no_weights(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    whole = run("advise", source, "--tokens", "1.5B").stdout
    assert whole.startswith("qwen3_moe: 4 layers, 4 experts, top-2; ")
    assert "1.5 B tokens cost" in whole
    for file in source.glob("*.safetensors"):
        content = file.read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        file.write_bytes(content[:begin] + b"\xff" * (len(content) - begin))  # NaN everywhere
    assert run("advise", source, "--tokens", "1.5B").stdout == whole


@pytest.mark.parametrize("text", ["", "much", "-3B", "0", "1e30", "3X", "1e9999", "B", "٣B"])
def test_what_is_no_number_of_tokens_is_refused(text):
    with pytest.raises(UsageError, match="is no number of tokens"):
        advice.parse_tokens(text)


def profile_of(*norms):
    return norm_profile.Profile(
        "x", "x", "qwen3_moe", len(norms), {"experts": norms}, {}, False, 1, 1, 1, 1
    )


def test_the_shape_of_a_profile_is_that_of_its_norms():
    rising = advice.shape_of(profile_of(1.0, 1.1, 1.2, None, 1.3, 1.4))
    assert (rising["first"], rising["middle"], rising["last"]) == ("1", "1.2", "1.4")
    assert (rising["rank"], rising["seam"]) == ("+1.00", "4")
    assert advice.shape_of(profile_of(3.0, 2.0, 1.0))["rank"] == "-1.00"
    grown = advice.shape_of(profile_of(1.0, 1.0, 2.0, 2.0, 2.0))
    assert (grown["seam"], grown["copies"], rising["copies"]) == ("1", True, False)
    flat = advice.shape_of(profile_of(1.0, 1.0, 1.0))
    assert (flat["rank"], flat["seam"]) == ("+0.00", "")
    assert advice.shape_of(profile_of(1.0, 2.0)) is None
    # The ends are left out: there even a converged model's norms fall.
    assert advice.shape_of(profile_of(9.0, *range(1, 9), 0.0))["rank"] == "+1.00"


def test_norms_are_looked_at_where_they_are_asked_for(run, checkpoint):
    found = moegrow.norms(checkpoint()).norms["experts"]
    told = run("advise", checkpoint(), "--norms").stdout
    assert f"{found[0]:.4g} in the first layer" in told
    assert f"{found[-1]:.4g} in the last" in told
    assert "stacking would put" in told
    assert "--norms reads the weights" not in told
    assert "--norms reads the weights" in str(advised(checkpoint()))


def test_what_norms_cannot_tell_is_said(run, checkpoint, tmp_path):
    one = run("advise", checkpoint(num_hidden_layers=1), "--norms").stdout
    assert "fewer than 3 layers have experts" in one
    assert "--norms reads the weights" not in one
    assert "keeping the first and last 2" not in one
    assert "keeping the first and last 2 of 8" in str(advised(checkpoint(num_hidden_layers=8)))
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["model.layers.2.mlp.gate.weight"][0, :3] = float("nan")
    assert "3 of its weights are NaN or infinite" in run("advise", source, "--norms").stdout
    plan = run("depth", checkpoint(), "--plan").stdout
    assert "most neighbours have the same norm" in run("advise", "--norms", stdin=plan).stdout


def test_sentences_are_broken_between_words_where_a_terminal_is_narrow(checkpoint):
    found = advised(checkpoint("deepseek_v3"), 10**12)
    narrow = list(found.lines(60))
    prose = narrow[narrow.index("boundary") :]
    assert max(map(len, prose)) <= 60
    words = " ".join(prose).split()
    assert words == str(found).split("\n\nboundary\n")[1].join(["boundary ", ""]).split()
    assert list(found.lines()) == str(found).split("\n")


def test_wrong_tokens_are_wrong_usage(run, checkpoint):
    assert (
        "--tokens many is no number"
        in run("advise", checkpoint(), "--tokens", "many", code=2).stderr
    )
