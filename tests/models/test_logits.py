"""Logits of a result are held against those of its source, and what differs is told."""

import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import alter
import pytest
import tiny
import torch
from conftest import MOEGROW
from quantised import FORMATS

import moegrow
from moegrow.analysis.logits import TOLERANCE, Cause
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.planning.router_notes import OtherTopK

FAMILIES = ["qwen3_moe", "deepseek_v3", "gpt_oss", "llama4", "qwen3_next", "dbrx", "gemma4"]
ROUTED = [name for name in FAMILIES if name != "llama4"]


@pytest.fixture(scope="module")
def nursery(nursery_with_torch):
    return nursery_with_torch


def grow(source, folder, *steps):
    plan = source
    for verb, options in steps:
        plan = getattr(moegrow, verb)(plan, **options)
    moegrow.apply(plan, folder)
    return folder


@pytest.mark.parametrize("model_type", FAMILIES)
def test_width_without_noise_passes_in_many_families(checkpoint, tmp_path, model_type):
    grown = grow(checkpoint(model_type), tmp_path / "grown", ("width", {"noise": 0}))
    found = moegrow.compare_logits(grown)
    assert found.reasons == ()
    assert found.ok
    assert found.largest < 3e-4 < TOLERANCE
    assert found.parts_at is None
    assert found.kl < 1e-6
    assert found.agree == 1
    if model_type in ROUTED:
        assert found.together
        assert all(layer.share == 1 for layer in found.together)
    else:
        assert found.together is None


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_layers_that_begin_as_the_identity_pass_too(checkpoint, tmp_path, model_type):
    steps = ("depth", {"new_layers": "identity"}), ("width", {"noise": 0})
    grown = grow(checkpoint(model_type), tmp_path / "grown", *steps)
    found = moegrow.compare_logits(grown)
    assert found.reasons == ()
    assert found.ok
    assert [len(layer.new) for layer in found.layers] == [2] * 4
    assert max(d for layer in found.layers for d in layer.differences) < TOLERANCE


def spoilt(checkpoint, tmp_path, name):
    """A result whose logits must be its source's, and are not, for one tensor was changed."""
    grown = grow(checkpoint(), tmp_path / "grown", ("width", {"noise": 0}))
    with alter.weights(grown) as tensors:
        weight = tensors[f"model.layers.2.{name}.weight"]
        weight += 0.5 * weight.std() * torch.randn_like(weight)
    return grown


@pytest.mark.parametrize("name", ["mlp.experts.5.up_proj", "mlp.gate", "self_attn.o_proj"])
def test_a_weight_changed_by_hand_is_found_and_its_layer_told(checkpoint, tmp_path, name):
    found = moegrow.compare_logits(spoilt(checkpoint, tmp_path, name))
    assert found.reasons == ()
    assert not found.ok
    assert found.largest > TOLERANCE
    assert found.parts_at == 2


def test_a_weight_changed_by_hand_fails_the_command(run, checkpoint, tmp_path):
    grown = spoilt(checkpoint, tmp_path, "mlp.gate")
    done = run("verify", grown, "--logits", "--json", code=1)
    assert not json.loads(done.stdout)["logits"]["ok"]
    assert f"must be the same within {TOLERANCE:g}, and are not" in done.stderr
    assert "old layer" in done.stderr


# The language model alone, and around it the part for pictures.
@pytest.mark.parametrize("model_type", ["qwen3_moe", "gemma4"])
def test_last_states_are_compared_where_there_is_no_head(run, checkpoint, tmp_path, model_type):
    source = tmp_path / "base"
    model = tiny.load(checkpoint(model_type)).base_model
    model.save_pretrained(source, max_shard_size="60KB")
    exact = grow(source, tmp_path / "exact", ("width", {"noise": 0}))
    said = run("verify", exact, "--logits").stderr
    assert "last states of " in said
    assert "the model has no head, so that it has no logits" in said
    noised = grow(source, tmp_path / "noised", ("width", {"noise": 0.1}))
    found = json.loads(run("verify", noised, "--logits", "--json").stdout)["logits"]
    assert (found["has_head"], found["kl"], found["agree"]) == (False, None, None)
    # The same numbers from the models as transformers loads them whole.
    a, b = (last_states(type(model), folder) for folder in (source, noised))
    assert found["deviation"] == pytest.approx(float(a.std()), rel=0.2)
    assert found["largest"] == pytest.approx(tiny.distance(a, b), rel=0.5)


