"""The limits of docs/reliability.md hold for what anyone may have written, in the real command.

Every parser is given the worst texts that are known for it. tests/fuzz/limits.py has many more, and
is run by hand.
"""

import json
from contextlib import suppress

import alter
import hubserver
import pytest
from hostile import CARDS, DOTTED, GRIN, MIB, PATTERNS, VALUES, digests, header, json_with

import moegrow
from moegrow.errors import MoegrowError

SECONDS, MEMORY = 5, 500_000_000


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def bounded(run):
    """Run a command within the limits, however it ends or with a code; gives what it says."""

    def bounded(*arguments, code=None):
        done = run(*arguments, code=code)
        assert done.returncode in (0, 1, 2), done.stderr
        assert done.seconds < SECONDS
        assert done.peak < MEMORY
        return done

    return bounded


@pytest.fixture
def plan(run, source):
    """The header of a plan, and the lines behind it."""
    header, *lines = run("depth", source, "--plan").stdout.split("\n")
    return json.loads(header), lines


# JSON


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("config.json", "num_hidden_layers", ["a wider text"]),
        ("config.json", "quantization_config", ["keys", "tables"]),
        ("quant_config.json", "bits", ["tables", "wide texts"]),
        ("modules.json", "0", ["a wide text", "deep lists"]),
        ("model.safetensors.index.json", "metadata", ["a longer one", "keys"]),
    ],
)
def test_a_json_file_of_a_checkpoint(source, bounded, name, key, values):
    path = source / name
    before = path.read_text() if path.exists() else "{}"
    for value in values:
        path.write_text(json_with(before, key, VALUES[value]))
        bounded("inspect" if name == "config.json" else "depth", source, "--json")
    assert not any(path.name.startswith("grown") for path in source.parent.iterdir())


@pytest.mark.parametrize("value", ["long keys", "tables, more", "a text too wide", "a longer one"])
def test_the_header_of_a_weight_file(source, bounded, value):
    path = sorted(source.glob("*.safetensors"))[0]
    path.write_bytes(header(json_with("{}", "x", VALUES[value])))
    bounded("inspect", source, code=1)


def test_texts_in_the_header_of_a_weight_file(source, bounded):
    names = json.dumps([f"layers.{n}" for n in range(300_000)])
    path = sorted(source.glob("*.safetensors"))[0]
    path.write_bytes(header(json.dumps({"__metadata__": {"tensor_names": names}})))
    bounded("depth", source, "--plan", code=1)


def test_the_header_and_the_lines_of_a_plan(bounded, plan, tmp_path):
    (first, (second, *rest)), path = plan, tmp_path / "plan.jsonl"
    for value in ("keys", "a wider text"):
        text = json_with(json.dumps(first), "growth", VALUES[value])
        path.write_text("\n".join([text, second, *rest]))
        bounded("inspect", path, code=1)
    text = json_with(second, "shape", VALUES["tables, more"][: 15 * MIB])
    path.write_text("\n".join([json.dumps(first), text, *rest]))
    bounded("inspect", path, code=1)


def test_a_plan_of_more_layers_than_there_may_be(bounded, plan, tmp_path):
    header, _ = plan
    path = tmp_path / "plan.jsonl"
    for count, code in ((200_000, 2), (100_000, 0)):
        growth = {**header["growth"], "layers": [number * 7 % 4 for number in range(count)]}
        path.write_text(json.dumps({**header, "growth": growth}) + "\n")
        bounded("map", path, code=code)


def test_a_plan_of_few_huge_lines(bounded, plan, tmp_path):
    header, _ = plan
    path = tmp_path / "plan.jsonl"
    for size, says in ((15, "malformed"), (17, "the most of a tensor is")):
        with path.open("w") as file:
            file.write(json.dumps({**header, "outputs": 9}) + "\n")
            for _ in range(9):
                file.write(f'{{"x":"{GRIN}{"a" * (size << 20)}"}}\n')
        assert says in bounded("inspect", path, code=1).stderr


