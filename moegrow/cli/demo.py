"""The command `demo`: make a small MoE checkpoint, grow it and verify it."""

import json
import shlex
from pathlib import Path

import numpy as np
from rich.console import Console
from safetensors.numpy import save_file

from moegrow import apply, depth, verify, width
from moegrow.checkpoint.shard_index import index_text
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.cli import summaries
from moegrow.errors import MoegrowError
from moegrow.planning import open_source

HIDDEN, HEADS, HEAD = 64, 4, 16
LAYERS, EXPERTS, TOP_K, EXPERT_SIZE = 4, 8, 2, 32
SHARD = "500KB"
CHARACTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = ["<s>", "</s>", "<unk>", *CHARACTERS]


def run_demo(folder: Path) -> tuple[Path, Path]:
    """Make `folder` with a tiny checkpoint and its grown twin, and give the paths of both.

    Raises MoegrowError where the folder exists.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        raise MoegrowError(
            f"{folder} exists already", "name another folder: moegrow demo another"
        ) from None
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    small, grown = folder / "tiny-moe", folder / "tiny-moe-depth2x-width2x"
    make_checkpoint(small)
    say.print(f"made {small}, a checkpoint with random weights")
    old, new = shlex.quote(str(small)), shlex.quote(str(grown))
    deeper = f"moegrow depth --mode interpose {old} --plan"
    wider = f"| moegrow width --experts 2x --noise 0.01 --max-shard-size {SHARD} -o {new}"
    say.print(f"\n$ {deeper} {wider}", style="bold", markup=False)
    plan = depth(small, mode="interpose", command=deeper)
    plan = width(plan, experts="2x", noise=0.01, command=wider)
    summaries.summary(plan, open_source.load(plan)[1], grown)
    apply(plan, grown, max_shard_size=SHARD)
    say.print(f"\n$ moegrow verify {new}", style="bold", markup=False)
    found = verify(grown)
    summaries.verified(found, str(grown))
    if not found.ok:
        raise MoegrowError("the demo's own result is not as planned", "please report it")
    return small, grown


def make_checkpoint(folder: Path) -> None:
    """Write a Qwen3-MoE checkpoint with seeded random weights: config, shards, index, tokenizer."""
    folder.mkdir()
    generator = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return generator.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    def ones(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.ones(size, np.float32)

    outside = {
        "model.embed_tokens.weight": matrix(len(VOCABULARY), HIDDEN),
        "model.norm.weight": ones(HIDDEN),
        "lm_head.weight": matrix(len(VOCABULARY), HIDDEN),
    }
    shards = [outside]
    for layer in range(LAYERS):
        tensors = {"input_layernorm.weight": ones(HIDDEN)}
        for name, rows in (("q", HEADS), ("k", HEADS), ("v", HEADS)):
            tensors[f"self_attn.{name}_proj.weight"] = matrix(rows * HEAD, HIDDEN)
        tensors["self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD)
        tensors["self_attn.q_norm.weight"] = ones(HEAD)
        tensors["self_attn.k_norm.weight"] = ones(HEAD)
        tensors["post_attention_layernorm.weight"] = ones(HIDDEN)
        tensors["mlp.gate.weight"] = matrix(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            prefix = f"mlp.experts.{expert}"
            tensors[f"{prefix}.gate_proj.weight"] = matrix(EXPERT_SIZE, HIDDEN)
            tensors[f"{prefix}.up_proj.weight"] = matrix(EXPERT_SIZE, HIDDEN)
            tensors[f"{prefix}.down_proj.weight"] = matrix(HIDDEN, EXPERT_SIZE)
        named = {f"model.layers.{layer}.{name}": value for name, value in tensors.items()}
        shards.append(named)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    elements = sum(value.size for tensors in shards for value in tensors.values())
    index = index_text(weight_map, total_size=4 * elements, total_parameters=elements)
    (folder / INDEX).write_text(index)
    for name, table in ((CONFIG, _CONFIG), ("tokenizer.json", _TOKENIZER)):
        (folder / name).write_text(json.dumps(table, indent=2) + "\n")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    settings |= {"eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "decoder_sparse_step": 1,
    "head_dim": HEAD,
    "hidden_size": HIDDEN,
    "intermediate_size": 4 * HIDDEN,
    "max_position_embeddings": 512,
    "mlp_only_layers": [],
    "moe_intermediate_size": EXPERT_SIZE,
    "norm_topk_prob": True,
    "num_attention_heads": HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": len(VOCABULARY),
}

# One token per printable character: enough to type a prompt at a model of random weights.
_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {
            "id": number,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for number, token in enumerate(VOCABULARY[:3])
    ],
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"Regex": "."},
        "behavior": "Isolated",
        "invert": False,
    },
    "model": {
        "type": "WordLevel",
        "vocab": {token: number for number, token in enumerate(VOCABULARY)},
        "unk_token": "<unk>",
    },
}
