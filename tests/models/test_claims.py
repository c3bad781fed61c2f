"""What a quantisation config says is held against the weights before it is copied."""

import json

import alter
import pytest
import torch
from quantised import FORMATS
from transformers import AutoModelForCausalLM

from moegrow.quant import claims

REFUSED = "quantization_config in config.json does not fit the weights"


def with_config(source, folder, told, key="quantization_config"):
    folder.mkdir(exist_ok=True)
    copy = alter.copy(source, folder)
    with alter.table(copy / "config.json") as config:
        config[key] = told
    return copy


def refused(run, source, *says, dtype="bf16"):
    """The refusal of depth and of width; what its hint names makes a result without the config."""
    for verb in ("depth", "width"):
        done = run(verb, source, "-o", "out", code=1)
        assert REFUSED in done.stderr
        assert all(one in done.stderr for one in says), done.stderr
        assert f"add --dtype {dtype}" in done.stderr
        plan = run(verb, source, "--plan", "--dtype", dtype).stdout
        assert '"quantization_config' not in json.loads(plan.split("\n")[0])["config"]
    return done.stderr


@pytest.mark.parametrize("name", ["fp8 blocks", "int4", "modelopt nvfp4", "gptq"])
def test_a_config_of_a_format_on_plain_weights_is_refused_and_dequantised(
    checkpoint, run, tmp_path, name
):
    source = with_config(checkpoint(), tmp_path / "source", FORMATS[name].config)
    method = FORMATS[name].config["quant_method"]
    refused(run, source, repr(method), "all are plain", dtype="fp32")
    run("depth", source, "-o", "deep", "--dtype", "fp32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "deep")
    assert model.config.num_hidden_layers == 8
    assert getattr(model.config, "quantization_config", None) is None


@pytest.mark.parametrize(
    "told",
    [
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_scheme": {"num_bits": 8}},
        {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": {}},
        {"quant_method": "compressed-tensors", "format": "dense",
         "config_groups": {"a": {"targets": ["Linear"], "weights": {"num_bits": 8}}}},
        {"quant_method": "quark", "global_quant_config": {"weight": None}},
    ],
)  # fmt: skip
def test_a_config_that_is_not_about_weights_stands_over_plain_ones(checkpoint, run, tmp_path, told):
    source = with_config(checkpoint(), tmp_path / "source", told)
    done = run("depth", source, "--dry-run", "--json")
    assert json.loads(done.stdout)["warnings"] == []


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "as they load"),
        ({"load_in_8bit": True}, "as they load"),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, "as they load"),
        ({"quant_method": "of tomorrow", "bits": 4}, "no weight is quantised"),
    ],
)
def test_a_config_that_some_loaders_apply_to_plain_weights_is_copied_and_told(
    checkpoint, run, tmp_path, told, says
):
    source = with_config(checkpoint(), tmp_path / "source", told)
    warnings = json.loads(run("depth", source, "--dry-run", "--json").stdout)["warnings"]
    assert [says in one for one in warnings] == [True]


@pytest.mark.parametrize(
    ("name", "other", "stored"),
    [
        ("awq", "gptq", "AWQ"), ("gptq", "awq", "GPTQ"), ("fp8 blocks", "gptq", "fp8 with block"),
        ("nvfp4", "fp8 blocks", "NVFP4"), ("fp8 blocks", "modelopt fp8", "fp8 with block scales"),
        ("int8 channel", "fp8 blocks", "int8"), ("fp8 channel", "awq", "fp8 with scales"),
    ],
)  # fmt: skip
def test_a_config_of_another_format_than_the_weights_is_refused(
    made, run, tmp_path, name, other, stored
):
    source = with_config(made(name), tmp_path / "source", FORMATS[other].config)
    done = run("depth", source, "-o", "out", code=1)
    assert REFUSED in done.stderr
    assert repr(FORMATS[other].config["quant_method"]) in done.stderr
    assert f"stored as {stored}" in done.stderr


