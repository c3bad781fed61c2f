"""Make the pictures of docs/looking.md: `python docs/pictures.py` writes docs/pictures/*.

They come from a small model whose norms have the shape that arXiv 2510.08008 shows of a trained
one: small near the embedding, rising, and dipping near the head. Its weights are drawn here, so
that whoever runs this gets the same pictures; it takes some seconds and needs `moegrow[plot]`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent / "pictures"
LAYERS, EXPERTS, HIDDEN, SIZE, HEADS = 20, 8, 64, 32, 4


def level(layer: int) -> float:
    """The norm that a layer's weights are drawn with."""
    rise = 0.0323 + 0.0033 * layer / (LAYERS - 1)
    uneven = 0.0004 * (-1) ** layer / (1 + layer)
    dip = 0.0005 if layer == LAYERS - 2 else 0.0
    return rise + uneven - dip


def make_source(folder: Path) -> Path:
    """A Qwen3-MoE checkpoint with that profile."""
    random = np.random.default_rng(0)

    def drawn(layer: int, *shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * level(layer)).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": drawn(0, 64, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        "lm_head.weight": drawn(0, 64, HIDDEN),
    }
    for layer in range(LAYERS):
        head = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{head}.{name}.weight"] = 1 + drawn(layer, HIDDEN)
        for name in "qk":
            tensors[f"{head}.self_attn.{name}_norm.weight"] = 1 + drawn(layer, HIDDEN // HEADS)
        for name in "qkvo":
            tensors[f"{head}.self_attn.{name}_proj.weight"] = drawn(layer, HIDDEN, HIDDEN)
        tensors[f"{head}.mlp.gate.weight"] = drawn(layer, EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            block = f"{head}.mlp.experts.{expert}"
            tensors[f"{block}.gate_proj.weight"] = drawn(layer, SIZE, HIDDEN)
            tensors[f"{block}.up_proj.weight"] = drawn(layer, SIZE, HIDDEN)
            tensors[f"{block}.down_proj.weight"] = drawn(layer, HIDDEN, SIZE)
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "head_dim": HIDDEN // HEADS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "moe_intermediate_size": SIZE, "intermediate_size": SIZE,
        "mlp_only_layers": [], "decoder_sparse_step": 1, "vocab_size": 64,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make(folder: Path) -> None:
    """Every picture, in `folder`."""

    def moegrow(*arguments: object, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "moegrow", *map(str, arguments)],
            input=stdin, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    with tempfile.TemporaryDirectory() as name:
        source = make_source(Path(name) / "base-20-layers")
        moegrow("norms", source, "--seams", "--plot", folder / "seams.png", "-q")
        plan = moegrow("depth", "--keep-first", "2", "--keep-last", "2", source, "--plan")
        plan = moegrow("width", "--experts", "12", "--plan", stdin=plan)
        moegrow("map", "--svg", folder / "map.svg", "-q", stdin=plan)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make(FOLDER)
