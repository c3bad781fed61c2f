"""What --verbose tells is true: the family, the layers, the config, the files, the bytes."""

import json
import re

import pytest

from moegrow.cli.explain import source_sentences
from moegrow.planning.open_source import load


def told(done, word):
    """The sentences of -v that begin with a word."""
    return re.findall(rf"^{word}: (.*)$", done.stderr, re.M)


def test_the_family_and_the_layers_are_told_with_the_reason(run, checkpoint):
    done = run("inspect", checkpoint("deepseek_v3"), "-v")
    (family,) = told(done, "family")
    assert family == "deepseek.toml, because config.json says model_type 'deepseek_v3'"
    (layers,) = told(done, "layers")
    assert layers.startswith("1-3 of 4 have experts, whose tensors are named ")
    assert run("inspect", checkpoint("deepseek_v3")).stderr == ""


def test_a_family_file_of_ones_own_is_told(run, checkpoint, tmp_path):
    from importlib.resources import files

    (tmp_path / "mine.toml").write_text((files("moegrow") / "families/qwen_moe.toml").read_text())
    done = run("depth", checkpoint(), "--family", "mine.toml", "--dry-run", "-v")
    assert told(done, "family")[0].startswith("the file given with --family, because")


@pytest.mark.parametrize(
    ("model_type", "flags"),
    [
        ("qwen3_moe", ["depth", "--mode", "stack"]),
        ("deepseek_v3", ["width", "--noise", "0"]),
        ("qwen3_next", ["depth", "--group", "4"]),
        ("gpt_oss", ["depth", "--group", "2"]),
    ],
)
def test_every_key_of_the_config_that_changes_is_told_with_a_reason(
    run, checkpoint, tmp_path, model_type, flags
):
    source = checkpoint(model_type)
    done = run(*flags, source, "-o", "grown", "-v")
    sentences = told(done, "config")
    old = json.loads((source / "config.json").read_text())
    new = json.loads((tmp_path / "grown" / "config.json").read_text())
    changed = {key for key in new if old.get(key) != new[key]}
    assert {sentence.split()[0].split(".")[0] for sentence in sentences} == changed
    for sentence in sentences:
        assert re.fullmatch(r"\S+ .* -> .*: .+", sentence)
    reasons = {sentence.split()[0]: sentence.rpartition(": ")[2] for sentence in sentences}
    if "depth" in flags:
        assert reasons["num_hidden_layers"] == "it counts the layers"
    else:
        assert reasons["n_group"].startswith("groups of experts are copied as wholes")


def test_the_files_and_the_bytes_are_those_that_are_written(run, checkpoint, tmp_path):
    done = run("width", checkpoint(), "-o", "grown", "-v", "--max-shard-size", "100KB", "--json")
    files = [sentence.partition(",")[0] for sentence in told(done, "file")]
    assert files == sorted(path.name for path in (tmp_path / "grown").glob("*.safetensors"))
    (tally,) = told(done, "bytes")
    moved = json.loads(done.stdout)["moved"]
    computed = float(re.search(r"([\d.]+) KB are computed", tally)[1])
    assert computed == pytest.approx(moved["computed"] / 1000, abs=0.06)


def test_a_plan_that_changes_nothing_says_so(run, checkpoint, tmp_path):
    (tmp_path / "plan.jsonl").write_text(
        run("depth", checkpoint(), "--times", "1x", "--plan").stdout
    )
    done = run("apply", "plan.jsonl", "-o", "copy", "-v")
    assert told(done, "config") == ["nothing changes"]


def test_without_the_flag_nothing_of_it_is_told(run, checkpoint):
    done = run("width", checkpoint(), "-o", "grown")
    assert not told(done, "family")
    assert not told(done, "file")


def test_prediction_layers_and_nested_configs_are_told(checkpoint):
    layout = load(checkpoint("llama4")).layout
    assert any("text_config" in line for line in source_sentences(layout, own_family=False))