def test_the_digests_in_a_result(source, bounded, run, tmp_path):
    run("width", source, "-o", "wide", "-q")
    path = tmp_path / "wide" / "moegrow-digests.jsonl"
    first, second, *_ = path.read_text().splitlines()
    for ranges, lines, says in (
        ([[8, 1000, "00000000"]] * 200_000, 1, "overlap"),
        ([[n, n, "00000000"] for n in range(200_000)], 8, "more than 1500000 ranges"),
    ):
        entry = json.dumps({**json.loads(second), "ranges": ranges})
        path.write_text(digests(first, *[entry] * lines))
        assert says in bounded("verify", "wide", code=1).stderr
    path.write_text(digests(json_with(first, "files", VALUES["a longer one"]), second))
    bounded("verify", "wide", code=1)


@pytest.mark.parametrize("name", ["begun.json", "journal"])
def test_what_lies_in_a_working_folder(source, bounded, monkeypatch, tmp_path, name):
    def cut_off(*arguments):
        raise OSError(5, "cut off")

    monkeypatch.setattr("moegrow.write.publish._write_beside", cut_off)
    with suppress(MoegrowError):
        moegrow.apply(moegrow.width(source), tmp_path / "grown")
    folder = tmp_path / "grown.partial"
    path = folder / name if name == "begun.json" else next((folder / name).iterdir())
    before = path.read_text()
    for value in ("keys, more", "a wider text", "a longer one"):
        path.write_text(json_with(before, "size", VALUES[value]))
        code = 1 if name == "begun.json" else 0  # a shard without a good entry is written again
        bounded("width", source, "-o", "grown", "--resume", "-q", code=code)
        if code == 0:
            break


# Other texts


def test_patterns_in_a_quantisation_config(source, bounded):
    path = source / "config.json"
    config = json.loads(path.read_text())
    for patterns in (["bars", "counted", "repeats"], ["one too long"], ["parentheses", "numbers"]):
        told = {
            "quant_method": "compressed-tensors",
            "ignore": [f"re:{PATTERNS[name]}" for name in patterns],
        }
        path.write_text(json.dumps({**config, "quantization_config": told}))
        bounded("depth", source, "--plan")


def test_a_family_file_with_a_long_key(source, bounded, plan, tmp_path):
    family = tmp_path / "family.toml"
    family.write_text(f'{DOTTED}model_types = ["qwen3_moe"]\n')
    done = bounded("inspect", source, "--family", family, code=1)
    assert "20000 dots in one line" in done.stderr
    header, lines = plan
    path = tmp_path / "plan.jsonl"
    path.write_text("\n".join([json.dumps({**header, "family_text": family.read_text()}), *lines]))
    assert "20000 dots in one line" in bounded("inspect", path, code=1).stderr


def test_a_recipe_with_a_long_key(bounded, tmp_path):
    (tmp_path / "recipe.toml").write_text(f"moegrow_recipe = 1\n{DOTTED}")
    assert "20000 dots" in bounded("run", tmp_path / "recipe.toml", "nowhere", code=1).stderr


def test_a_model_card(source, bounded):
    for name in ("deep", "references", "a long text"):
        (source / "README.md").write_text(f"---\n{CARDS[name]}\n---\n# A model\n")
        bounded("depth", source, "-o", "deep", "-q", "--force", code=0)


@pytest.mark.parametrize("value", ["lists", "a text that an escape makes wide", "a longer one"])
def test_an_answer_of_the_hub(bounded, monkeypatch, tmp_path, value):
    answer = json_with("{}", "siblings", VALUES[value]).encode()
    monkeypatch.setattr(hubserver._Answer, "_info", lambda self, *_: self._send(200, answer, JSON))
    with hubserver.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        bounded("inspect", "hf://org/name", code=1)


JSON = {"Content-Type": "application/json"}
