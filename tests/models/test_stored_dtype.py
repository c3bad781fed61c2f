"""What configs say once the experts alone are decoded: just these are left out, by every reader."""

import fnmatch
import json
import re

import alter
import pytest
import tiny
from compressed_tensors.utils import match_name
from transformers.quantizers.quantizers_utils import should_convert_module

import moegrow
from moegrow.errors import MoegrowError


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def by_compressed_tensors(table, module):
    return any(match_name(module, ignored) for ignored in table["ignore"])


def by_transformers(table, module):
    return not should_convert_module(module, table["modules_to_not_convert"])


def by_modelopt(table, module):
    """As ModelOpt documents its lists: names in which stars stand for anything."""
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in table["ignore"])


def by_gptq(table, module):
    """As GPTQModel documents `dynamic`: expressions match from the start, and the first decides."""
    found = (key for key in table["dynamic"] if re.match(re.sub(r"^[+-]:", "", key), module))
    return next(found, "").startswith("-:")


def by_awq(table, module):
    """As AutoAWQ and vLLM read it: parts of names."""
    return any(part in module for part in table["modules_to_not_convert"])


READERS = {
    "fp8 blocks": by_transformers, "fp8 channel": by_compressed_tensors,
    "int8 channel": by_compressed_tensors, "int4": by_compressed_tensors,
    "nvfp4": by_compressed_tensors, "mxfp4 ct": by_compressed_tensors,
    "modelopt fp8": by_modelopt, "modelopt nvfp4": by_modelopt, "gptq": by_gptq, "awq": by_awq,
}  # fmt: skip
CODES = re.compile(r"(.*)\.(weight|weight_packed|qweight)")
EXPERT = re.compile(r".*\.mlp\.experts\.\d+\.\w+_proj")


@pytest.mark.parametrize("form", READERS)
def test_the_config_leaves_out_the_experts_and_nothing_else(made, form, tmp_path):
    plan = moegrow.width(moegrow.depth(made(form)), noise=0, experts_dtype="bf16")
    moegrow.apply(plan, tmp_path / "grown")
    table = config_of(tmp_path / "grown")["quantization_config"]
    tensors = tiny.tensors(tmp_path / "grown")
    plain, quantised = 0, 0
    for name, tensor in tensors.items():
        found = CODES.fullmatch(name)
        if not found or "_proj" not in name:
            continue
        is_plain = tensor.dtype.is_floating_point and tensor.element_size() > 1
        assert bool(EXPERT.fullmatch(found[1])) == is_plain, name
        assert READERS[form](table, found[1]) == is_plain, name
        plain += is_plain
        quantised += not is_plain
    assert plain >= 8 * 6 * 3
    assert quantised


def test_experts_of_prediction_layers_are_left_out_too(checkpoint, made, tmp_path):
    """They are decoded like all others; their stack has numbers of its own."""
    source = alter.copy(made("fp8 blocks", "qwen3_next", **SIZES), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".layers.1." in name]:
            tensors[name.replace("model.layers.1.", "mtp.layers.0.")] = tensors[name].clone()
    table = json.loads(moegrow.convert(source, experts_dtype="bf16").config)["quantization_config"]
    names = table["modules_to_not_convert"]
    assert names[-1] == "mtp.layers.0.mlp.experts"
    assert names[:-1] == [f"model.layers.{layer}.mlp.experts" for layer in range(len(names) - 1)]


SIZES = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


