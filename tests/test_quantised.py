"""Checkpoints in every format that weights are published in: copies are exact, names follow."""

import json
import re

import alter
import pytest
import quantised
import tiny
import torch
from interposed import interpose
from quantised import FORMATS

import moegrow

# Those that transformers can load here, without a GPU, and in which precision it computes then.
LOADS = {
    "fp8 blocks": torch.float32, "fp8 tensor": torch.float32, "fp8 channel": torch.float32,
    "int4": torch.float32, "nvfp4": torch.bfloat16, "mxfp4 ct": torch.bfloat16,
}  # fmt: skip


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A checkpoint in a format, made the first time it is asked for."""
    folders = {}

    def made(name):
        if name not in folders:
            folder = tmp_path_factory.mktemp("quantised")
            folders[name] = quantised.quantised(quantised.plain(checkpoint, name), folder, name)
        return folders[name]

    return made


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def origin_of(name, experts):
    """The tensor of which one of a model with twice the layers and the experts is a copy."""
    name = re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) // 2}", name)
    return re.sub(r"experts\.(\d+)", lambda found: f"experts.{int(found[1]) % experts}", name)


def test_weights_and_their_companions_are_copied_byte_for_byte(made, form, run, tmp_path):
    source = made(form)
    plan = run("depth", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", "--verify", stdin=plan)
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    experts = {int(found[1]) for name in old if (found := re.search(r"experts\.(\d+)", name))}
    assert {origin_of(name, len(experts)) for name in new} == set(old)
    layers = len({found[0] for name in new if (found := re.match(r"model\.layers\.\d+", name))})
    assert layers == 8
    for name, tensor in new.items():
        original = old[origin_of(name, len(experts))]
        if re.search(r"mlp\.gate\.", name):
            original = torch.cat([original, original])
        assert tiny.same_bytes(tensor, original), name
    before, after = config_of(source), config_of(tmp_path / "grown")
    assert after["quantization_config"] == before["quantization_config"]


def load(folder, dtype):
    """The model as transformers loads it in its format, or makes of it on a machine like this."""
    import transformers

    architecture = config_of(folder)["architectures"][0]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize("form", LOADS)
def test_the_libraries_that_define_a_format_load_what_was_grown(made, form, run, tmp_path):
    source, dtype = made(form), LOADS[form]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    run("depth", source, "-o", "deep")
    run("width", "--noise", "0", source, "-o", "wide")
    expected = tiny.logits(load(source, dtype))
    assert tiny.distance(expected, tiny.logits(load(tmp_path / "wide", dtype))) < tolerance
    deep = tiny.logits(interpose(load(source, dtype), (0, 0, 1, 1, 2, 2, 3, 3)))
    assert tiny.distance(deep, tiny.logits(load(tmp_path / "deep", dtype))) < tolerance
    assert tiny.distance(expected, deep) > 10 * tolerance


def test_a_matrix_left_out_by_name_is_left_out_in_every_copy(made, checkpoint, run, tmp_path):
    """One layer's projection and one expert's stay unquantised, as `ignore` says by their names."""
    form = "fp8 channel"
    source = alter.copy(made(form), tmp_path)
    plain = tiny.tensors(quantised.plain(checkpoint, form))
    left_out = ["model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.o_proj"]
    with alter.weights(source) as tensors:
        for module in left_out:
            tensors[f"{module}.weight"] = plain[f"{module}.weight"]
            del tensors[f"{module}.weight_scale"]
    with alter.table(source / "config.json") as config:
        config["quantization_config"]["ignore"] += [left_out[0], "re:.*layers\\.2\\..*o_proj$"]
    run("depth", source, "-o", "deep")
    assert config_of(tmp_path / "deep")["quantization_config"]["ignore"] == [
        "lm_head", "re:.*mlp\\.gate$", "model.layers.2.self_attn.q_proj",
        "model.layers.3.self_attn.q_proj", "re:.*layers\\.(?:4|5)\\..*o_proj$",
    ]  # fmt: skip
    deep = interpose(load(source, torch.float32), (0, 0, 1, 1, 2, 2, 3, 3))
    found = tiny.logits(load(tmp_path / "deep", torch.float32))
    assert tiny.distance(tiny.logits(deep), found) < 1e-4


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json"])
def test_a_file_beside_the_config_that_names_layers_follows_too(made, run, tmp_path, name):
    source = alter.copy(made("modelopt fp8"), tmp_path)
    kept = {"producer": {"name": "modelopt", "version": "0.29.0"}}
    lists = {"quant_algo": "FP8", "exclude_modules": ["lm_head", "model.layers.3.mlp.gate"]}
    (source / name).write_text(json.dumps(kept | {"quantization": lists}, indent=4))
    plan = run("depth", source, "--plan").stdout
    assert json.loads(plan.splitlines()[0])["moegrow_plan"] == 2
    (tmp_path / "plan.jsonl").write_text(plan)
    run("apply", "plan.jsonl", "-o", "deep", "--verify")
    new = json.loads((tmp_path / "deep" / name).read_text())
    gates = ["lm_head", "model.layers.6.mlp.gate", "model.layers.7.mlp.gate"]
    assert new == kept | {"quantization": lists | {"exclude_modules": gates}}
    run("width", "--noise", "0", source, "-o", "wide")
    assert (tmp_path / "wide" / name).read_bytes() == (source / name).read_bytes()


def test_a_plan_may_change_no_other_file(made, run, tmp_path):
    plan = run("depth", made("modelopt fp8"), "--plan").stdout.splitlines()
    header = json.loads(plan[0])
    for name in ("../escape.json", "config.json", "modeling.py"):
        edited = header | {"moegrow_plan": 2, "files": {name: "{}"}}
        (tmp_path / "plan.jsonl").write_text("\n".join([json.dumps(edited), *plan[1:]]))
        done = run("apply", "plan.jsonl", "-o", "deep", code=1)
        assert "is no file that a plan can change" in done.stderr
        assert not (tmp_path / "deep").exists()


def test_keys_that_name_layers_are_repeated_with_what_they_say(made, tmp_path):
    """GPTQ settles single layers under `dynamic`, whose keys are regular expressions."""
    source = alter.copy(made("gptq"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["quantization_config"]["dynamic"] = {
            "-:model\\.layers\\.0\\.self_attn\\..*": {},
            "+:.*\\.layers\\.[13]\\.mlp\\..*": {"bits": 4, "group_size": 16},
            "model.layers.2.self_attn.q_proj": {"bits": 4},
        }
    config = json.loads(moegrow.depth(source).config)
    assert config["quantization_config"]["dynamic"] == {
        "-:model\\.layers\\.(?:0|1)\\.self_attn\\..*": {},
        "+:.*\\.layers\\.(?:2|3|6|7)\\.mlp\\..*": {"bits": 4, "group_size": 16},
        "model.layers.4.self_attn.q_proj": {"bits": 4},
        "model.layers.5.self_attn.q_proj": {"bits": 4},
    }
