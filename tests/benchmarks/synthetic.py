"""A Qwen3-MoE checkpoint of any size with weights drawn at random, written block after block.

    python tests/benchmarks/synthetic.py FOLDER --layers 4

The shapes are those of Qwen3-30B-A3B, but for half as many experts and a small vocabulary, so that
nearly all bytes are experts and one layer is 642 MB.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from moegrow.checkpoint.header import nbytes, write_header
from moegrow.checkpoint.shard_index import index_text
from moegrow.checkpoint.store import CONFIG, INDEX

DTYPE = "BF16"
SIGMA = 0.02  # of the weights, as models are initialised
BLOCK = 1 << 20  # weights drawn at a time
SHARD = 600_000_000  # bytes of a file, about
FACTOR = 2  # what both axes are grown by


class Tensor(NamedTuple):
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return nbytes(DTYPE, self.shape)


@dataclass(frozen=True)
class Shapes:
    """The sizes of a Qwen3-MoE model."""

    layers: int
    experts: int = 64
    top_k: int = 8
    hidden: int = 2048
    expert_size: int = 768
    heads: int = 32
    kv_heads: int = 4
    head: int = 128
    vocabulary: int = 32000

    @property
    def expert(self) -> int:
        """Bytes of one expert with its row of the router."""
        return nbytes(DTYPE, (3 * self.expert_size + 1, self.hidden))

    @property
    def layer(self) -> int:
        """Bytes of one layer."""
        return sum(tensor.nbytes for tensor in _layer(self, 0))

    @property
    def outside(self) -> int:
        """Bytes outside all layers."""
        return sum(tensor.nbytes for tensor in _outside(self))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.outside + self.layers * self.layer

    def grown(self, *, deeper: bool, wider: bool) -> int:
        """Bytes of all tensors with FACTOR times as many layers, experts, or both."""
        layer = self.layer + (FACTOR - 1) * self.experts * self.expert * wider
        return self.outside + self.layers * layer * (FACTOR if deeper else 1)


def of_size(size: int) -> Shapes:
    """The shapes whose bytes are nearest to `size`, of one layer at least."""
    one = Shapes(1)
    return Shapes(max(1, round((size - one.outside) / one.layer)))


def bytes_of(text: str) -> int:
    """How many bytes a size in GB is, as it is given on a command line."""
    return round(float(text.upper().removesuffix("B").removesuffix("G")) * 1e9)


def make(folder: Path, shapes: Shapes) -> None:
    """Write a checkpoint of seeded random weights to `folder`, which may not exist."""
    import numpy as np

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    files = list(_files(shapes))
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map |= {tensor.name: name for tensor in tensors}
        with (folder / name).open("wb") as file:
            file.write(write_header((tensor.name, DTYPE, tensor.shape) for tensor in tensors))
            for tensor in tensors:
                _draw(tensor, generator, file)
    elements = sum(math.prod(tensor.shape) for tensors in files for tensor in tensors)
    index = index_text(weight_map, total_size=shapes.nbytes, total_parameters=elements)
    (folder / INDEX).write_text(index)
    (folder / CONFIG).write_text(json.dumps(_config(shapes), indent=2) + "\n")


def _draw(tensor: Tensor, generator: Any, file: IO[bytes]) -> None:
    """Write a tensor: ones for a norm, normal values otherwise."""
    import numpy as np

    left = math.prod(tensor.shape)
    is_norm = tensor.name.endswith("norm.weight")
    while left:
        count = min(left, BLOCK)
        if is_norm:
            values = np.ones(count, np.float32)
        else:
            values = generator.standard_normal(count, np.float32) * np.float32(SIGMA)
        # Rounded to nearest, ties upwards: no one will know.
        (values.view(np.uint32) + 0x8000 >> 16).astype("<u2").tofile(file)
        left -= count


def _files(shapes: Shapes) -> Iterator[list[Tensor]]:
    """The tensors of each file, in order."""
    file: list[Tensor] = []
    size = 0
    for tensor in _tensors(shapes):
        if file and size + tensor.nbytes > SHARD:
            yield file
            file, size = [], 0
        file.append(tensor)
        size += tensor.nbytes
    yield file


def _tensors(shapes: Shapes) -> Iterator[Tensor]:
    embedding, *rest = _outside(shapes)
    yield embedding
    for layer in range(shapes.layers):
        yield from _layer(shapes, layer)
    yield from rest


def _outside(shapes: Shapes) -> Iterator[Tensor]:
    yield Tensor("model.embed_tokens.weight", (shapes.vocabulary, shapes.hidden))
    yield Tensor("model.norm.weight", (shapes.hidden,))
    yield Tensor("lm_head.weight", (shapes.vocabulary, shapes.hidden))


def _layer(shapes: Shapes, layer: int) -> Iterator[Tensor]:
    hidden, head, size = shapes.hidden, shapes.head, shapes.expert_size
    start = f"model.layers.{layer}"
    yield Tensor(f"{start}.input_layernorm.weight", (hidden,))
    for name, heads in (("q", shapes.heads), ("k", shapes.kv_heads), ("v", shapes.kv_heads)):
        yield Tensor(f"{start}.self_attn.{name}_proj.weight", (heads * head, hidden))
    yield Tensor(f"{start}.self_attn.o_proj.weight", (hidden, shapes.heads * head))
    yield Tensor(f"{start}.self_attn.q_norm.weight", (head,))
    yield Tensor(f"{start}.self_attn.k_norm.weight", (head,))
    yield Tensor(f"{start}.post_attention_layernorm.weight", (hidden,))
    yield Tensor(f"{start}.mlp.gate.weight", (shapes.experts, hidden))
    for expert in range(shapes.experts):
        block = f"{start}.mlp.experts.{expert}"
        yield Tensor(f"{block}.gate_proj.weight", (size, hidden))
        yield Tensor(f"{block}.up_proj.weight", (size, hidden))
        yield Tensor(f"{block}.down_proj.weight", (hidden, size))


def _config(shapes: Shapes) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "decoder_sparse_step": 1,
        "head_dim": shapes.head,
        "hidden_act": "silu",
        "hidden_size": shapes.hidden,
        "intermediate_size": 3 * shapes.hidden,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "moe_intermediate_size": shapes.expert_size,
        "norm_topk_prob": True,
        "num_attention_heads": shapes.heads,
        "num_experts": shapes.experts,
        "num_experts_per_tok": shapes.top_k,
        "num_hidden_layers": shapes.layers,
        "num_key_value_heads": shapes.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shapes.vocabulary,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a checkpoint of random weights.")
    parser.add_argument("folder", type=Path, help="where it is put; may not exist")
    parser.add_argument("--layers", type=int, default=4, help="layers of 642 MB each (4)")
    arguments = parser.parse_args()
    make(arguments.folder, Shapes(arguments.layers))


if __name__ == "__main__":
    main()