@pytest.mark.parametrize(
    ("form", "name", "table", "key", "expected"),
    [
        (
            "modelopt fp8", "hf_quant_config.json",
            {"producer": {"name": "modelopt"},
             "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
            "exclude_modules", ["lm_head", "model.layers.0.mlp.experts*"],
        ),
        (
            "gptq", "quantize_config.json", {"bits": 4, "dynamic": {"+:.*x": {"bits": 8}}},
            "dynamic", {r"-:model\.layers\.0\.mlp\.experts\..*": {}, "+:.*x": {"bits": 8}},
        ),
        (
            "awq", "quant_config.json", {"w_bit": 4, "modules_to_not_convert": None},
            "modules_to_not_convert", ["model.layers.0.mlp.experts."],
        ),
    ],
)  # fmt: skip
def test_files_beside_the_config_leave_the_experts_out_too(
    made, run, tmp_path, form, name, table, key, expected
):
    source = alter.copy(made(form), tmp_path)
    (source / name).write_text(json.dumps(table))
    run("convert", "--experts-dtype", "bf16", source, "-o", "plain", "--verify")
    new = json.loads((tmp_path / "plain" / name).read_text())
    inner = new.get("quantization", new)
    found = inner.pop(key)
    kept = dict(table.get("quantization", table))
    kept.pop(key)
    assert inner == kept
    if isinstance(expected, dict):
        layers = [f for f in found if "layers" in f]
        assert len(layers) == 4
        assert {f: found[f] for f in found if f not in layers[1:]} == expected
        assert list(found)[-1] == "+:.*x"
    else:
        assert found[: len(expected)] == expected
        assert len(found) == len(expected) + 3
    run("convert", "--dtype", "bf16", source, "-o", "all")
    assert not (tmp_path / "all" / name).exists()


def test_names_in_files_beside_follow_the_layers_before_experts_are_added(made, tmp_path):
    source = alter.copy(made("modelopt fp8"), tmp_path)
    excluded = ["lm_head", "model.layers.3.mlp.gate"]
    (source / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "FP8", "exclude_modules": excluded}})
    )
    plan = moegrow.width(moegrow.depth(source), noise=0, experts_dtype="bf16")
    ((_, text),) = plan.files
    assert json.loads(text)["quantization"]["exclude_modules"] == [
        "lm_head", "model.layers.6.mlp.gate", "model.layers.7.mlp.gate",
        *(f"model.layers.{layer}.mlp.experts*" for layer in range(8)),
    ]  # fmt: skip


def test_what_a_file_beside_says_is_taken_where_the_config_says_nothing(made, tmp_path):
    """AutoGPTQ and AutoAWQ wrote such files alone."""
    for form, name in (("gptq", "quantize_config.json"), ("awq", "quant_config.json")):
        source = alter.copy(made(form), tmp_path)
        with alter.table(source / "config.json") as config:
            table = config.pop("quantization_config")
        del table["quant_method"]
        (source / name).write_text(json.dumps(table))
        assert moegrow.inspect(source)["formats"] == moegrow.inspect(made(form))["formats"]
        plain, expected = (moegrow.convert(one, dtype="bf16") for one in (source, made(form)))
        assert plain.outputs == expected.outputs
        source.rename(tmp_path / form)


@pytest.mark.parametrize("table", [["fp8"], "fp8", {"quant_method": 8}])
def test_a_config_that_is_no_config_is_refused_or_removed(made, tmp_path, table):
    source = alter.copy(made("fp8 blocks"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = table
    with pytest.raises(MoegrowError, match="does not know how a config of the method"):
        moegrow.convert(source, experts_dtype="bf16")
    plan = moegrow.convert(source, dtype="bf16")
    assert "quantization_config" not in json.loads(plan.config)


def test_modules_are_those_that_hold_the_matrices_whatever_they_are_called(checkpoint, tmp_path):
    """Experts in one tensor are a module of their own, or stand in one that is called so."""
    from moegrow.checkpoint.checkpoint import open_checkpoint
    from moegrow.families.read_layout import read_layout
    from moegrow.growth import Growth
    from moegrow.model_config.stored_dtype import expert_modules

    for family, expected in (
        ("granitemoe", ["block_sparse_moe.input_linear", "block_sparse_moe.output_linear"]),
        ("gpt_oss", ["mlp.experts"]),
        ("mixtral", ["block_sparse_moe.experts"]),
    ):
        layout = read_layout(open_checkpoint(checkpoint(family)))
        growth = Growth.none(layers=layout.layers, experts=layout.experts, top_k=layout.top_k)
        found = expert_modules(layout, growth)
        assert found[: len(expected)] == [f"model.layers.0.{module}" for module in expected]
