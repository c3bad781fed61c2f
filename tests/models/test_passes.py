"""Quantised weights that are multiplied, in their scales, and set to zero, in their codes."""

import json
import re
from functools import partial

import alter
import pytest
import tiny
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from quantised import FORMATS
from stored import plain
from test_quantised import LOADS, config_of, load
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.planning.op import change_of
from moegrow.planning.router_notes import FactorInScales

# A family whose router does not divide its weights by their sum, and has no factor in its config.
FAMILY = "kolibri1"
SIZES = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
DOWN = re.compile(r"(.*experts\.\d+\.down_proj)\.(.*)")
OUTPUT = re.compile(r"(.*(?:o_proj|down_proj))\.(.*)")


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


@pytest.fixture
def made(made):
    """A checkpoint of the family in a format."""
    return partial(made, model_type=FAMILY, **SIZES)


def parts(folder, pattern):
    """The tensors of each weight whose name matches, by the last part of their names."""
    found = {}
    for name, tensor in tiny.tensors(folder).items():
        if (match := pattern.fullmatch(name)) and ".layers." in name:
            found.setdefault(match[1], {})[match[2]] = tensor
    return found


def decoded(tensors, name):
    """A weight as the library of its format decodes it."""
    config = FORMATS[name].config
    if "config_groups" in config:
        group = config["config_groups"]["group_0"]
        compressor = BaseCompressor.get_value_from_registry(group["format"])
        return compressor.decompress(dict(tensors), QuantizationScheme(**group))["weight"]
    if config["quant_method"] == "fp8":
        convert = Fp8Dequantize(None)
        both = tensors["weight"], tensors["weight_scale_inv"]
        return convert._dequantize_one(*both, output_dtype=torch.float32)
    return plain({f"a.{part}": tensor for part, tensor in tensors.items()}, [config])


CODES = ("weight", "weight_packed", "qweight")
ZEROS = ("weight_zero_point", "qzeros")


def test_a_factor_is_in_the_scales_and_the_codes_stay(made, form, tmp_path):
    source = made(form)
    plan = moegrow.width(source, noise=0)
    told = next(step for step in plan.steps if step.axis == "width")
    assert told.preserves_function
    assert isinstance(told.notes[1], FactorInScales)
    assert told.compensations == told.notes[:2]
    moegrow.apply(plan, tmp_path / "wide")
    assert moegrow.verify(tmp_path / "wide").ok
    old, new = parts(source, DOWN), parts(tmp_path / "wide", DOWN)
    assert len(new) == 2 * len(old)
    for name, tensors in new.items():
        expert = int(re.search(r"experts\.(\d+)", name)[1])
        original = old[name.replace(f"experts.{expert}.", f"experts.{expert % 4}.")]
        assert tensors.keys() == original.keys()
        changed = {part for part in tensors if not tiny.same_bytes(tensors[part], original[part])}
        assert len(changed) == 1
        assert "scale" in changed.pop()
        assert torch.equal(decoded(tensors, form), decoded(original, form) * 0.5)
    others = {n: t for n, t in tiny.tensors(source).items() if not DOWN.fullmatch(n)}
    wide = tiny.tensors(tmp_path / "wide")
    assert all(tiny.same_bytes(wide[n], t) for n, t in others.items() if n in wide and "mlp.gate."
               not in n and "expert_bias" not in n)  # fmt: skip


def test_a_factor_and_noise_by_a_draw_go_together(made, form, tmp_path):
    source = made(form)
    moegrow.apply(moegrow.width(source, noise=0.2, rounding="stochastic"), tmp_path / "wide")
    assert moegrow.verify(tmp_path / "wide").ok
    old, new = parts(source, DOWN), parts(tmp_path / "wide", DOWN)
    for name, tensors in new.items():
        expert = int(re.search(r"experts\.(\d+)", name)[1])
        original = old[name.replace(f"experts.{expert}.", f"experts.{expert % 4}.")]
        halved, found = decoded(original, form).float() * 0.5, decoded(tensors, form).float()
        if expert < 4:
            assert torch.equal(found, halved)
            continue
        # The noise is drawn relative to the weights before they are halved, and halved with them.
        moved = (found - halved).std() / halved.std()
        assert 0.15 < moved < 0.7


