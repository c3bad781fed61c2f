"""The model card, as the Hub's own library reads it."""

from dataclasses import replace

import alter
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import RepoCard

import moegrow
from moegrow.checkpoint.card_metadata import Carried, read_metadata
from moegrow.planning.notes import AxisSummary, Quoted
from moegrow.write.model_card import base_model, model_card

COMMIT = "0123456789" * 4


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def plan(source):
    return moegrow.width(moegrow.depth(source))


def of_the_hub(plan):
    return replace(plan, source=replace(plan.source, path=f"hf://org/name@{COMMIT}"))


def test_the_card_says_to_machines_what_it_is_made_of(plan):
    carried = Carried({"license": "mit", "language": ["en", "no"], "datasets": ["org/data"]})
    data = RepoCard(model_card(of_the_hub(plan), "grown", carried)).data.to_dict()
    assert data == {
        "base_model": "org/name", "license": "mit", "language": ["en", "no"],
        "datasets": ["org/data"], "library_name": "transformers",
        "tags": ["mixture-of-experts", "moegrow", "grown-in-depth", "grown-in-width"],
    }  # fmt: skip


def test_a_result_on_disk_has_the_metadata_of_its_source(source, tmp_path):
    text = "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\nlanguage: no\n---\nx"
    (source / "README.md").write_text(text)
    (source / "LICENSE").write_text("free")
    moegrow.apply(moegrow.depth(source), tmp_path / "grown")
    data = ModelCard.load(tmp_path / "grown" / "README.md").data
    assert (data.license, data.license_name, data.license_link) == ("other", "own", "LICENSE")
    assert data.language == ["no"]
    assert data.base_model is None


def test_a_link_to_the_licence_leads_somewhere(plan):
    carried = Carried({"license": "other", "license_link": "LICENSE"})
    assert "license_link: LICENSE\n" in model_card(plan, "grown", carried, ["LICENSE"])
    assert "license_link" not in model_card(plan, "grown", carried)
    address = f"license_link: https://huggingface.co/org/name/blob/{COMMIT}/LICENSE\n"
    assert address in model_card(of_the_hub(plan), "grown", carried)


def test_the_base_model_is_known_in_the_cache_of_the_hub_too(plan):
    def at(path):
        return base_model(replace(plan, source=replace(plan.source, path=path)))

    assert at(f"hf://org/name@{COMMIT}/small") == "org/name"
    assert at(f"/c/hub/models--org--name/snapshots/{COMMIT}") == "org/name"
    assert at("/c/ckpt") == at("s3://bucket/ckpt") == ""
    assert at("/c/models--<b>--name/snapshots/1") == ""


def test_what_strangers_have_written_ends_neither_a_line_nor_a_block(plan):
    evil = "x\n```\n# owned <script>\n| a | b |"
    steps = (AxisSummary("hand", (Quoted(evil),)),)
    name = "a*b* <img src=x> [link](x)"
    told = replace(plan, steps=steps, commands=(evil, "`````"), family=evil)
    text = model_card(told, name, Carried())
    lines = text.splitlines()
    assert not any(line.startswith(("# owned", "| a")) for line in lines)
    fence = "``````"
    assert lines.count(fence) == 1
    assert lines.count(f"{fence}console") == 1
    assert r"# a\*b\* \<img src=x\> \[link\](x)" in lines


def test_a_card_that_could_not_be_read_is_told(plan):
    text = model_card(plan, "grown", read_metadata("---\nlicense: [\n---"))
    assert "could not be read: see there for its licence" in text