LEFT_OUT = {
    "fp8 blocks": [("modules_to_not_convert", "model.layers.1.self_attn")],
    "int4": [
        ("ignore", "model.layers.1.self_attn.o_proj"), ("ignore", r"re:.*layers\.1\..*o_proj"),
    ],
    "modelopt fp8": [("ignore", "model.layers.1.*")],
    "gptq": [("dynamic", r"-:.*layers\.1\..*o_proj")],
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_quantised_module_that_is_said_to_be_left_out_is_refused(made, run, tmp_path, name):
    for number, (key, text) in enumerate(LEFT_OUT[name]):
        told = dict(FORMATS[name].config)
        told[key] = {text: {}} if key == "dynamic" else [*told.get(key, ()), text]
        source = with_config(made(name), tmp_path / f"{number}", told)
        done = run("depth", source, "-o", "out", code=1)
        assert "it leaves out model.layers.1." in done.stderr
        assert "without their scales" in done.stderr


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_plain_module_among_quantised_ones_must_be_left_out(
    made, checkpoint, run, tmp_path, name
):
    """One matrix is plain in the weights: without a word of it loaders would look for its scale."""
    (tmp_path / "source").mkdir()
    source = alter.copy(made(name), tmp_path / "source")
    module = "model.layers.1.self_attn.o_proj"
    with alter.weights(source) as tensors:
        rows = tensors["model.layers.1.input_layernorm.weight"].shape[0]
        for own in [own for own in tensors if own.startswith(f"{module}.")]:
            del tensors[own]
        tensors[f"{module}.weight"] = torch.zeros(rows, rows)
    done = run("depth", source, "-o", "out", code=1)
    assert f"it does not leave out {module}" in done.stderr
    key, text = LEFT_OUT[name][0]
    with alter.table(source / "config.json") as config:
        told = config["quantization_config"]
        told[key] = {text: {}} if key == "dynamic" else [*told.get(key, ()), module]
    run("depth", source, "--plan")


def test_a_group_of_which_nothing_is_in_the_weights_is_told(made, run, tmp_path):
    told = dict(FORMATS["int8 channel"].config)
    group = told["config_groups"]["group_0"]
    told["config_groups"] = {
        "group_0": group, "group_1": {**group, "targets": ["re:.*vision.*"]},
    }  # fmt: skip
    source = with_config(made("int8 channel"), tmp_path / "source", told)
    warnings = json.loads(run("depth", source, "--dry-run", "--json").stdout)["warnings"]
    assert ["'group_1' whose targets" in one for one in warnings] == [True]


def test_every_format_that_is_known_belongs_to_a_method():
    from moegrow.quant.formats import formats

    assert {form.name for form in formats()} == frozenset().union(*claims._FORMATS.values())


@pytest.mark.parametrize("name", FORMATS)
def test_what_libraries_save_fits_its_config(made, run, name):
    assert json.loads(run("depth", made(name), "--dry-run", "--json").stdout)["warnings"] == []


def test_a_plan_that_says_what_is_not_so_of_its_weights_is_refused_too(checkpoint, run, tmp_path):
    source = with_config(checkpoint(), tmp_path / "source", {"quant_method": "fp8"})
    header, *lines = run("width", source, "--plan", "--dtype", "bf16").stdout.splitlines()
    edited = json.loads(header)
    config = json.loads(edited["config"]) | {"quantization_config": {"quant_method": "fp8"}}
    edited["config"] = json.dumps(config)
    (tmp_path / "plan.jsonl").write_text("\n".join([json.dumps(edited), *lines]))
    assert REFUSED in run("apply", "plan.jsonl", "-o", "out", code=1).stderr


def test_an_expression_that_is_none_is_no_traceback(made, run, tmp_path):
    told = {**FORMATS["int4"].config, "ignore": ["re:("]}
    source = with_config(made("int4"), tmp_path / "source", told)
    for layers in ("0-3", "0,0-3"):
        assert (
            "Traceback" not in run("depth", source, "--layers", layers, "--plan", code=None).stderr
        )
