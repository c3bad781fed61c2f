"""Plain numbers of a checkpoint, before and after."""

import json

import alter
import pytest
import tiny

import moegrow
from moegrow import display
from moegrow.planning import model_size
from moegrow.planning.open_source import load


def test_parameters_and_bytes_are_those_of_the_tensors(checkpoint):
    facts = moegrow.inspect(checkpoint())
    tensors = tiny.tensors(checkpoint())
    assert facts["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert facts["nbytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert facts["tensors"] == len(tensors)
    assert facts["dtypes"] == {"F32": facts["nbytes"]}
    assert (facts["layers"], facts["experts"], facts["top_k"]) == (4, 4, 2)


@pytest.mark.parametrize("fused", [False, True])
def test_active_parameters_leave_out_the_experts_that_are_not_chosen(checkpoint, fused):
    tensors = tiny.tensors(checkpoint("qwen2_moe", fused=fused))
    routed = sum(t.numel() for n, t in tensors.items() if ".mlp.experts." in n)
    total = sum(t.numel() for t in tensors.values())
    facts = moegrow.inspect(checkpoint("qwen2_moe", fused=fused))
    assert facts["active_parameters"] == total - routed * (4 - 2) // 4


def test_layers_with_experts_and_shared_experts_are_told(checkpoint):
    facts = moegrow.inspect(checkpoint("deepseek_v3"))
    assert facts["moe_layers"] == [1, 2, 3]
    tensors = tiny.tensors(checkpoint("deepseek_v3"))
    shared = sum(t.numel() for n, t in tensors.items() if "shared_experts" in n)
    assert facts["shared_parameters"] == shared
    assert facts["router"] == "sigmoid"


@pytest.mark.parametrize(
    ("model_type", "settings", "number"),
    [
        ("qwen3_moe", {}, 0),
        ("qwen2_moe", {}, 1),
        ("deepseek_v3", {"n_shared_experts": 2}, 2),
        ("ernie4_5_moe", {"moe_num_shared_experts": 3}, 3),
        ("bailing_hybrid", {}, 1),
        ("exaone_moe", {"num_shared_experts": 2}, 2),
    ],
)
def test_shared_experts_are_counted(checkpoint, run, model_type, settings, number):
    source = checkpoint(model_type, **settings)
    facts = moegrow.inspect(source)
    assert facts["shared_experts"] == number
    assert bool(facts["shared_parameters"]) == bool(number)
    line = next(line for line in str(facts).splitlines() if line.startswith("shared"))
    assert line.split()[1] == (str(number) if number else "none")


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "deepseek_v3", "gpt_oss", "llama4", "qwen3_5_moe"]
)
def test_the_numbers_of_a_plan_are_those_of_what_it_writes(checkpoint, tmp_path, model_type):
    plan = moegrow.depth(checkpoint(model_type), layers="0,0,1-3,3")
    plan = moegrow.width(plan, experts="3x")
    planned = moegrow.inspect(plan)
    moegrow.apply(plan, tmp_path / "grown")
    written = moegrow.inspect(tmp_path / "grown")
    assert planned | {"source": ""} == written | {"source": ""}


def test_prediction_layers_keep_their_experts_in_the_count(checkpoint, tmp_path):
    source = alter.copy(checkpoint("deepseek_v3"), tmp_path)
    with alter.weights(source) as tensors:
        last = {name: t for name, t in tensors.items() if name.startswith("model.layers.3.")}
        tensors |= {name.replace(".3.", ".4.", 1): t for name, t in last.items()}
    with alter.table(source / "config.json") as config:
        config["num_nextn_predict_layers"] = 1
    plan = moegrow.width(moegrow.depth(source, keep_first=1))
    moegrow.apply(plan, tmp_path / "grown")
    assert moegrow.inspect(plan) | {"source": ""} == moegrow.inspect(tmp_path / "grown") | {
        "source": ""
    }
    names = tiny.tensors(tmp_path / "grown")
    routed = sum(t.numel() for name, t in names.items() if ".mlp.experts." in name)
    total = sum(t.numel() for t in names.values())
    assert moegrow.inspect(plan)["active_parameters"] == total - routed * (16 - 4) // 16
    assert "model.layers.7.mlp.experts.15.up_proj.weight" in names
    assert not any(name.startswith("model.layers.8.") for name in names)


def test_before_and_after_stand_side_by_side(checkpoint):
    plan, layout = load(moegrow.width(moegrow.depth(checkpoint())))
    rows = model_size.comparison(model_size.numbers(layout), model_size.grown_numbers(plan, layout))
    assert ("layers", "4", "8") in rows
    assert ("  with experts", "4", "8") in rows
    assert ("experts", "4", "8") in rows
    assert ("top-k", "2", "4") in rows


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0 K"), (999_949, "999.9 K"), (999_950, "1.0 M"),
     (30_532_122_624, "30.5 B"), (10**15, "1000.0 T"), (5 * 10**15, "5000.0 T")],
)  # fmt: skip
def test_counts_are_written_for_people(number, text):
    assert display.count(number) == text


def test_sizes_are_written_in_powers_of_ten():
    assert display.size(1) == "1 bytes"
    assert display.size(1024) == "1.0 KB"
    assert display.size(61_064_245_248) == "61.1 GB"


def test_the_command_prints_text_or_one_json_document(checkpoint, run):
    text = run("inspect", checkpoint("deepseek_v3")).stdout
    assert "4, with experts: 1-3" in text
    assert "8, top-2 by sigmoid" in text
    facts = json.loads(run("inspect", "--json", checkpoint()).stdout)
    assert facts == moegrow.inspect(checkpoint())
