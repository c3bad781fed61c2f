"""The made-up model of docs/adding-a-family.md: a checkpoint written by hand, and what it means."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from repository import DOCS
from safetensors.numpy import load_file, save_file

PAGE = DOCS / "adding-a-family.md"

HIDDEN, SIZE, VOCABULARY = 8, 6, 20
LAYERS, DENSE, EXPERTS, TOP_K = 4, 1, 4, 2

CONFIG = {
    "architectures": ["HeronForCausalLM"],
    "model_type": "heron_moe",
    "hidden_size": HIDDEN,
    "num_blocks": LAYERS,
    "first_dense_blocks": DENSE,
    "block_kinds": ["full", "window", "window", "full"],
    "moe": {"experts": EXPERTS, "experts_per_token": TOP_K, "weight_scale": 2.5},
}

Weights = dict[str, np.ndarray]


def build(folder: Path) -> Path:
    """Write the checkpoint: a shard per layer and one for the rest, an index, the config."""
    folder.mkdir()
    generator = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return generator.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    shards = [
        {
            "trunk.embed.weight": matrix(VOCABULARY, HIDDEN),
            "trunk.norm.weight": 1 + matrix(HIDDEN) / 5,
            "head.weight": matrix(VOCABULARY, HIDDEN),
        }
    ]
    for layer in range(LAYERS):
        tensors = {"norm1.weight": 1 + matrix(HIDDEN) / 5, "norm2.weight": 1 + matrix(HIDDEN) / 5}
        tensors |= {"attn.qkv.weight": matrix(3 * HIDDEN, HIDDEN)}
        tensors |= {"attn.out.weight": matrix(HIDDEN, HIDDEN)}
        mlps = ["ffn."]
        if layer >= DENSE:
            tensors |= {"ffn.router.weight": 2 * matrix(EXPERTS, HIDDEN)}
            tensors |= {"ffn.router.load_bias": matrix(EXPERTS) / 5}
            mlps = ["ffn.shared.", *(f"ffn.expert_{expert}." for expert in range(EXPERTS))]
        for mlp in mlps:
            tensors |= {f"{mlp}w_gate.weight": matrix(SIZE, HIDDEN)}
            tensors |= {f"{mlp}w_in.weight": matrix(SIZE, HIDDEN)}
            tensors |= {f"{mlp}w_out.weight": matrix(HIDDEN, SIZE)}
        shards.append({f"trunk.h{layer}.{name}": value for name, value in tensors.items()})
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    size = sum(value.nbytes for tensors in shards for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    return folder


def read(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The config and every tensor of a checkpoint."""
    weights: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return json.loads((folder / "config.json").read_text()), weights


def logits(folder: Path) -> np.ndarray:
    """What the model computes, in float64; each token attends to those up to itself."""
    config, weights = read(folder)
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    state = weights["trunk.embed.weight"][np.arange(12) * 7 % VOCABULARY]
    for layer in range(config["num_blocks"]):
        own = f"trunk.h{layer}."
        layer_weights = {
            name.removeprefix(own): value for name, value in weights.items() if name.startswith(own)
        }
        window = 3 if config["block_kinds"][layer] == "window" else 99
        state = state + attention(norm(state, layer_weights["norm1.weight"]), layer_weights, window)
        after = norm(state, layer_weights["norm2.weight"])
        is_dense = layer < config["first_dense_blocks"]
        out = [
            mlp(x, layer_weights, "ffn.") if is_dense else moe(x, layer_weights, config["moe"])
            for x in after
        ]
        state = state + np.array(out)
    return norm(state, weights["trunk.norm.weight"]) @ weights["head.weight"].T


def moe(x: np.ndarray, weights: Weights, config: dict[str, Any]) -> np.ndarray:
    """The MoE block for one token, with no expert left out of the sum that was chosen."""
    scores = 1 / (1 + np.exp(-weights["ffn.router.weight"] @ x))
    assert scores.shape == (config["experts"],)
    order = np.argsort(-(scores + weights["ffn.router.load_bias"]), kind="stable")
    result = mlp(x, weights, "ffn.shared.")
    for expert in order[: config["experts_per_token"]]:
        weight = scores[expert] * config["weight_scale"]
        result = result + weight * mlp(x, weights, f"ffn.expert_{expert}.")
    return result


def mlp(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    gate = weights[f"{name}w_gate.weight"] @ x
    gate = gate / (1 + np.exp(-gate))
    return weights[f"{name}w_out.weight"] @ (gate * (weights[f"{name}w_in.weight"] @ x))


def attention(x: np.ndarray, weights: Weights, window: int) -> np.ndarray:
    query, key, value = np.split(x @ weights["attn.qkv.weight"].T, 3, axis=1)
    ago = np.arange(len(x))[:, None] - np.arange(len(x))
    scores = np.where((ago >= 0) & (ago < window), query @ key.T * HIDDEN**-0.5, -np.inf)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return scores @ value @ weights["attn.out.weight"].T


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def family_text() -> str:
    """The family file of the page: its blocks of TOML, one after another."""
    return "".join(re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
