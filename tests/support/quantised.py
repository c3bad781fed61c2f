"""Tiny checkpoints in the formats that weights are published in, made by the libraries of each.

compressed-tensors compresses its own formats, transformers' conversion its blocks of fp8; what
ModelOpt, GPTQ and AWQ write is laid out here as they document it, from the same values.
test_autoround.py has GPTQ and AWQ as a library saves them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import alter
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from transformers.integrations.finegrained_fp8 import Fp8Quantize

Tensors = dict[str, torch.Tensor]

# Every matrix of a layer but routers and norms.
LINEAR = re.compile(r"model\.layers\.\d+\..*_proj(_with_mqa)?\.weight")


class Format(NamedTuple):
    """A format: a family to show it on, what a weight becomes, and what the config says of it."""

    family: str
    compress: Callable[[torch.Tensor], Tensors]
    config: dict[str, Any]


def scheme(format_name: str, **weights: Any) -> tuple[Any, QuantizationScheme]:
    """The compressor of a format of compressed-tensors, and a scheme for weights alone."""
    args = QuantizationArgs(dynamic=False, **weights)
    compressor = BaseCompressor.get_value_from_registry(format_name)
    return compressor, QuantizationScheme(targets=["Linear"], weights=args, format=format_name)


def qparams(weight: torch.Tensor, args: QuantizationArgs) -> Tensors:
    """Scales and zero points, from the smallest and the largest value of each group."""
    rows, columns = weight.shape
    strategy = args.strategy
    found = {}
    if strategy == "tensor":
        groups = weight.reshape(1, -1)
    elif strategy == "block":
        height, width = args.block_structure
        groups = weight.reshape(rows // height, height, columns // width, width).transpose(1, 2)
        groups = groups.flatten(2)
    elif strategy == "channel":
        groups = weight.reshape(rows, 1, columns)
    else:
        groups = weight.reshape(rows, columns // args.group_size, args.group_size)
    if strategy == "tensor_group":
        found["weight_global_scale"] = generate_gparam(*torch.aminmax(weight))
    low, high = torch.aminmax(groups, dim=-1)
    scale, zero = calculate_qparams(low, high, args, found.get("weight_global_scale"))
    found["weight_scale"] = scale
    if not args.symmetric:
        found["weight_zero_point"] = zero.to(torch.int8)
    return found


def compressed(format_name: str, **weights: Any) -> Callable[[torch.Tensor], Tensors]:
    """What compressed-tensors makes of a weight, by the last parts of the tensors' names."""
    compressor, chosen = scheme(format_name, **weights)

    def compress(weight: torch.Tensor) -> Tensors:
        state = {"weight": weight, **qparams(weight, chosen.weights)}
        return dict(compressor.compress(state, chosen))

    return compress


def ct_config(format_name: str, **weights: Any) -> dict[str, Any]:
    _, chosen = scheme(format_name, **weights)
    return {
        "quant_method": "compressed-tensors",
        "format": format_name,
        "quantization_status": "compressed",
        "config_groups": {"group_0": json.loads(chosen.model_dump_json())},
        "ignore": ["lm_head", "re:.*mlp\\.gate$"],
    }


def ct(family: str, format_name: str, **weights: Any) -> Format:
    return Format(family, compressed(format_name, **weights), ct_config(format_name, **weights))


def blocks_of_fp8(weight: torch.Tensor, size: int = 8) -> Tensors:
    """What transformers makes of a weight when it saves blocks of fp8."""
    config = SimpleNamespace(weight_block_size=[size, size], scale_fmt="float")
    quantise = Fp8Quantize(SimpleNamespace(quantization_config=config))
    return quantise.convert({"weight": weight})


def modelopt_fp8(weight: torch.Tensor) -> Tensors:
    scale = weight.abs().max() / 448
    stored = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scale, "input_scale": torch.tensor(0.5)}


def modelopt_nvfp4(weight: torch.Tensor) -> Tensors:
    """As compressed-tensors packs it, under ModelOpt's names, with the factor the other way up."""
    state = compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group",
                       group_size=16)(weight)  # fmt: skip
    return {
        "weight": state["weight_packed"],
        "weight_scale": state["weight_scale"],
        "weight_scale_2": (1 / state["weight_global_scale"]).reshape(()),
        "input_scale": torch.tensor(0.25),
    }


