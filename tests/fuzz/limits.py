"""Every parser of what anyone may have written holds the limits of docs/reliability.md.

Each input is given to the real command, which may refuse it or do its work: in less than five
seconds of processor time, in less than 500 MB, and with no traceback. It takes minutes, and is run
by hand: `pytest tests/fuzz/limits.py`. tests/system/test_limits.py has a part of it.
"""

import json
import shutil
from contextlib import suppress

import alter
import hubserver
import pytest
from hostile import CARDS, MIB, PATTERNS, TOML, VALUES, digests, header, json_with

import moegrow
from moegrow.errors import MoegrowError

SECONDS, MEMORY = 5, 500_000_000
SHARD = "model-00001-of-00004.safetensors"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def bounded(begin):
    """Run a command within the limits, however it ends; gives what it says.

    What went beyond them is told together at the end.
    """
    beyond = []

    def bounded(what, *arguments, **settings):
        done = begin(*arguments, **settings).end(120)
        told = f"{done.seconds:.1f} s, {done.peak / 1e6:.0f} MB, exit {done.returncode}: {what}"
        print(told)
        is_within = done.seconds < SECONDS and done.peak < MEMORY
        if done.returncode not in (0, 1, 2) or not is_within:
            beyond.append(f"{told}: {done.stderr[:300]}")
        return done

    yield bounded
    assert not beyond, "\n".join(beyond)


@pytest.mark.parametrize("key", ["num_hidden_layers", "architectures", "quantization_config"])
def test_config(source, bounded, key):
    path = source / "config.json"
    text = path.read_text()
    for what, value in VALUES.items():
        path.write_text(json_with(text, key, value))
        bounded(f"{key}: {what}", "inspect", source)


@pytest.mark.parametrize("verb", ["inspect", "depth"])
def test_quantisation_configs(source, bounded, verb):
    path = source / "config.json"
    config = json.loads(path.read_text())
    groups = [{"weights": {"num_bits": bits}, "targets": ["Linear"]} for bits in (4, 8)]
    for what, pattern in PATTERNS.items():
        told = {
            "quant_method": "compressed-tensors", "ignore": [f"re:{pattern}", f"x.{pattern}"],
            "config_groups": {"a": {**groups[0], "targets": [f"re:{pattern}"]}, "b": groups[1]},
        }  # fmt: skip
        path.write_text(json.dumps({**config, "quantization_config": told}))
        bounded(what, verb, source, *(["--plan"] if verb == "depth" else []))
    for name in ("hf_quant_config.json", "quantize_config.json"):
        (source / name).write_text(json.dumps({"x": "re:" + "layers." * 100_000}))
        bounded(name, verb, source, *(["--plan"] if verb == "depth" else []))


@pytest.mark.parametrize("name", ["quant_config.json", "model.safetensors.index.json"])
def test_other_json_of_a_checkpoint(source, bounded, name):
    path = source / name
    before = path.read_text() if path.exists() else "{}"
    for what, value in VALUES.items():
        path.write_text(json_with(before, "weight_map" if "index" in name else "bits", value))
        bounded(what, "depth", source, "--plan")


def test_headers(source, bounded):
    for what, value in VALUES.items():
        for text in (json_with("{}", "x", value), json_with("{}", "__metadata__", value)):
            (source / SHARD).write_bytes(header(text))
            bounded(what, "inspect", source)
    for what, entry in {
        "dimensions": {"dtype": "F32", "shape": [1] * 500_000, "data_offsets": [0, 4]},
        "a product": {"dtype": "F32", "shape": [2**62] * 60, "data_offsets": [0, 4]},
    }.items():
        (source / SHARD).write_bytes(header(json.dumps({"x": entry})) + bytes(4))
        bounded(what, "inspect", source)


def test_plans(source, bounded, tmp_path):
    lines = bounded("a plan", "depth", source, "--plan").stdout.split("\n")
    header = json.loads(lines[0])
    path = tmp_path / "plan.jsonl"
    for what, value in VALUES.items():
        for key in ("growth", "config"):
            path.write_text("\n".join([json_with(lines[0], key, value), *lines[1:]]))
            bounded(f"{key}: {what}", "inspect", path)
        path.write_text("\n".join([lines[0], json_with(lines[1], "shape", value), *lines[2:]]))
        bounded(f"line: {what}", "inspect", path)
    growth = header["growth"]
    for key in ("layers", "experts"):
        for count in (100_000, 200_000):
            grown = {**growth, key: [number % 4 for number in range(count)]}
            path.write_text(json.dumps({**header, "growth": grown}) + "\n")
            for options in ([], ["--json"], ["--svg", tmp_path / "map.svg"]):
                bounded(f"{count} {key}", "map", path, *options)
    for size, count in ((15, 12), (45, 3)):
        with path.open("w") as file:
            file.write(json.dumps({**header, "outputs": count}) + "\n")
            for _ in range(count):
                file.write('{"x":"\U0001f600' + "a" * (size * MIB) + '"}\n')
        bounded(f"lines of {size} MiB", "inspect", path)