# transformers leaves the second scale of NVFP4 out where it joins experts, and so the factor too.
JOINS = ["fp8 blocks", "fp8 channel", "int4", "mxfp4 ct"]


@pytest.mark.parametrize("form", JOINS)
def test_the_libraries_compute_the_same_with_a_factor_in_the_scales(made, form, run, tmp_path):
    source, dtype = made(form), LOADS[form]
    run("width", "--noise", "0", source, "-o", "wide")
    expected, found = (tiny.logits(load(folder, dtype)) for folder in (source, tmp_path / "wide"))
    assert tiny.distance(expected, found) < (1e-4 if dtype == torch.float32 else 0.05)
    # Without the factor they are far from it.
    with alter.weights(alter.copy(tmp_path / "wide", tmp_path / "not")) as tensors:
        old = tiny.tensors(source)
        for name in [name for name in tensors if DOWN.fullmatch(name)]:
            tensors[name] = old[re.sub(r"(experts\.)([4-7])", lambda m: m[1] + str(int(m[2]) - 4),
                                       name)]  # fmt: skip
    assert tiny.distance(expected, tiny.logits(load(tmp_path / "not" / "wide", dtype))) > 0.1


def test_zeros_are_codes_that_stand_for_zero(made, form, tmp_path):
    source = made(form)
    moegrow.apply(moegrow.depth(source, new_layers="identity"), tmp_path / "deep")
    assert moegrow.verify(tmp_path / "deep").ok
    new = parts(tmp_path / "deep", OUTPUT)
    old = parts(source, OUTPUT)
    silent = 0
    for name, tensors in new.items():
        layer = int(re.search(r"layers\.(\d+)", name)[1])
        original = old[name.replace(f"layers.{layer}.", f"layers.{layer // 2}.")]
        found = decoded(tensors, form)
        assert found.shape == decoded(original, form).shape
        if layer % 2:
            silent += 1
            assert not found.any()
        for part, tensor in tensors.items():
            is_zeroed = layer % 2 and part in CODES + ZEROS
            assert is_zeroed or tiny.same_bytes(tensor, original[part]), (name, part)
    assert silent == 4 * (1 + 4 + 1)


@pytest.mark.parametrize("form", ["fp8 blocks", "int4", "nvfp4"])
def test_a_quantised_model_computes_the_same_with_identity_layers(made, form, run, tmp_path):
    source, dtype = made(form), LOADS[form]
    run("depth", "--new-layers", "identity", source, "-o", "deep")
    expected, found = (tiny.logits(load(folder, dtype)) for folder in (source, tmp_path / "deep"))
    assert tiny.distance(expected, found) < (1e-5 if dtype == torch.float32 else 0.01)


def test_norms_of_a_plan_see_factors_in_scales_and_zeros_in_codes(made, form, tmp_path):
    source = made(form)
    plan = moegrow.width(moegrow.depth(source, new_layers="identity"), noise=0)
    moegrow.apply(plan, tmp_path / "grown")
    foretold, found = moegrow.norms(plan).norms, moegrow.norms(tmp_path / "grown").norms
    assert foretold.keys() == found.keys()
    for group, norms in found.items():
        known = [(a, b) for a, b in zip(foretold[group], norms, strict=True) if b is not None]
        assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-9), group
    assert found["experts"][1] < found["experts"][0]


