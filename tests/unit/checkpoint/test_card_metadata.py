"""The metadata of strangers' cards: what goes on, and what does no harm."""

import pytest
import yaml

from moegrow.checkpoint.card_metadata import MOST_VALUES, front_matter, read_metadata


def card(text):
    return f"---\n{text}\n---\n# a model\n"


def test_licence_language_data_and_task_go_on_and_nothing_else():
    found = read_metadata(
        card(
            "license: other\nlicense_name: tongyi-qianwen\n"
            "license_link: https://example.com/LICENSE\nlanguage:\n- en\n- zh-Hans\n"
            "datasets: [org/data, wikitext]\npipeline_tag: text-generation\n"
            "base_model: org/elder\ntags: [a]\nmodel-index: [{name: x}]"
        )
    )
    assert found.is_whole
    assert found.values == {
        "license": "other", "license_name": "tongyi-qianwen",
        "license_link": "https://example.com/LICENSE", "language": ["en", "zh-Hans"],
        "datasets": ["org/data", "wikitext"], "pipeline_tag": "text-generation",
    }  # fmt: skip


def test_values_are_texts_whatever_they_look_like():
    found = read_metadata(card("language: no\nlicense: 1.0\ndatasets: [on, 2024-01-01, null]"))
    assert found.values == {
        "license": "1.0", "language": ["no"], "datasets": ["on", "2024-01-01", "null"],
    }  # fmt: skip
    assert yaml.safe_load(front_matter(found.values).strip("-\n")) == found.values


@pytest.mark.parametrize("text", ["", "# a model", "--\nlicense: mit\n--", "license: mit"])
def test_a_card_without_metadata_is_whole_and_says_nothing(text):
    assert read_metadata(text) == read_metadata("")
    assert read_metadata(text).is_whole


LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + old] * 9)}]"
    for old, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {license: mit}\n" + "\n".join(
    f"{name}: &{name}\n  <<: [{', '.join(['*' + old] * 9)}]"
    for old, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "license: [", "license: mit\nlicense", "- mit", "mit", "{a: b", LAUGHS, MERGES,
        "[" * 50_000, "? " * 30_000, "license: !!python/object/apply:os.system [touch owned]",
        "? [a, b]\n: license", "license: {mit: 1}", "license: [[mit]]", "license: a\\nb<script>",
        "license_link: javascript:alert(1)", "license_link: ../../etc/passwd?x",
        "language: ['<b>', en]", "pipeline_tag: |\n  a\n  b", "datasets: [" + "a/b/c, " * 9 + "]",
    ],
    ids=range(19),
)  # fmt: skip
def test_a_hostile_card_does_no_harm_and_is_told(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_metadata(card(text))
    assert not found.is_whole
    assert found.values in ({}, {"language": ["en"]})
    assert not list(tmp_path.iterdir())


def test_a_card_cut_in_its_metadata_is_told():
    assert not read_metadata("---\nlicense: mit\n").is_whole


def test_no_more_values_go_on_than_make_sense():
    found = read_metadata(card(f"language: [{', '.join(['en'] * 5000)}]"))
    assert len(found.values["language"]) == MOST_VALUES
    assert not found.is_whole