def packed(codes: torch.Tensor, order: tuple[int, ...], axis: int) -> torch.Tensor:
    """Eight values of 4 bits in each word of 32, along an axis, `order` saying which goes where."""
    codes = codes.to(torch.int64).movedim(axis, -1)
    words = codes.reshape(*codes.shape[:-1], -1, 8)[..., list(order)]
    bits = (words << (4 * torch.arange(8))).sum(-1)
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).movedim(-1, axis)


def grouped_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [in, out], scales and zeros [groups, out] of 4 bits, in groups of 16 inputs."""
    inputs = weight.T.reshape(-1, 16, weight.shape[0])
    low, high = inputs.amin(1).clamp(max=0), inputs.amax(1).clamp(min=0)
    scale = ((high - low) / 15).to(torch.float16)
    zero = (-low / scale.float()).round().clamp(1, 15)
    codes = (inputs / scale.float()[:, None] + zero[:, None]).round().clamp(0, 15)
    return codes.reshape(weight.T.shape), scale, zero


def gptq(weight: torch.Tensor) -> Tensors:
    codes, scale, zero = grouped_int4(weight)
    return {
        "qweight": packed(codes, tuple(range(8)), 0),
        "qzeros": packed(zero - 1, tuple(range(8)), 1),
        "scales": scale,
        "g_idx": (torch.arange(len(codes)) // 16).to(torch.int32),
    }


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(weight: torch.Tensor) -> Tensors:
    codes, scale, zero = grouped_int4(weight)
    return {
        "qweight": packed(codes, AWQ_ORDER, 1),
        "qzeros": packed(zero, AWQ_ORDER, 1),
        "scales": scale,
    }


FP8 = {"num_bits": 8, "type": "float"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}

FORMATS = {
    "fp8 blocks": Format(
        "deepseek_v3", blocks_of_fp8,
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
         "weight_block_size": [8, 8]},
    ),
    "fp8 tensor": ct("qwen3_moe", "float-quantized", strategy="tensor", **FP8),
    "fp8 channel": ct("qwen3_moe", "float-quantized", strategy="channel", **FP8),
    "fp8 ct blocks": ct(
        "qwen3_moe", "float-quantized", strategy="block", block_structure=[8, 16], **FP8
    ),
    "int8 channel": ct(
        "qwen3_moe", "int-quantized", num_bits=8, type="int", strategy="channel"
    ),
    "int4": ct("kimi", "pack-quantized", **INT4),
    "int4 with zero points": ct("qwen3_moe", "pack-quantized", symmetric=False, **INT4),
    "nvfp4": ct(
        "qwen3_moe", "nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group",
        group_size=16,
    ),
    "mxfp4 ct": ct(
        "qwen3_moe", "mxfp4-pack-quantized", num_bits=4, type="float", strategy="group",
        group_size=32, scale_dtype="torch.uint8", zp_dtype="torch.uint8",
    ),
    "modelopt fp8": Format(
        "qwen3_moe", modelopt_fp8,
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
    ),
    "modelopt nvfp4": Format(
        "qwen3_moe", modelopt_nvfp4,
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16,
         "ignore": ["lm_head"]},
    ),
    "gptq": Format(
        "qwen3_moe", gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False, "desc_act": False,
         "checkpoint_format": "gptq"},
    ),
    "awq": Format(
        "qwen3_moe", awq,
        {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"},
    ),
}  # fmt: skip

# Dimensions that whole groups and blocks fit into.
SIZES = {
    "deepseek_v3": {"moe_intermediate_size": 32},
    "qwen3_moe": {"moe_intermediate_size": 32},
}


def plain(checkpoint: Callable[..., Path], name: str) -> Path:
    """The checkpoint that a format is shown on, before it is quantised."""
    family = FORMATS[name].family.replace("kimi", "deepseek_v3")
    sizes = SIZES[family]
    if FORMATS[name].family == "kimi":
        sizes = sizes | {"q_lora_rank": 32, "kv_lora_rank": 32}
    return checkpoint(family, **sizes)


def quantised(source: Path, folder: Path, name: str) -> Path:
    """A copy of a checkpoint with every matrix of its layers in a format."""
    form = FORMATS[name]
    folder.mkdir(exist_ok=True)
    copy = alter.copy(source, folder)
    with alter.weights(copy) as tensors:
        for old in [old for old in tensors if LINEAR.fullmatch(old)]:
            stem = old.removesuffix("weight")
            for part, tensor in form.compress(tensors.pop(old)).items():
                tensors[stem + part] = tensor.detach()
    with alter.table(copy / "config.json") as config:
        config["quantization_config"] = form.config
    return copy
