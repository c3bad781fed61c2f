"""Norms layer by layer: held against torch, and the same in every layout."""

import json
import re
from pathlib import Path

import alter
import hubserver
import pytest
import tiny
import torch
from families_page import TYPES
from published import LAYOUTS, publish

import moegrow
from moegrow.analysis import norm_profile, norm_slices, norm_sums
from moegrow.errors import MoegrowError
from moegrow.planning.open_source import load

EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"

# Matrices of layers that say nothing of attention, experts, MLPs or routers.
COUNTED_NOWHERE = re.compile(
    r"conv|A_log|_decay|hyper_connection|hc_|_hc\.|\.ape|_ape|position_bias|static_w|l2_clip"
    r"|tid2eid|ple\.|layernorm\.(W_|mlp\.)|moe_statics|attn_res|attention_input|compress_gate"
    r"|per_layer_|proj_bias"
)


def measured(folder, **options):
    return norm_profile.of(load(str(folder)), **options)


def norms(folder, **options):
    return measured(folder, **options).norms


def rms(tensors):
    """The root mean square of all values of some tensors, in float64."""
    values = torch.cat([tensor.double().flatten() for tensor in tensors])
    return float(values.square().mean().sqrt())


def close(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for group, layers in a.items():
        for layer, (one, other) in enumerate(zip(layers, b[group], strict=True)):
            assert (one is None) == (other is None), (group, layer)
            assert one is None or one == pytest.approx(other, rel=tolerance), (group, layer)


def by_torch(folder, groups, layers, head="model.layers"):
    """The profile by patterns of names: for experts and norms a mean, for the others together."""
    tensors = tiny.tensors(folder)
    found = {}
    for group, pattern in groups.items():
        row = []
        for layer in range(layers):
            named = re.compile(rf"{head}\.{layer}\.(?:{pattern})")
            own = [tensor for name, tensor in tensors.items() if named.fullmatch(name)]
            each = [rms([tensor]) for tensor in own]
            is_mean = group in ("experts", "norms")
            row.append((sum(each) / len(each) if is_mean else rms(own)) if own else None)
        found[group] = tuple(row)
    return found


PROJECTIONS = r"self_attn\.[qkvo]_proj\.weight"
LATENT = r"self_attn\.(q_a|q_b|kv_b|o|q)_proj\.weight|self_attn\.kv_a_proj_with_mqa\.weight"
SINGLE = r"mlp\.experts\.\d+\.(gate|up|down)_proj\.weight"
NORMS = r"\w*norm\.weight|self_attn\.\w*norm\.weight"
EXPECTED = {
    "qwen3_moe": {
        "experts": SINGLE, "attention": PROJECTIONS, "router": r"mlp\.gate\.weight",
        "norms": NORMS,
    },
    "deepseek_v3": {
        "experts": SINGLE, "shared": r"mlp\.shared_experts\.\w+\.weight",
        "dense": r"mlp\.(gate|up|down)_proj\.weight", "attention": LATENT,
        "router": r"mlp\.gate\.weight", "norms": NORMS,
    },
    "qwen3_next": {
        "experts": SINGLE, "shared": r"mlp\.shared_expert\.\w+\.weight",
        "attention": rf"{PROJECTIONS}|linear_attn\.\w+_(proj|qkvz|ba)\.weight",
        "router": r"mlp\.gate\.weight", "norms": rf"{NORMS}|linear_attn\.norm\.weight",
    },
    "mixtral": {
        "experts": r"block_sparse_moe\.experts\.\d+\.w[123]\.weight", "attention": PROJECTIONS,
        "router": r"block_sparse_moe\.gate\.weight", "norms": NORMS,
    },
    "jamba": {
        "experts": r"feed_forward\.experts\.\d+\.(gate|up|down)_proj\.weight",
        "dense": r"feed_forward\.(gate|up|down)_proj\.weight",
        "attention": rf"{PROJECTIONS}|mamba\.(in|x|dt|out)_proj\.weight",
        "router": r"feed_forward\.router\.weight", "norms": rf"{NORMS}|mamba\.\w+norm\.weight",
    },
}  # fmt: skip


@pytest.mark.parametrize("model_type", EXPECTED)
def test_norms_are_those_that_torch_computes(checkpoint, model_type):
    source = checkpoint(model_type)
    close(norms(source), by_torch(source, EXPECTED[model_type], 4), 1e-9)


def test_a_mixer_that_is_all_of_a_layer_is_counted_for_what_it_is(checkpoint):
    source = checkpoint("nemotron_h")
    head = "backbone.layers" if any("backbone" in name for name in tiny.tensors(source)) else None
    groups = {
        "experts": r"mixer\.experts\.\d+\.(up|down)_proj\.weight",
        "shared": r"mixer\.shared_experts\.(up|down)_proj\.weight",
        "dense": r"mixer\.(up|down)_proj\.weight",
        "attention": r"mixer\.([qkvo]|in|out)_proj\.weight",
        "router": r"mixer\.gate\.weight",
        "norms": r"norm\.weight|mixer\.norm\.weight",
    }
    close(norms(source), by_torch(source, groups, 6, head or "model.layers"), 1e-9)


def test_gate_and_up_that_take_turns_are_taken_apart(checkpoint):
    source = checkpoint("gpt_oss")
    tensors = tiny.tensors(source)
    for layer, norm in enumerate(norms(source)["experts"]):
        block = f"model.layers.{layer}.mlp.experts"
        joined, down = tensors[f"{block}.gate_up_proj"], tensors[f"{block}.down_proj"]
        parts = [rms([part]) for expert in joined for part in (expert[:, ::2], expert[:, 1::2])]
        parts += [rms([expert]) for expert in down]
        assert norm == pytest.approx(sum(parts) / len(parts), rel=1e-9)


@pytest.mark.parametrize("model_type", TYPES)
def test_norms_are_the_same_in_either_layout_and_every_matrix_counts_somewhere(
    checkpoint, model_type
):
    single, fused = checkpoint(model_type), checkpoint(model_type, fused=True)
    close(norms(single), norms(fused), 1e-9)
    for folder in (single, fused):
        layout = load(str(folder)).layout
        for name, place in layout.places.items():
            spec = layout.checkpoint.tensors[name]
            if place.is_prediction or place.layer >= layout.layers:
                continue
            if norm_slices.is_matrix(spec.shape) and not norm_slices.group_of(place, spec.shape):
                assert COUNTED_NOWHERE.search(name), name


@pytest.mark.parametrize("layout", ["qwen3_vl_moe", "inkling_mm_model"])
def test_norms_are_the_same_as_published_transposed_or_in_turns(checkpoint, tmp_path, layout):
    its = LAYOUTS[layout]
    saved = checkpoint(its.family, **its.settings)
    close(norms(publish(saved, its, tmp_path)), norms(saved), 1e-9)


def test_experts_that_are_transposed_by_hand_have_the_same_norms(checkpoint, tmp_path):
    source = alter.copy(checkpoint("qwen3_moe", fused=True), tmp_path)
    expected = norms(source)
    with alter.weights(source) as tensors:
        for name in tensors:
            if ".experts." in name:
                tensors[name] = tensors[name].transpose(1, 2)
    close(norms(source), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_of_the_storage_is_read(checkpoint, dtype):
    source = checkpoint(dtype=dtype)
    close(norms(source), by_torch(source, EXPECTED["qwen3_moe"], 4), 1e-9)


def test_large_tensors_are_summed_in_portions_in_float64(checkpoint, tmp_path):
    source = checkpoint(
        hidden_size=256, moe_intermediate_size=384, num_attention_heads=8, shard_size="40MB"
    )
    close(norms(source), by_torch(source, EXPECTED["qwen3_moe"], 4), 1e-11)
    fused = checkpoint(
        hidden_size=256, moe_intermediate_size=384, num_attention_heads=8, shard_size="40MB",
        fused=True,
    )  # fmt: skip
    close(norms(fused), norms(source), 1e-12)
    assert norms(fused, threads=1) == norms(fused, threads=3)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_vl_moe"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_compiled_loops_give_the_same_bits(checkpoint, monkeypatch, model_type, dtype):
    compiled = pytest.importorskip("moegrow.kernels.numba_weights", reason="numba is not installed")
    called = []
    monkeypatch.setattr(
        compiled, "add_squares",
        lambda *its, add=compiled.add_squares: (called.append(its[1]), add(*its)),
    )  # fmt: skip
    source = checkpoint(model_type, fused=model_type != "deepseek_v3", dtype=dtype)
    expected = measured(source)
    assert not called
    monkeypatch.setattr(norm_sums, "WORTH_LOADING", 0)
    assert measured(source, threads=1) == expected
    assert called


def test_nan_and_infinity_are_left_out_and_said(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors[EXPERT] = tensors[EXPERT].clone()
        tensors[EXPERT][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    found = measured(source)
    assert found.nonfinite == {EXPERT: 3}
    others = [
        tensor for name, tensor in tiny.tensors(source).items()
        if "layers.1.mlp.experts." in name
    ]  # fmt: skip
    each = [rms([tensor[tensor.isfinite()]]) for tensor in others]
    assert found.norms["experts"][1] == pytest.approx(sum(each) / len(each), rel=1e-9)
    told = run("norms", source).stdout.splitlines()
    assert f"left out: 3 values that are NaN or infinite, in {EXPERT}" in told


def test_a_layer_without_one_finite_value_has_no_norm(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    name = "model.layers.2.mlp.gate.weight"
    with alter.weights(source) as tensors:
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    assert norms(source)["router"][2] is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int32])
def test_quantised_weights_are_refused_and_no_number_is_given(run, checkpoint, tmp_path, dtype):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors[EXPERT] = tensors[EXPERT].to(dtype)
    done = run("norms", source, "--json", code=1)
    assert not done.stdout
    assert f"{EXPERT} is stored as" in done.stderr
    assert "quantised" in done.stderr
    assert "hint: make a bf16 copy first" in done.stderr


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3", "llama4", "dbrx"])
@pytest.mark.parametrize(
    "options",
    [{"mode": "interpose"}, {"mode": "stack", "keep_first": 1}, {"new_layers": "identity"}],
)
def test_what_is_predicted_of_depth_is_what_comes_out(checkpoint, tmp_path, model_type, options):
    plan = moegrow.depth(checkpoint(model_type), **options)
    moegrow.apply(plan, tmp_path / "grown")
    predicted = norm_profile.of(load(plan))
    assert predicted.is_predicted
    close(predicted.norms, norms(tmp_path / "grown"), 1e-9)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3", "llama4", "zaya"])
@pytest.mark.parametrize("options", [{"noise": 0}, {"noise": 0.05}, {"preset": "upcycling"}])
def test_what_is_predicted_of_width_is_what_comes_out(checkpoint, tmp_path, model_type, options):
    plan = moegrow.width(checkpoint(model_type), **options)
    moegrow.apply(plan, tmp_path / "grown")
    close(
        norm_profile.of(load(plan)).norms, norms(tmp_path / "grown"),
        0.01 if options.get("noise") else 1e-3 if "preset" in options else 1e-9,
    )  # fmt: skip


def test_what_is_predicted_of_uneven_copies_is_what_comes_out(checkpoint, tmp_path):
    for fused in (False, True):
        plan = moegrow.width(checkpoint(fused=fused), experts=7, noise=0)
        moegrow.apply(plan, tmp_path / f"grown-{fused}")
        close(norm_profile.of(load(plan)).norms, norms(tmp_path / f"grown-{fused}"), 1e-9)


LARGE = {"hidden_size": 512, "moe_intermediate_size": 256, "num_experts": 12, "shard_size": "40MB"}


@pytest.mark.parametrize("fused", [False, True])
def test_a_sample_is_near_the_whole_and_the_same_each_time(checkpoint, fused):
    source = checkpoint(**LARGE, fused=fused)
    whole, sample = measured(source), measured(source, sample=True)
    assert (sample.experts, sample.of_experts) == (8, 12)
    assert sample.values < sample.of / 3 == whole.values / 3
    close(sample.norms, whole.norms, 0.02)
    assert sample == measured(source, sample=True, threads=1)


@pytest.mark.parametrize("fused", [False, True])
def test_a_sample_of_a_grown_model_is_that_of_its_source(checkpoint, tmp_path, fused):
    source = checkpoint(**LARGE, fused=fused)
    plan = moegrow.width(moegrow.depth(source, mode="stack"), noise=0, experts=20)
    moegrow.apply(plan, tmp_path / "grown")
    old, new = measured(source, sample=True), measured(tmp_path / "grown", sample=True)
    assert new.values < new.of / 3
    assert new.norms == {group: layers * 2 for group, layers in old.norms.items()}


def test_a_sample_of_a_small_model_is_all_of_it(checkpoint):
    close(norms(checkpoint("gpt_oss"), sample=True), norms(checkpoint("gpt_oss")), 1e-12)


def test_a_sample_of_a_repository_fetches_little_of_it(run, checkpoint, tmp_path, monkeypatch):
    source = checkpoint(**LARGE)
    with hubserver.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        hub.add("org/large", source)
        found = json.loads(run("norms", "org/large", "--sample", "--json").stdout)["profiles"][0]
    assert found["sample"]["values"] < found["sample"]["of"] / 3
    here = measured(source, sample=True).norms
    assert found["norms"] == {group: list(layers) for group, layers in here.items()}
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    cached = [file for file in Path(tmp_path / "hf-home").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in cached) < size / 10


def test_prediction_layers_are_left_out(checkpoint, tmp_path):
    source = alter.copy(checkpoint("deepseek_v3"), tmp_path)
    expected = norms(source)
    with alter.weights(source) as tensors:
        for name in list(tensors):
            if name.startswith("model.layers.3."):
                tensors[name.replace("layers.3", "layers.4")] = tensors[name] * 9
    with alter.table(source / "config.json") as config:
        config["num_nextn_predict_layers"] = 1
    assert norms(source) == expected


def test_what_is_read_is_what_the_bar_is_told(checkpoint):
    told = []
    opened = load(str(checkpoint()))
    norm_profile.of(opened, progress=told.append)
    assert sum(told) == norm_sums.reading_bytes(opened.layout)


def test_joined_matrices_without_a_way_back_are_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint("qwen3_moe", fused=True), tmp_path)
    with alter.weights(source) as tensors:
        for name in tensors:
            if name.endswith("down_proj"):
                tensors[name] = tensors[name][:, :, 1:]
    with pytest.raises(MoegrowError, match="half as long"):
        measured(source)
