"""Checkpoints of real shapes whose weights are holes in files: large to plan, small on the disk."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegrow.checkpoint.header import nbytes, write_header
from moegrow.checkpoint.shard_index import index_text
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.families.layout import parameters

BLOCK = 128  # rows and columns that share a scale

Tensors = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Shapes:
    """The sizes of a model that is laid out as Kimi-K2; the published ones unless given."""

    model_type: str = "kimi_k2"
    layers: int = 61
    prediction_layers: int = 0
    experts: int = 384
    top_k: int = 8
    dense_layers: int = 1
    hidden: int = 7168
    expert_size: int = 2048
    dense_size: int = 18432
    heads: int = 64
    q_rank: int = 1536
    kv_rank: int = 512
    head: int = 128
    rotary: int = 64
    vocabulary: int = 163840
    groups: int = 1
    kept_groups: int = 1
    scaling: float = 2.827
    frequencies: bool = True  # rotary frequencies are stored, too


DEEPSEEK_V3 = Shapes(
    model_type="deepseek_v3", prediction_layers=1, experts=256, dense_layers=3, heads=128,
    vocabulary=129280, groups=8, kept_groups=4, scaling=2.5, frequencies=False,
)  # fmt: skip


def kimi_k2(folder: Path, shapes: Shapes | None = None) -> int:
    """Make a checkpoint of Kimi-K2's names, dtypes and shapes in `folder`: its number of tensors.

    The config and the headers are real, the data of each file is one hole. As published, every
    matrix of a layer but the router is stored in fp8 with a scale for each block.
    """
    shapes = shapes or Shapes()
    layers = [
        {f"model.layers.{layer}.{name}": tensor for name, tensor in _layer(shapes, layer)}
        for layer in range(shapes.layers + shapes.prediction_layers)
    ]
    return write(folder, _config(shapes), layers, shapes.vocabulary, shapes.hidden)


def write(
    folder: Path, config: dict[str, Any], layers: list[Tensors], vocabulary: int, hidden: int
) -> int:
    """Make the checkpoint of a config, with a file of holes for each layer: its number of tensors.

    Embedding, last norm and head are added; their shapes are alike in all models made here.
    """
    folder.mkdir(parents=True)
    files = {
        f"model-{number}-of-{len(layers)}.safetensors": tensors
        for number, tensors in enumerate(layers, 1)
    }
    first, *_, last = files.values()
    first["model.embed_tokens.weight"] = ("BF16", (vocabulary, hidden))
    last["model.norm.weight"] = ("BF16", (hidden,))
    last["lm_head.weight"] = ("BF16", (vocabulary, hidden))
    for name, tensors in files.items():
        header = write_header((name, dtype, shape) for name, (dtype, shape) in tensors.items())
        with (folder / name).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + _size(tensors))
    index = index_text(
        {tensor: file for file, tensors in files.items() for tensor in tensors},
        total_size=sum(map(_size, files.values())),
        total_parameters=sum(
            parameters(shape for _, shape in tensors.values()) for tensors in files.values()
        ),
    )
    (folder / INDEX).write_text(index)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return sum(map(len, files.values()))


def _size(tensors: Tensors) -> int:
    return sum(nbytes(dtype, shape) for dtype, shape in tensors.values())


def _layer(shapes: Shapes, layer: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of one layer: name, dtype and shape."""
    hidden, queries = shapes.hidden, shapes.heads * (shapes.head + shapes.rotary)
    yield "input_layernorm.weight", ("BF16", (hidden,))
    yield "post_attention_layernorm.weight", ("BF16", (hidden,))
    yield "self_attn.q_a_layernorm.weight", ("BF16", (shapes.q_rank,))
    yield "self_attn.kv_a_layernorm.weight", ("BF16", (shapes.kv_rank,))
    if shapes.frequencies:
        yield "self_attn.rotary_emb.inv_freq", ("F32", (shapes.rotary // 2,))
    if layer >= shapes.layers:
        yield "enorm.weight", ("BF16", (hidden,))
        yield "hnorm.weight", ("BF16", (hidden,))
        yield "eh_proj.weight", ("BF16", (hidden, 2 * hidden))
        yield "embed_tokens.weight", ("BF16", (shapes.vocabulary, hidden))
        yield "shared_head.norm.weight", ("BF16", (hidden,))
        yield "shared_head.head.weight", ("BF16", (shapes.vocabulary, hidden))
    yield from _matrix("self_attn.q_a_proj", shapes.q_rank, hidden)
    yield from _matrix("self_attn.q_b_proj", queries, shapes.q_rank)
    yield from _matrix("self_attn.kv_a_proj_with_mqa", shapes.kv_rank + shapes.rotary, hidden)
    yield from _matrix("self_attn.kv_b_proj", 2 * shapes.heads * shapes.head, shapes.kv_rank)
    yield from _matrix("self_attn.o_proj", hidden, shapes.heads * shapes.head)
    if layer < shapes.dense_layers:
        yield from _mlp("mlp", shapes.dense_size, hidden)
        return
    yield "mlp.gate.weight", ("BF16", (shapes.experts, hidden))
    yield "mlp.gate.e_score_correction_bias", ("F32", (shapes.experts,))
    yield from _mlp("mlp.shared_experts", shapes.expert_size, hidden)
    for expert in range(shapes.experts):
        yield from _mlp(f"mlp.experts.{expert}", shapes.expert_size, hidden)


def _mlp(name: str, size: int, hidden: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    yield from _matrix(f"{name}.gate_proj", size, hidden)
    yield from _matrix(f"{name}.up_proj", size, hidden)
    yield from _matrix(f"{name}.down_proj", hidden, size)


def _matrix(
    name: str, rows: int, columns: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """A matrix in fp8, and the scale of each of its blocks."""
    yield f"{name}.weight", ("F8_E4M3", (rows, columns))
    yield f"{name}.weight_scale_inv", ("F32", (-(-rows // BLOCK), -(-columns // BLOCK)))


def _config(shapes: Shapes) -> dict[str, Any]:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": shapes.model_type,
        "first_k_dense_replace": shapes.dense_layers,
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.dense_size,
        "kv_lora_rank": shapes.kv_rank,
        "moe_intermediate_size": shapes.expert_size,
        "n_group": shapes.groups,
        "n_routed_experts": shapes.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": shapes.heads,
        "num_experts_per_tok": shapes.top_k,
        "num_hidden_layers": shapes.layers,
        "num_key_value_heads": shapes.heads,
        "num_nextn_predict_layers": shapes.prediction_layers,
        "q_lora_rank": shapes.q_rank,
        "qk_nope_head_dim": shapes.head,
        "qk_rope_head_dim": shapes.rotary,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        },
        "routed_scaling_factor": shapes.scaling,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": shapes.kept_groups,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "v_head_dim": shapes.head,
        "vocab_size": shapes.vocabulary,
    }
