"""The names of files far away: what belongs to a checkpoint, and what is no name at all."""

import pytest

from moegrow.checkpoint.listing import Listed, RemoteFile, safe
from moegrow.errors import MoegrowError

NAMES = [
    "config.json", "model.safetensors", "sub/a.txt", "sub/deep/b.txt", ".git/x", "sub/.hidden",
    "other/config.json", "other/vocab.txt", "other/deep/c.txt",
]  # fmt: skip


def test_hidden_files_and_what_is_left_out_are_no_part():
    listed = Listed("hf://org/name@1", {name: RemoteFile(len(name)) for name in NAMES})
    asked = []

    def is_left(name):
        asked.append(name)
        return name in ("other", "config.json")

    assert list(listed.walk(is_left)) == ["model.safetensors", "sub/a.txt", "sub/deep/b.txt"]
    assert sorted(asked) == sorted(set(asked))
    assert "other/vocab.txt" not in asked
    assert listed.folders() == [".git", "other", "sub"]
    assert listed.top() == ["config.json", "model.safetensors"]
    assert listed.below("config.json") == ["hf://org/name@1/other"]
    assert listed.size("sub/a.txt") == 9
    assert not listed.has("sub")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "a//b", "a/./b", "a\\b", "a\nb", "", ".", "a/"]
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(MoegrowError, match="no name of a file"):
        safe(name)


def test_an_ordinary_name_is_kept():
    assert safe("sub/größe 1.txt") == "sub/größe 1.txt"
