"""Every parser of what anyone may have written holds the limits of docs/reliability.md.

Each input is given to the real command, which may refuse it or do its work: in less than five
seconds of processor time, in less than 500 MB, and with no traceback. It takes minutes, and is run
by hand: `pytest tests/fuzz/limits.py`. tests/test_limits.py has a part of it.
"""

import json
import struct

import alter
import pytest

SECONDS, MEMORY = 5, 500_000_000
SHARD = "model-00001-of-00004.safetensors"
MIB = 1 << 20

# Texts that stand where a JSON value belongs.
VALUES = {
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep tables": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "many tables": "[" + ",".join(['{"a":0}'] * 900_000) + "]",
    "many keys": "{" + ",".join(f'"{n}":0' for n in range(500_000)) + "}",
    "a key twice": '{"a":1,"a":2}',
    "a long text": '"\U0001f600' + "a" * (12 * MIB) + '"',
    "escapes": '"' + "\\u00e9" * (2 * MIB) + '"',
    "half a character": '"\\ud800"',
    "a number without end": "9" * 100_000,
    "a large number": "9" * 4000,
    "no number": "NaN",
    "infinity": "-Infinity",
    "a float": "1e400",
    "not closed": '{"a": [',
}


def json_with(text, key, value):
    """A JSON object with the text of a value at a key; the other keys stay."""
    table = {name: old for name, old in json.loads(text).items() if name != key}
    rest = json.dumps(table)[1:-1]
    return f'{{"{key}": {value}{", " if rest else ""}{rest}}}'


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def bounded(begin):
    """Run a command within the limits, however it ends; gives what it says."""

    def bounded(what, *arguments, **settings):
        done = begin(*arguments, **settings).end(120)
        told = f"{what}: exit {done.returncode}, {done.stderr[:300]}"
        assert done.returncode in (0, 1, 2), told
        assert done.seconds is not None
        assert done.seconds < SECONDS, f"{done.seconds:.1f} s, {told}"
        assert done.peak < MEMORY, f"{done.peak / 1e6:.0f} MB, {told}"
        return done

    return bounded


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
    for what, pattern in {
        "optional marks": ".?" * 30 + "." * 30 + "X", "bars": "(.|.)" * 60 + "X",
        "parentheses": "(" * 1000 + ")" * 1000, "a long one": "layers\\." * 100_000,
        "repeats": "(a+)+" * 1000, "counted": "((a{100}){100}){100}", "ahead": "(?!" * 20_000,
        "classes": "[" * 100_000, "numbers": "layers." + "(1|" * 20_000, "empty": "",
    }.items():  # fmt: skip
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
            raw = text.encode("utf-8", "surrogatepass")
            (source / SHARD).write_bytes(struct.pack("<Q", len(raw)) + raw)
            bounded(what, "inspect", source)
    for what, entry in {
        "dimensions": {"dtype": "F32", "shape": [1] * 500_000, "data_offsets": [0, 4]},
        "a product": {"dtype": "F32", "shape": [2**62] * 60, "data_offsets": [0, 4]},
    }.items():
        raw = json.dumps({"x": entry}).encode()
        (source / SHARD).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
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


TOML = {
    "a dotted key": "a" + ".a" * 20_000 + " = 1\n",
    "a dotted header": "[" + "a." * 20_000 + "a]\n",
    "many dotted keys": "".join(f"a{n}.b.c.d.e.f.g.h = 1\n" for n in range(9000)),
    "many tables": "".join(f"[a{n}]\n" for n in range(20_000)),
    "deep lists": "x = " + "[" * 30_000 + "]" * 30_000,
    "deep tables": "x = " + "{a=" * 20_000 + "1" + "}" * 20_000,
    "a long text": "x = '" + "a" * 200_000 + "'",
    "a number without end": "x = " + "9" * 50_000,
    "a large number": "x = 0x" + "f" * 50_000,
    "quotes": '"' * 200_001,
}


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
    bounded("a result", "depth", source, "-o", tmp_path / "deep", "-q")
    path = tmp_path / "deep" / name
    assert path.exists()
    first, rest = path.read_text().split("\n", 1)
    key = "files" if "digests" in name else "steps"
    for what, value in VALUES.items():
        path.write_text(json_with(first, key, value) + "\n" + rest)
        bounded(what, "verify", tmp_path / "deep")


def test_model_cards(source, bounded, tmp_path):
    for what, text in {
        "deep": "a: " + "[" * 50_000, "aliases": "a: &a [1]\n" + "".join(
            f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(60)
        ),
        "a long text": "license: " + "a" * (2 * MIB), "many keys": "".join(
            f"k{n}: 1\n" for n in range(20_000)
        ), "a number": "license: " + "9" * 100_000, "tabs": "\t" * 100_000,
    }.items():  # fmt: skip
        (source / "README.md").write_text(f"---\n{text}\n---\n# A model\n")
        bounded(what, "depth", source, "-o", tmp_path / "deep", "-q", "--force")
