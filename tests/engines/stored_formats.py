"""Models that prepare.py has saved in float32, stored again in the formats of published weights."""

from pathlib import Path

import alter
import quantised
import torch

BLOCK = 128  # rows and columns, as they are published


def in_fp8_blocks(folder: Path) -> None:
    """Every matrix of the layers but routers in fp8, with a scale for each block."""
    with alter.weights(folder) as tensors:
        for name in [name for name in tensors if quantised.LINEAR.fullmatch(name)]:
            stem = name.removesuffix("weight")
            for part, tensor in quantised.blocks_of_fp8(tensors.pop(name), BLOCK).items():
                tensors[stem + part] = tensor
    with alter.table(folder / "config.json") as config:
        config["quantization_config"] = {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
        }  # fmt: skip


def in_mxfp4(folder: Path) -> None:
    """The experts of gpt-oss in MXFP4: 32 inputs share an exponent, and two share a byte."""
    with alter.weights(folder) as tensors:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            packed = [_packed(expert.T.contiguous()) for expert in tensors.pop(name)]
            tensors[f"{name}_blocks"] = torch.stack([blocks for blocks, _ in packed])
            tensors[f"{name}_scales"] = torch.stack([scales for _, scales in packed])
    with alter.table(folder / "config.json") as config:
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                "lm_head",
            ],
        }  # fmt: skip


def _packed(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes [out, groups, 16] and the exponents [out, groups] of a matrix [out, in]."""
    found = quantised.FORMATS["mxfp4 ct"].compress(weight)
    scales = found["weight_scale"]
    return found["weight_packed"].reshape(*scales.shape, 16), scales


FORMATS = {"fp8": in_fp8_blocks, "MXFP4": in_mxfp4}
