"""Every document that a command prints is as docs/json.md describes it, key by key."""

import json
import re

import alter
import pytest
import quantised
import torch
from repository import DOCS
from test_docs import rows, section

PAGE = DOCS / "json.md"
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
KINDS = {
    "text": str, "whole number": int, "number": float, "truth": bool, "list": list,
    "table": dict, "nothing": type(None), "any": object,
}  # fmt: skip


def described(title):
    """Each key of a section, as a pattern of its path, with the kinds that it may have."""
    found = {}
    for cell, kind, _ in rows(section(PAGE, title)):
        words = kind.replace("true or false", "truth").split(" or ")
        for key in re.findall(r"`([^`]+)`", cell):
            found[key] = tuple(KINDS[word] for word in words)
    return found


def entries(value, path=""):
    """Every value of a document with its path."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from entries(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from entries(inner, f"{path}[]")


def matches(pattern, path):
    words = re.escape(pattern).replace(r"\*", "[^\\[]+" if pattern.endswith("*") else "[^.\\[]+")
    return re.fullmatch(words, path) or (pattern.endswith(".*") and path.startswith(pattern[:-1]))


def hold(title, *documents):
    """Every value is described and of its kind, and every description is of some value."""
    keys, met = described(title), set()
    for document in documents:
        for path, value in entries(document):
            fitting = [key for key in keys if matches(key, path)]
            exact = [key for key in fitting if key == path] or fitting
            assert exact, f"{path} is not described"
            assert any(
                type(value) in keys[key]
                or object in keys[key]
                or (type(value) is int and float in keys[key])
                for key in exact
            ), f"{path} is {value!r}"
            met.update(exact)
    assert met == keys.keys(), keys.keys() - met


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def document(done):
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_growth(run, source, checkpoint, tmp_path):
    (source / "pytorch_model.bin").write_bytes(b"x")  # stays behind, which is a note
    documents = [
        document(run("width", source, "--experts", "6", "-o", "wide", "--json", "--verify")),
        document(run("depth", source, "--json", "--dry-run")),
        document(run("depth", source, "--json", "--dry-run", "--mode", "stack")),
        document(run("run", "orthogonal", source, "-o", "both", "--json", "-q")),
        document(run("width", checkpoint("deepseek_v3"), "--json", "-o", "compensated")),
    ]
    (tmp_path / "plan.jsonl").write_text(run("depth", source, "--plan").stdout)
    stack = run("depth", source, "--mode", "stack", "--plan").stdout
    (tmp_path / "stack.jsonl").write_text(stack)
    still = alter.copy(checkpoint(), tmp_path / "still")
    with alter.weights(still) as tensors:
        tensors[EXPERT] = torch.ones_like(tensors[EXPERT])
    documents.append(document(run("width", still, "-o", "constant", "--json")))
    assert documents[-1]["still"] == [EXPERT.replace("experts.2", "experts.6")]
    documents.append(document(run("apply", "plan.jsonl", "-o", "applied", "--json")))
    part = "--shards", "1/2", "--max-shard-size", "20KB"
    documents.append(document(run("apply", "plan.jsonl", "-o", "shared", "--json", *part)))
    hold("depth, width, convert, apply, run", *documents)
    wide, dry, stacked, *_ = documents
    assert (wide["seams"], dry["seams"]["largest"]) == (None, {})
    assert (dry["seams"]["seams"], stacked["seams"]["seams"]) == (4, 1)
    assert stacked["seams"]["largest"]["experts"]["old"] == [3, 0]
    sampled = run("norms", "stack.jsonl", "--seams", "--sample", "--json")
    (told,) = document(sampled)["profiles"]
    assert stacked["seams"]["largest"] == told["seams"][0]["largest"]
    assert wide["path"] == str(tmp_path / "wide")
    assert (wide["before"]["experts"], wide["after"]["experts"]) == (4, 6)
    assert wide["after"] == {
        key: value if key != "moe_layers" else len(value)
        for key, value in document(run("inspect", "wide", "--json")).items()
        if key in wide["after"]
    }
    assert (
        sum(wide["moved"][way] for way in ("shared", "copied", "computed"))
        == (wide["after"]["nbytes"])
    )
    assert wide["warnings"]
    assert wide["verified"]["ok"]
    assert (dry["files"], dry["moved"], dry["seconds"]) == (None, None, None)
    assert not (tmp_path / "qwen3_moe-depth2x").exists()


def test_verify(run, source, checkpoint, tmp_path):
    run("width", source, "-o", "wide", "-q")
    well = run("verify", "wide", "--json", "-q")
    assert well.stderr == ""
    file = next((tmp_path / "wide").glob("*.safetensors"))
    alter.flip(file, file.stat().st_size - 1)
    ill = run("verify", "wide", "--json", code=1)
    assert "differs from its plan" in ill.stderr
    ran = document(run("verify", "wide", "--logits", "--json", code=1))
    hidden = alter.copy(checkpoint("llama4"), tmp_path)
    run("width", hidden, "-o", "exact", "--noise", "0", "-q")
    unshown = document(run("verify", "exact", "--logits", "--json"))
    assert (unshown["logits"]["together"], unshown["logits"]["parts_at"]) == (None, None)
    hold("verify", document(well), document(ill), ran, unshown)
    assert document(well)["ok"]
    assert not document(ill)["ok"]


def packed_source(checkpoint, folder):
    """A checkpoint in blocks of fp8."""
    form, folder = "fp8 blocks", folder / "packed"
    return quantised.quantised(quantised.plain(checkpoint, form), folder, form)


def test_inspect(run, source, checkpoint, tmp_path):
    name, other, norm = EXPERT, EXPERT.replace("up_proj", "down_proj"), "model.norm.weight"
    with alter.weights(source) as tensors:
        tensors["empty"] = torch.zeros(0, 4)
        tensors[norm] = torch.ones_like(tensors[norm])
        tensors[name], tensors[other] = tensors[name].clone(), tensors[other].clone()
        tensors[name][0, 0], tensors[other][0, 1] = float("nan"), float("inf")
    found = document(run("inspect", source, "--values", "--json"))
    packed = document(run("inspect", packed_source(checkpoint, tmp_path), "--json"))
    assert packed["formats"] == {"fp8 with block scales": 104}
    hold("inspect", document(run("inspect", source, "--json")), found, packed)
    assert (found["values"]["nan"], found["values"]["infinite"]) == ({name: 1}, {other: 1})
    assert norm in found["values"]["constant"]
    assert found["values"]["empty"] == ["empty"]


def test_advise(run, source, checkpoint):
    known = document(run("advise", source, "--tokens", "1B", "--json"))
    refused = document(run("advise", checkpoint("phimoe"), "--json"))
    large = checkpoint(num_experts=512, num_hidden_layers=1)
    hold("advise", known, refused, document(run("advise", large, "--json")))
    assert (known["ratio"] > 1, refused["ratio"]) == (True, None)


def test_norms(run, source, checkpoint):
    with alter.weights(source) as tensors:
        tensors[EXPERT] = tensors[EXPERT].clone()
        tensors[EXPERT][0, 0] = float("nan")
        # A layer whose router holds no number has no norm of one.
        router = "model.layers.1.mlp.gate.weight"
        tensors[router] = torch.full_like(tensors[router], float("nan"))
    both = document(run("norms", source, source, "--json"))
    sample = document(run("norms", source, "--json", "--sample"))
    # In a model of one layer no step between neighbours is usual.
    single = checkpoint(num_hidden_layers=1)
    ways = [
        document(run("norms", "--seams", "--json", folder))
        for folder in (source, single, checkpoint("deepseek_v3"))
    ]
    hold("norms", both, sample, *ways)
    assert both["profiles"][0]["nonfinite"][EXPERT] == 1


def test_map(run, source, checkpoint):
    plan = run("depth", checkpoint("zaya"), "--plan").stdout
    zaya = run("width", "--plan", stdin=plan).stdout
    hold("map", *(document(run("map", "--json", stdin=it)) for it in (plan, zaya)))


def test_diff(run, source, checkpoint, tmp_path):
    run("depth", source, "-o", "deep", "-q")
    deep = document(run("diff", source, "deep", "--json"))
    back = document(run("diff", "deep", source, "--json", "--headers"))
    with alter.weights(source) as tensors:
        tensors["lm_head.weight"] += 1
        tensors["model.norm.weight"] = tensors["model.norm.weight"].half()
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][1:]
    changed = document(run("diff", checkpoint(), source, "--json"))
    hold("diff", deep, back, changed)


def test_report(run, source):
    run("depth", source, "-o", "deep", "-q")
    plain = document(run("report", "deep", "--json"))
    hold("report", plain, document(run("report", "deep", "--verify", "-o", "x.html", "--json")))
    assert plain["ok"] is None


def test_recipes(run):
    hold("recipes", document(run("recipes", "--json")))


def test_demo(run):
    hold("demo", document(run("demo", "--json")))


def test_a_command_that_fails_prints_no_document(run, source):
    assert run("depth", "nothing", "--json", code=1).stdout == ""
    assert run("depth", source, "--json", "--plan", code=2).stdout == ""


def test_every_command_has_a_document(run):
    commands = re.findall(r"^  (\w+) ", run("--help").stdout.partition("Commands:")[2], re.M)
    titles = re.findall(r"^## (.*)$", PAGE.read_text(), re.M)
    assert {word for title in titles for word in title.split(", ")} == set(commands)
    for command in commands:
        assert "--json" in run(command, "--help").stdout