def test_a_factor_that_is_no_power_of_two_is_refused_with_the_ways_out(made, form, run, tmp_path):
    done = run("width", "--noise", "0", "--experts", "3x", made(form), "-o", "wide", code=1)
    assert "can be copied but not multiplied by 1/3" in done.stderr
    assert "a power of two as many experts" in done.stderr
    assert "--experts-dtype bf16" in done.stderr
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize("form", ["fp8 blocks", "gptq", "nvfp4"])
def test_the_way_out_of_a_factor_of_a_third_works(made, form, tmp_path):
    source = made(form)
    moegrow.apply(moegrow.width(source, noise=0, experts="3x", dtype="fp32"), tmp_path / "wide")
    old, new = parts(source, DOWN), parts(tmp_path / "wide", DOWN)
    for name, tensors in new.items():
        expert = int(re.search(r"experts\.(\d+)", name)[1])
        original = old[name.replace(f"experts.{expert}.", f"experts.{expert % 4}.")]
        named = {f"a.{part}": tensor for part, tensor in original.items()}
        expected = plain(named, [FORMATS[form].config])
        assert torch.equal(tensors["weight"], expected / 3)


TOO_SMALL = {
    "gptq": ("scales", lambda scale: torch.full_like(scale, 2**-24)),
    "fp8 tensor": ("weight_scale", lambda scale: torch.full_like(scale, 2**-149)),
    "mxfp4 ct": ("weight_scale", torch.zeros_like),
}


@pytest.mark.parametrize("form", TOO_SMALL)
def test_a_scale_that_cannot_be_halved_is_refused_by_its_name(made, form, run, tmp_path):
    part, smallest = TOO_SMALL[form]
    source = alter.copy(made(form), tmp_path)
    name = f"model.layers.1.mlp.experts.2.down_proj.{part}"
    with alter.weights(source) as tensors:
        tensors[name] = smallest(tensors[name])
    done = run("width", "--noise", "0", source, "-o", "wide", code=1)
    assert f"{name} holds" in done.stderr
    assert "cannot hold 1/2 of it exactly" in done.stderr
    assert "--experts-dtype bf16" in done.stderr
    assert not (tmp_path / "wide").exists()


def test_special_values_of_scales_stay_what_they_are(made, tmp_path):
    source = alter.copy(made("fp8 channel"), tmp_path)
    name = "model.layers.1.mlp.experts.2.down_proj.weight_scale"
    special = torch.tensor([float("nan"), float("inf"), 0.0, 3.0])
    with alter.weights(source) as tensors:
        tensors[name].view(-1)[:4] = special.to(tensors[name].dtype)
    moegrow.apply(moegrow.width(source, noise=0), tmp_path / "wide")
    found = tiny.tensors(tmp_path / "wide")[name].view(-1)[:4].tolist()
    assert found[0] != found[0]
    assert found[1:] == [float("inf"), 0.0, 1.5]


def test_zeros_of_an_unknown_format_are_refused(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if "o_proj" in name]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[f"{name}.absmax"] = torch.ones(4)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "unheard of"}
    done = run("depth", "--new-layers", "identity", source, "-o", "deep", code=1)
    assert "in no format whose zeros are known" in done.stderr
    assert "--new-layers copy" in done.stderr
    assert not (tmp_path / "deep").exists()


