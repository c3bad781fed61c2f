"""Checkpoints in quantised formats, and the obvious way to write them in another dtype.

    python tests/benchmarks/dequantise.py make FORMAT FOLDER --layers 2
    python tests/benchmarks/dequantise.py loop SOURCE OUT --dtype bf16

The first writes experts alone, of random codes. The second takes every tensor of a file, decodes it
with torch's operations, one after another, and saves the file by safetensors. It is written for
this comparison, and for checkpoints of the first.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
HIDDEN, SIZE, EXPERTS = 2048, 768, 64
WIDE, PACKED_EXPERTS = 2880, 24  # of gpt-oss, and of some of its experts
BLOCK, GROUP = 128, 32
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def plain(rows: int, columns: int) -> Tensors:
    return {"weight": (torch.randn(rows, columns) * 0.02).to(torch.bfloat16)}


def fp8(rows: int, columns: int) -> Tensors:
    grid = -(-rows // BLOCK), -(-columns // BLOCK)
    return {
        "weight": (torch.randn(rows, columns) * 60).to(torch.float8_e4m3fn),
        "weight_scale_inv": torch.rand(grid) * 1e-3 + 1e-4,
    }


def int4(rows: int, columns: int) -> Tensors:
    return {
        "weight_packed": torch.randint(-(2**31), 2**31, (rows, columns // 8)).to(torch.int32),
        "weight_scale": (torch.rand(rows, columns // GROUP) * 0.01).to(torch.bfloat16),
        "weight_shape": torch.tensor([rows, columns]),
    }


INTEGERS = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": GROUP}
MATRICES: dict[str, tuple[Callable[[int, int], Tensors], dict[str, Any] | None]] = {
    "bf16": (plain, None),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}),
    "int4": (int4, {"quant_method": "compressed-tensors", "format": "pack-quantized",
                    "config_groups": {"group_0": {"weights": INTEGERS, "targets": ["Linear"]}}}),
}  # fmt: skip


def make(form: str, folder: Path, layers: int) -> None:
    """Write experts of Qwen3's shape, or in MXFP4 of gpt-oss's, a file for each layer."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    is_packed = form == "mxfp4"
    for layer in range(layers):
        tensors = dict(_packed(layer) if is_packed else _experts(layer, MATRICES[form][0]))
        save_file(tensors, folder / f"model-{layer + 1:05d}-of-{layers:05d}.safetensors")
    table: dict[str, Any] = {"num_hidden_layers": layers, "num_experts_per_tok": 8}
    if is_packed:
        table |= {"model_type": "gpt_oss", "num_local_experts": PACKED_EXPERTS}
        quantisation: dict[str, Any] | None = {"quant_method": "mxfp4"}
    else:
        table |= {"model_type": "qwen3_moe", "num_experts": EXPERTS}
        quantisation = MATRICES[form][1]
    if quantisation:
        table["quantization_config"] = quantisation
    table["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(table, indent=2))
    weight_map = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            weight_map |= dict.fromkeys(opened.keys(), file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _experts(
    layer: int, matrix: Callable[[int, int], Tensors]
) -> Iterator[tuple[str, torch.Tensor]]:
    start = f"model.layers.{layer}"
    yield f"{start}.mlp.gate.weight", torch.randn(EXPERTS, HIDDEN).to(torch.bfloat16)
    for expert in range(EXPERTS):
        for name in ("gate", "up", "down"):
            sizes = (HIDDEN, SIZE) if name == "down" else (SIZE, HIDDEN)
            for part, tensor in matrix(*sizes).items():
                yield f"{start}.mlp.experts.{expert}.{name}_proj.{part}", tensor


def _packed(layer: int) -> Iterator[tuple[str, torch.Tensor]]:
    start = f"model.layers.{layer}.mlp"
    yield f"{start}.router.weight", torch.randn(PACKED_EXPERTS, WIDE).to(torch.bfloat16)
    for name, rows in (("gate_up", 2 * WIDE), ("down", WIDE)):
        groups = (PACKED_EXPERTS, rows, WIDE // GROUP)
        blocks = torch.randint(0, 256, (*groups, GROUP // 2), dtype=torch.uint8)
        yield f"{start}.experts.{name}_proj_blocks", blocks
        scales = torch.randint(115, 122, groups, dtype=torch.uint8)
        yield f"{start}.experts.{name}_proj_scales", scales


def loop(source: Path, out: Path, dtype: torch.dtype) -> None:
    """Every tensor of every file, decoded and rounded, one file in memory at a time."""
    out.mkdir()
    for file in sorted(source.glob("*.safetensors")):
        made: Tensors = {}
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            for name in sorted(names):
                for new, tensor in _decoded(name, names, opened.get_tensor):
                    made[new] = tensor.to(dtype).contiguous()
        save_file(made, out / file.name)


def _decoded(
    name: str, names: set[str], read: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain weight that a tensor holds the codes of, if it does."""
    if name.endswith(("_scale", "_scales", "_scale_inv", "_shape")):
        return
    if name.endswith("_blocks"):
        stem = name.removesuffix("_blocks")
        yield stem, mxfp4_decoded(read(name), read(f"{stem}_scales"))
    elif name.endswith("_packed"):
        stem = name.removesuffix("_packed")
        yield stem, int4_decoded(read(name), read(f"{stem}_scale"))
    elif f"{name}_scale_inv" in names:
        yield name, fp8_decoded(read(name), read(f"{name}_scale_inv"))
    else:
        yield name, read(name)


def fp8_decoded(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows, columns = codes.shape
    wide = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return codes.float() * wide


def int4_decoded(words: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes = ((words[..., None] >> shifts) & 15).reshape(len(words), -1) - 8
    grouped = codes.reshape(len(words), -1, GROUP).float() * scale.float()[..., None]
    return grouped.reshape(codes.shape)


def mxfp4_decoded(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    values = torch.tensor([*FP4, *(-value for value in FP4)], dtype=torch.bfloat16)
    halves = torch.stack([values[(blocks & 15).int()], values[(blocks >> 4).int()]], -1)
    found = torch.ldexp(halves.flatten(-2), scales.int()[..., None] - 127)
    return found.reshape(*blocks.shape[:-2], -1).transpose(1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a quantised checkpoint, or decode one.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("format", choices=[*MATRICES, "mxfp4"])
    making.add_argument("folder", type=Path)
    making.add_argument("--layers", type=int, default=2)
    looping = commands.add_parser("loop")
    looping.add_argument("source", type=Path)
    looping.add_argument("out", type=Path)
    looping.add_argument("--dtype", choices=DTYPES, default="bf16")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.format, arguments.folder, arguments.layers)
    else:
        loop(arguments.source, arguments.out, DTYPES[arguments.dtype])


if __name__ == "__main__":
    main()
