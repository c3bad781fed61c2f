"""What is taken for a quantised weight, and what is refused because nothing tells its numbers."""

import alter
import pytest
import quantised
import tiny
import torch
from stored import Stored, plain, same

import moegrow
from moegrow.errors import MoegrowError
from moegrow.planning.notes import ScalesLeftOut
from moegrow.quant.detect import find_quantised


def only(tensors, config=()):
    (weight,) = find_quantised(Stored(tensors), config).weights.values()
    return weight


def fp8(shape, scale):
    codes = torch.zeros(shape).to(torch.float8_e4m3fn)
    return {"a.weight": codes, "a.weight_scale_inv": torch.ones(scale)}


BLOCKS = [{"quant_method": "fp8", "weight_block_size": [128, 128]}]


@pytest.mark.parametrize(
    ("shape", "scale", "block"),
    [
        ((576, 7168), (5, 56), 128),  # DeepSeek-V3's kv_a_proj_with_mqa: the last rows are 64
        ((64, 64), (1, 1), 128),
        ((256, 130), (2, 2), 128),
        ((512, 256), (512, 1), 0),  # a scale for each row, where others have blocks
        ((512, 256), (512,), 0),
    ],
)
def test_blocks_that_do_not_divide_a_shape_are_those_of_the_config(shape, scale, block):
    torch.manual_seed(0)
    codes, scales = torch.randn(shape).to(torch.float8_e4m3fn), torch.rand(scale) + 0.5
    found = plain({"a.weight": codes, "a.weight_scale_inv": scales}, BLOCKS)
    if block:
        rows, columns = (torch.arange(size) // block for size in shape)
        wide = scales[rows][:, columns]
    else:
        wide = scales.reshape(shape[0], 1)
    same(found, codes.float() * wide)


@pytest.mark.parametrize(
    ("shape", "scale", "told", "said"),
    [
        ((256, 256), (4, 4), BLOCKS, "in blocks of [128, 128]"),
        # 576 rows in 5 blocks of 128, or of 116, or of 120: a guess might be wrong.
        ((576, 256), (5, 2), (), "does not fit [576, 256]"),
        # 2 blocks of 96 rows, or of 128 and 64: nothing tells.
        ((192, 128), (2, 1), (), "does not fit [192, 128]"),
        ((256, 256), (2, 0), BLOCKS, "a scale of [2, 0]"),
        ((256, 256), (3,), BLOCKS, "a scale of [3] does not fit"),
    ],
)
def test_blocks_that_nothing_tells_are_not_guessed(shape, scale, told, said):
    weight = only(fp8(shape, scale), told)
    assert said in weight.problem
    assert weight.shape == ()


def test_blocks_of_a_power_of_two_need_no_config():
    assert only(fp8((256, 384), (2, 3))).shape == (256, 384)


def int4(columns, groups, *, told=None, **weights):
    rows = 8
    tensors = {
        "a.weight_packed": torch.zeros(rows, -(-columns // 8), dtype=torch.int32),
        "a.weight_scale": torch.ones(rows, groups),
        "a.weight_shape": torch.tensor([rows, columns]),
    }
    group = {"weights": {"num_bits": 4, "type": "int", **weights}, "targets": ["Linear"]}
    return only(tensors, [{"config_groups": told or {"group_0": group}}])


def test_groups_of_another_size_than_the_config_says_are_not_decoded():
    assert int4(64, 2, group_size=32).shape == (8, 64)
    assert int4(64, 1, group_size=-1).shape == (8, 64)
    assert int4(64, 1, group_size=None).shape == (8, 64)
    # Two groups of 32 and 16, that would be taken for two of 24.
    assert "48 columns in groups of 32" in int4(48, 2, group_size=32).problem
    assert "64 columns in one group" in int4(64, 2, group_size=-1).problem


@pytest.mark.parametrize(
    ("scale", "name", "group"),
    [(torch.uint8, "MXFP4", 32), (torch.float8_e4m3fn, "NVFP4", 16)],
)
def test_fp4_is_in_groups_of_the_size_of_its_format(scale, name, group):
    def made(columns, groups):
        tensors = {
            "a.weight_packed": torch.zeros(4, columns // 2, dtype=torch.uint8),
            "a.weight_scale": torch.ones(4, groups).to(scale),
        }
        if name == "NVFP4":
            tensors["a.weight_global_scale"] = torch.ones(1)
        return only(tensors)

    assert (made(96, 96 // group).format, made(96, 96 // group).shape) == (name, (4, 96))
    assert f"48 columns in groups of {group}" in made(48, 1).problem


def test_each_module_has_the_scheme_that_its_target_says():
    """Attention in 8 bits and all else in 4, as compressed-tensors has it in several groups."""
    both = {
        "group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32},
                    "targets": ["Linear"]},
        "group_1": {"weights": {"num_bits": 8, "type": "int", "group_size": None},
                    "targets": [r"re:.*self_attn\..*"]},
        "group_2": {"weights": {"num_bits": 8, "type": "float", "strategy": "block",
                                "block_structure": [128, 128]}, "targets": ["x.lm_head"]},
    }  # fmt: skip
    form8 = quantised.compressed(
        "pack-quantized", num_bits=8, type="int", strategy="channel", symmetric=True
    )
    form4 = quantised.compressed("pack-quantized", **quantised.INT4)
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    parts = {"x.self_attn.q_proj": form8(weight), "x.mlp.experts.0.up_proj": form4(weight)}
    stored = Stored(
        {f"{name}.{part}": t for name, tensors in parts.items() for part, t in tensors.items()}
    )
    found = find_quantised(stored, [{"quant_method": "compressed-tensors", "config_groups": both}])
    assert {w.values: (w.decoding.setting("bits"), w.shape) for w in found.weights.values()} == {
        "x.self_attn.q_proj.weight_packed": (8, (16, 64)),
        "x.mlp.experts.0.up_proj.weight_packed": (4, (16, 64)),
    }
    assert all(not weight.problem for weight in found.weights.values())


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq_has_as_many_bits_as_its_shapes_say(bits):
    """`dynamic` may say others than the root of the config for some modules."""
    columns, rows = 32, 16
    tensors = {
        "a.qweight": torch.zeros(columns * bits // 32, rows, dtype=torch.int32),
        "a.qzeros": torch.zeros(1, -(-rows * bits // 32), dtype=torch.int32),
        "a.scales": torch.ones(1, rows).half(),
        "a.g_idx": torch.zeros(columns, dtype=torch.int32),
    }
    weight = only(tensors, [{"quant_method": "gptq", "bits": 4, "dynamic": {"a": {"bits": bits}}}])
    assert weight.decoding.setting("bits") == (bits if bits != 3 else 0)
    assert weight.problem == ("3 bits are not decoded, only 4 and 8" if bits == 3 else "")


@pytest.mark.parametrize(
    ("form", "key", "value"),
    [("gptq", "checkpoint_format", "marlin"), ("awq", "version", "GEMV")],
)
def test_another_packing_under_the_same_names_is_not_decoded(made, tmp_path, form, key, value):
    source = alter.copy(made(form), tmp_path)
    with alter.table(source / "config.json") as config:
        config["quantization_config"][key] = value
    moegrow.apply(moegrow.width(source, noise=0), tmp_path / "wide")
    for options in ({"dtype": "bf16"}, {"experts_dtype": "bf16"}):
        with pytest.raises(MoegrowError, match=f"packed as for {value.lower()}"):
            moegrow.convert(source, **options)
    with pytest.raises(MoegrowError, match=f"packed as for {value.lower()}"):
        moegrow.width(source, noise=0.05, rounding="stochastic")


@pytest.mark.parametrize("form", ["gptq", "awq", "int4"])
def test_codes_without_a_config_are_copied_and_never_taken_for_numbers(made, tmp_path, form):
    """Their scales are floats, and would be rounded to bfloat16 beside codes that stay."""
    source = alter.copy(made(form), tmp_path)
    with alter.table(source / "config.json") as config:
        del config["quantization_config"]
    moegrow.apply(moegrow.depth(source), tmp_path / "deep")
    for options in ({"dtype": "bf16"}, {"experts_dtype": "bf16"}):
        with pytest.raises(MoegrowError, match="in a way that moegrow does not decode"):
            moegrow.convert(source, **options)
    with pytest.raises(MoegrowError, match="quantised in a way"):
        moegrow.norms(source)


def test_small_floats_without_scales_are_copied_and_not_converted(made, tmp_path):
    source = alter.copy(made("fp8 channel"), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith("weight_scale")]:
            del tensors[name]
    with alter.table(source / "config.json") as config:
        del config["quantization_config"]
    moegrow.apply(moegrow.width(source, noise=0), tmp_path / "wide")
    with pytest.raises(MoegrowError, match="is stored as F8_E4M3"):
        moegrow.convert(source, dtype="bf16")


def test_whole_numbers_that_are_no_codes_stand_in_no_ones_way(made, checkpoint, tmp_path):
    """Positions, and tables of experts' numbers, beside weights that are quantised."""
    source = alter.copy(made("fp8 blocks"), tmp_path)
    with alter.weights(source) as tensors:
        tensors["vision.position_ids"] = torch.arange(8)[None]
    moegrow.apply(moegrow.convert(source, dtype="bf16"), tmp_path / "plain")
    found = tiny.tensors(tmp_path / "plain")["vision.position_ids"]
    assert torch.equal(found, torch.arange(8)[None])
    assert "position_ids" not in str(find_quantised(Stored({"position_ids": found}), ()).unknown)


def test_packed_bytes_of_bitsandbytes_have_no_norms_and_are_not_left_out_of_them(
    checkpoint, tmp_path
):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if "_proj" in name]:
            count = tensors[name].numel()
            tensors[name] = torch.randint(0, 256, (count // 2, 1)).to(torch.uint8)
            tensors[f"{name}.absmax"] = torch.ones(count // 64)
            tensors[f"{name}.quant_map"] = torch.ones(16)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    moegrow.apply(moegrow.width(moegrow.depth(source), noise=0), tmp_path / "grown")
    assert moegrow.verify(tmp_path / "grown").ok
    with pytest.raises(MoegrowError, match="is stored as U8"):
        moegrow.norms(source)


KEPT = ("self_attn.k_scale", "self_attn.v_proj.v_scale", "self_attn.q_proj.input_scale")


def test_scales_of_a_cache_are_copied_and_leave_with_the_last_quantised_weight(
    made, checkpoint, tmp_path
):
    source = alter.copy(made("fp8 channel"), tmp_path)
    with alter.weights(source) as tensors:
        for layer in range(4):
            for number, name in enumerate(KEPT):
                tensors[f"model.layers.{layer}.{name}"] = torch.tensor(0.25 + number + layer)
    grown = moegrow.width(moegrow.depth(source), noise=0)
    moegrow.apply(grown, tmp_path / "grown")
    found = tiny.tensors(tmp_path / "grown")
    for layer in range(8):
        for number, name in enumerate(KEPT):
            assert float(found[f"model.layers.{layer}.{name}"]) == 0.25 + number + layer // 2
    moegrow.apply(moegrow.convert(source, experts_dtype="bf16"), tmp_path / "experts")
    kept = tiny.tensors(tmp_path / "experts")
    assert all(f"model.layers.3.{name}" in kept for name in KEPT)
    plan = moegrow.convert(source, dtype="fp32")
    assert ScalesLeftOut(8) in [note for step in plan.steps for note in step.notes]
    moegrow.apply(plan, tmp_path / "plain")
    assert moegrow.verify(tmp_path / "plain").ok
    # What is left is what transformers knows, with an empty report.
    tiny.logits(tmp_path / "plain")


def test_a_name_like_a_scale_is_a_tensor_like_others_where_nothing_is_quantised(
    checkpoint, tmp_path
):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["model.layers.1.self_attn.k_scale"] = torch.tensor(0.5)
    names = {output.name for output in moegrow.convert(source, dtype="bf16").outputs}
    assert "model.layers.1.self_attn.k_scale" in names