def test_packed_experts_of_gpt_oss_become_zero(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint("gpt_oss", intermediate_size=32), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inside, outside = tensors.pop(name).shape
            groups = (experts, outside, inside // 32)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*groups, 16)).to(torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(123, 126, groups).to(torch.uint8)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    run("depth", "--new-layers", "identity", source, "-o", "deep", "--verify")
    expected, found = (
        tiny.logits(load(folder, torch.float32)) for folder in (source, tmp_path / "deep")
    )
    assert tiny.distance(expected, found) < 1e-5
    deep = tiny.tensors(tmp_path / "deep")
    assert not deep["model.layers.1.mlp.experts.down_proj_blocks"].any()
    assert deep["model.layers.1.mlp.experts.gate_up_proj_blocks"].any()


def unfused(source, folder, name):
    """A copy of a Llama-4 checkpoint as compressed-tensors writes it: a matrix for each expert."""
    form = FORMATS[name]
    copy = alter.copy(source, folder)
    with alter.weights(copy) as tensors:
        for one in [one for one in tensors if ".experts." in one]:
            stem, _, kind = one.rpartition(".")
            for expert, matrix in enumerate(tensors.pop(one)):
                rows = dict(zip(["gate_proj", "up_proj"], matrix.T.chunk(2), strict=True))
                for part, weight in rows.items() if "gate" in kind else [("down_proj", matrix.T)]:
                    for end, tensor in form.compress(weight.contiguous()).items():
                        tensors[f"{stem}.{expert}.{part}.{end}"] = tensor.detach()
    with alter.table(copy / "config.json") as config:
        config["quantization_config"] = form.config
    return copy


@pytest.mark.parametrize("form", ["fp8 channel", "int4"])
def test_experts_of_llama_4_are_compensated_in_their_scales(checkpoint, form, run, tmp_path):
    source = unfused(checkpoint("llama4_text", intermediate_size=32), tmp_path, form)
    run("width", "--noise", "0", "--experts", "4x", source, "-o", "wide", "--verify")
    old, new = parts(source, DOWN), parts(tmp_path / "wide", DOWN)
    assert len(new) == 4 * len(old) > 0
    for name, tensors in new.items():
        expert = int(re.search(r"experts\.(\d+)", name)[1])
        original = old[name.replace(f"experts.{expert}.", f"experts.{expert % 4}.")]
        assert torch.equal(decoded(tensors, form), decoded(original, form) * 0.25)
    config = config_of(tmp_path / "wide")
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (16, 4)


def edits(line):
    """Hostile or careless edits of a line that multiplies a scale, and what is said of each."""
    piece = line["pieces"][0]

    def with_piece(**changes):
        return line | {"pieces": [piece | changes]}

    yield with_piece(scale="1/3"), "times 1/3 is not exact"
    yield with_piece(shift="1"), "plus 1 is not exact"
    yield with_piece(noise={"normal": 0.01, "seed": 0}), "takes no noise"
    yield with_piece(scale="0", shift="1"), "1 is no number that all of F32 could be"
    yield line | {"dtype": "BF16"}, "it is F32 and stays that"
    yield with_piece(**{"from": "model.embed_tokens.weight"}), "made from [64, 32]"


def test_a_plan_that_multiplies_what_it_cannot_is_refused(made, run, tmp_path):
    plan = run("width", "--noise", "0", made("fp8 blocks"), "--plan").stdout.splitlines()
    number = next(n for n, line in enumerate(plan) if "experts.1.down_proj.weight_scale" in line)
    assert json.loads(plan[number])["pieces"][0]["decode"] == {"codec": "exact"}
    for edited, said in edits(json.loads(plan[number])):
        lines = [*plan[:number], json.dumps(edited), *plan[number + 1 :]]
        (tmp_path / "plan.jsonl").write_text("\n".join(lines))
        done = run("apply", "plan.jsonl", "-o", "out", code=1)
        assert said in done.stderr, (said, done.stderr)
        assert not (tmp_path / "out").exists()


def test_only_what_can_be_found_in_no_scale_is_left_for_decoding(made):
    """Weights that are decoded take the factor as numbers, and lose their scales."""
    source = made("fp8 blocks")
    plan = moegrow.width(source, noise=0, experts_dtype="bf16")
    scaled = {o.name: o for o in plan.outputs if any(change_of(p.op).scale != 1 for p in o.pieces)}
    assert len(scaled) == 4 * 8
    assert all(output.dtype == "BF16" for output in scaled.values())
    names = {spec.name for spec in open_checkpoint(source).tensors.values()}
    assert "model.layers.0.mlp.experts.0.down_proj.weight_scale_inv" in names
    with pytest.raises(MoegrowError, match="multiplied by 1/3"):
        moegrow.width(source, noise=0, experts="3x")
