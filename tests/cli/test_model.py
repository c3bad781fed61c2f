"""A checkpoint in Python: one chain from open to verify, and values that print well."""

import inspect
from html.parser import HTMLParser

import alter
import pytest
import tiny

import moegrow
from moegrow.checkpoint.side_files import PLAN


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


class Texts(HTMLParser):
    """The text of a page and its tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not attrs

    def handle_data(self, data):
        self.text += data


def test_a_chain_gives_what_the_functions_give(source, tmp_path):
    model = moegrow.open(source).deepen(mode="stack").widen(experts="3x", seed=4)
    plan = moegrow.width(moegrow.depth(source, mode="stack"), experts="3x", seed=4)
    assert model.plan == plan
    assert model.plan.commands == plan.commands
    written = model.apply(tmp_path / "grown", max_shard_size="100KB", threads=1)
    assert written.verify().ok
    assert moegrow.plan(tmp_path / "grown" / PLAN) == plan
    tiny.load(tmp_path / "grown")


def test_an_open_model_that_has_not_grown_is_a_copy(source, tmp_path):
    moegrow.open(source).apply(tmp_path / "copy")
    assert moegrow.diff(source, tmp_path / "copy").is_empty


def test_a_model_goes_on_from_a_plan(source, tmp_path, run):
    (tmp_path / "plan.jsonl").write_text(run("depth", source, "--plan").stdout)
    model = moegrow.open(tmp_path / "plan.jsonl").widen(noise=0)
    assert model.plan == moegrow.width(moegrow.depth(source), noise=0)


def test_growing_leaves_a_model_as_it_was(source):
    model = moegrow.open(source)
    model.deepen().widen()
    assert (model.inspect()["layers"], model.inspect()["experts"]) == (4, 4)
    assert model.run("orthogonal").plan == model.deepen().widen(noise=0.01).plan


@pytest.mark.parametrize(
    ("method", "verb"),
    [("deepen", moegrow.depth), ("widen", moegrow.width), ("run", moegrow.run)],
)
def test_a_method_shows_the_options_of_its_verb(method, verb):
    shown = inspect.signature(getattr(moegrow.Model, method)).parameters
    assert list(shown) == list(inspect.signature(verb).parameters)


def test_progress_comes_to_every_byte(source, tmp_path):
    written, verified = [], []
    result = moegrow.open(source).widen().apply(tmp_path / "grown", progress=written.append)
    result.verify(progress=verified.append)
    assert sum(written) == sum(verified) == result.nbytes


def test_values_print_in_one_line_or_as_a_table(source, tmp_path):
    model = moegrow.open(source).deepen().widen(experts=6)
    assert repr(model) == "<model of qwen3_moe: 8 layers, 6 experts, top-3>"
    assert "layers 4 -> 8, experts 4 -> 6, top_k 2 -> 3" in repr(model.plan)
    assert len(repr(model.plan)) < 400
    lines = str(model).splitlines()
    assert lines[0].split() == ["qwen3_moe", "before", "after"]
    assert len({len(line) for line in lines[:8]}) == 1
    assert any("not preserved" in line for line in lines)
    written = model.apply(tmp_path / "grown")
    assert str(written).startswith(f"{tmp_path / 'grown'}: ")
    assert str(written.verify()).startswith("as planned: ")
    assert "num_hidden_layers: 4 -> 8" in str(moegrow.diff(source, tmp_path / "grown"))
    assert "6, top-3 by softmax" in str(moegrow.inspect(tmp_path / "grown"))


def test_a_notebook_shows_tables_and_no_markup_of_strangers(source, tmp_path):
    with alter.table(source / "config.json") as config:
        config["<script>alert(1)</script>"] = 1
    model = moegrow.open(source).widen(experts=6)
    written = model.apply(tmp_path / "<b>grown")
    other = moegrow.diff(moegrow.depth(source), moegrow.plan(source))
    for value in (model, moegrow.inspect(source), written, written.verify(), other):
        page = Texts(value._repr_html_())
        assert set(page.tags) <= {"table", "tr", "th", "td", "p", "pre"}
        assert page.text
    assert "<b>grown" in Texts(written._repr_html_()).text
    file = next((tmp_path / "<b>grown").glob("*.safetensors"))
    file.rename(file.with_name("model-<i>.safetensors"))
    assert "<i>" not in moegrow.verify(tmp_path / "<b>grown")._repr_html_()
    assert "before" in Texts(model._repr_html_()).text