def last_states(model_class, folder):
    tokens = torch.randint(3, 56, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loaded = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        return loaded(input_ids=tokens, use_cache=False).last_hidden_state


def test_a_weight_changed_by_hand_in_a_model_without_a_head_is_found(run, checkpoint, tmp_path):
    source = tmp_path / "base"
    tiny.load(checkpoint()).base_model.save_pretrained(source, max_shard_size="60KB")
    grown = grow(source, tmp_path / "grown", ("width", {"noise": 0}))
    with alter.weights(grown) as tensors:
        tensors["layers.2.self_attn.o_proj.weight"] *= 1.5
    found = moegrow.compare_logits(grown)
    assert not found.ok
    assert found.parts_at == 2
    assert "last states must be the same" in run("verify", grown, "--logits", code=1).stderr


def test_noise_makes_a_jump_that_is_reported_and_does_not_fail(run, checkpoint, tmp_path):
    found = {}
    for noise in ("0.001", "0.1"):
        run("width", checkpoint(), "--noise", noise, "-o", noise, "-q")
        done = run("verify", noise, "--logits", "--json")
        document = json.loads(done.stdout)
        assert document["ok"]
        found[noise] = document["logits"]
        assert found[noise]["ok"]
        assert found[noise]["reasons"] == ["copies of experts have noise"]
        assert "need not be the same: copies of experts have noise" in done.stderr
    small, large = found["0.001"], found["0.1"]
    assert TOLERANCE < small["largest"] < large["largest"]
    assert 0 < small["kl"] < large["kl"]
    assert large["parts_at"] == 0
    # The larger the noise, the less often are a copy and its original chosen together.
    shares = [[layer["share"] for layer in each["together"]] for each in (small, large)]
    assert min(shares[0]) > 0.9
    assert sum(shares[1]) < sum(shares[0]) < len(shares[0]) + 1e-9


def test_copies_of_layers_and_lost_layers_are_reasons_and_told_layer_by_layer(checkpoint, tmp_path):
    deep = moegrow.compare_logits(grow(checkpoint(), tmp_path / "deep", ("depth", {})))
    assert deep.ok
    assert deep.reasons == (Cause.LAYERS,)
    assert [(layer.old, layer.new) for layer in deep.layers] == [
        (0, (0, 1)), (1, (2, 3)), (2, (4, 5)), (3, (6, 7)),
    ]  # fmt: skip
    assert deep.layers[0].differences[0] == 0  # the first layer sees what it saw in the source
    assert deep.parts_at == 1
    lost = grow(checkpoint(), tmp_path / "lost", ("depth", {"layers": "0,1,3"}))
    found = moegrow.compare_logits(lost)
    assert found.ok
    assert [layer.old for layer in found.layers] == [0, 1, 3]


def test_a_top_k_that_is_kept_is_a_reason_and_copies_compete(checkpoint, tmp_path):
    grown = grow(checkpoint(), tmp_path / "kept", ("width", {"preset": "upcycling"}))
    found = moegrow.compare_logits(grown)
    kept = OtherTopK(top_k=2, expected=Fraction(4), reached=1.0, old=2)
    assert found.reasons == (Cause.NOISE, str(kept))
    assert found.ok
    assert found.together
    wide = moegrow.compare_logits(grow(checkpoint(), tmp_path / "wide", ("width", {})))
    assert sum(layer.share for layer in found.together) < sum(
        layer.share for layer in wide.together
    )


def test_a_source_that_is_gone_is_asked_for(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    grown = grow(source, tmp_path / "grown", ("width", {"noise": 0}))
    source.rename(tmp_path / "moved")
    with pytest.raises(MoegrowError, match="is gone") as raised:
        moegrow.compare_logits(grown)
    assert "source names a folder" in raised.value.hint
    assert moegrow.compare_logits(grown, tmp_path / "moved").ok


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_model_at_noise_0_has_the_logits_of_its_source(made, tmp_path, name):
    steps = ("depth", {"new_layers": "identity"}), ("width", {"noise": 0})
    found = moegrow.compare_logits(grow(made(name), tmp_path / "grown", *steps))
    assert found.reasons == ()
    assert found.ok
    assert found.largest < 3e-4
    assert found.together
    assert all(layer.share == 1 for layer in found.together)


def test_a_quantised_weight_changed_by_hand_is_found(made, tmp_path):
    grown = grow(made("fp8 blocks"), tmp_path / "grown", ("width", {"noise": 0}))
    with alter.weights(grown) as tensors:
        tensors["model.layers.2.mlp.experts.9.up_proj.weight_scale_inv"] *= 2
    found = moegrow.compare_logits(grown)
    assert found.reasons == ()
    assert not found.ok
    assert found.parts_at == 2


def test_weights_that_are_rounded_need_not_give_the_same_logits(checkpoint, made, tmp_path):
    rounded = (Cause.ROUNDED,)
    converted = grow(checkpoint(), tmp_path / "converted", ("convert", {"dtype": "bf16"}))
    found = moegrow.compare_logits(converted)
    assert (found.reasons, found.ok) == (rounded, True)
    assert found.largest > TOLERANCE
    wide = ("width", {"noise": 0, "experts_dtype": "bf16"})
    assert moegrow.compare_logits(grow(made("gptq"), tmp_path / "a", wide)).reasons == rounded
    drawn = ("width", {"noise": 0.01, "rounding": "stochastic"})
    found = moegrow.compare_logits(grow(made("gptq"), tmp_path / "b", drawn))
    assert found.reasons == (Cause.NOISE,)
    # What is decoded and stored as it was decoded is the same.
    plain = ("convert", {"dtype": "fp32"})
    found = moegrow.compare_logits(grow(made("gptq"), tmp_path / "c", plain))
    assert (found.reasons, found.ok) == ((), True)


def test_what_is_quantised_in_an_unknown_way_is_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["quantization_config"] = {"quant_method": "mystery"}
    with pytest.raises(
        MoegrowError, match=r"is quantised by its config\.json, and no tensor"
    ) as raised:
        moegrow.compare_logits(grow(source, tmp_path / "grown", ("depth", {})))
    assert raised.value.hint == "verify it without compare_logits"


@pytest.mark.parametrize("missing", ["torch", "transformers", "accelerate"])
def test_without_its_libraries_it_says_how_to_install_them(checkpoint, tmp_path, missing):
    grown = grow(checkpoint(), tmp_path / "grown", ("width", {}))
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')\n"
    )
    package = Path(moegrow.__file__).parent.parent
    done = subprocess.run(
        [*MOEGROW, "verify", grown, "--logits"], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'without'}:{package}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"No module named '{missing}'" in done.stderr
    assert "hint: pip install 'moegrow[logits]'" in done.stderr
    assert "as planned" not in done.stderr


def test_what_python_gets_is_what_the_command_prints(run, checkpoint, tmp_path):
    grown = grow(checkpoint(), tmp_path / "grown", ("depth", {}), ("width", {}))
    found = moegrow.compare_logits(grown)
    document = json.loads(run("verify", grown, "--logits", "--json").stdout)["logits"]
    assert document["largest"] == pytest.approx(found.largest, rel=1e-6)
    assert document["kl"] == pytest.approx(found.kl, rel=1e-6)
    # The same numbers from the models as transformers loads them whole.
    a, b = tiny.logits(checkpoint()), tiny.logits(grown)
    assert found.deviation == pytest.approx(float(a.std()), rel=0.2)
    assert found.largest == pytest.approx(tiny.distance(a, b), rel=0.5)
    with pytest.raises(MoegrowError, match="holds no moegrow-plan"):
        moegrow.compare_logits(checkpoint())