def test_family_files(source, bounded, tmp_path):
    header, *rest = bounded("a plan", "depth", source, "--plan").stdout.split("\n")
    for what, text in TOML.items():
        family = f'model_types = ["qwen3_moe"]\n{text}'
        (tmp_path / "family.toml").write_text(family)
        bounded(what, "inspect", source, "--family", tmp_path / "family.toml")
        plan = json.dumps({**json.loads(header), "family_text": family})
        (tmp_path / "plan.jsonl").write_text("\n".join([plan, *rest]))
        bounded(f"in a plan: {what}", "inspect", tmp_path / "plan.jsonl")


def test_recipes(source, bounded, tmp_path):
    for what, text in TOML.items():
        for recipe in (f"moegrow_recipe = 1\n{text}", f"{text}\nmoegrow_recipe = 1"):
            (tmp_path / "recipe.toml").write_text(recipe)
            bounded(what, "run", tmp_path / "recipe.toml", source)


@pytest.mark.parametrize("name", ["moegrow-digests.jsonl", "moegrow-plan.jsonl"])
def test_what_lies_in_a_result(source, bounded, tmp_path, name):
    bounded("a result", "depth", source, "-o", tmp_path / "deep", "-q", "--digests")
    path = tmp_path / "deep" / name
    first, second, *rest = path.read_text().splitlines()
    is_plan = "plan" in name
    for what, value in VALUES.items():
        for number, key in enumerate(["steps", "shape"] if is_plan else ["files", "ranges"]):
            lines = [first, second, *rest] if is_plan else [first, second, *rest[:-1]]
            lines[number] = json_with(lines[number], key, value)
            text = "\n".join(lines) + "\n" if is_plan else digests(*lines)
            path.write_text(text)
            bounded(f"{key}: {what}", "verify", tmp_path / "deep")


def test_digests_of_too_many_bytes(source, bounded, tmp_path):
    bounded("a result", "depth", source, "-o", tmp_path / "deep", "-q", "--digests")
    path = tmp_path / "deep" / "moegrow-digests.jsonl"
    first, second, *_ = path.read_text().splitlines()
    for what, ranges, lines in (
        ("the same often", [[8, 1000, "00000000"]] * 300_000, 1),
        ("many", [[n, n, "00000000"] for n in range(300_000)], 5),
        ("too many", [[n, n, "00000000"] for n in range(300_000)], 20),
        ("of large numbers", [[0, 10**4000, "0" * 9000]] * 2000, 4),
    ):
        entry = json.dumps({**json.loads(second), "ranges": ranges})
        path.write_text(digests(first, *[entry] * lines))
        bounded(what, "verify", tmp_path / "deep")


@pytest.mark.parametrize("name", ["begun.json", "journal"])
def test_what_lies_in_a_working_folder(source, bounded, monkeypatch, tmp_path, name):
    def cut_off(*arguments):
        raise OSError(5, "cut off")

    for what, value in VALUES.items():
        shutil.rmtree(tmp_path / "grown", ignore_errors=True)
        with monkeypatch.context() as patch, suppress(MoegrowError):
            patch.setattr("moegrow.write.publish._write_beside", cut_off)
            moegrow.apply(moegrow.width(source), tmp_path / "grown", force=True)
        folder = tmp_path / "grown.partial"
        path = folder / name if name == "begun.json" else next((folder / name).iterdir())
        path.write_text(json_with(path.read_text(), "size", value))
        bounded(what, "width", source, "-o", tmp_path / "grown", "--resume", "-q")


@pytest.mark.parametrize("key", ["siblings", "x"])
def test_answers_of_the_hub(bounded, monkeypatch, tmp_path, key):
    for name, value in (("ENDPOINT", ""), ("HOME", str(tmp_path / "home")), ("HUB_OFFLINE", "0")):
        monkeypatch.setenv(f"HF_{name}", value)
    for what, value in VALUES.items():
        answer = json_with("{}", key, value).encode("utf-8", "surrogatepass")
        with hubserver.serving() as hub, monkeypatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.url)
            patch.setattr(hubserver._Answer, "_info", lambda self, *_, a=answer: self._send(
                200, a, {"Content-Type": "application/json"}
            ))  # fmt: skip
            bounded(f"{key}: {what}", "inspect", "hf://org/name")


def test_model_cards(source, bounded, tmp_path):
    for what, text in CARDS.items():
        (source / "README.md").write_text(f"---\n{text}\n---\n# A model\n")
        bounded(what, "depth", source, "-o", tmp_path / "deep", "-q", "--force")
