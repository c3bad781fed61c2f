"""Toy checkpoints that numpy writes: the names, shapes and configs of tiny real models.

`toys.json` holds what transformers saved for each: its config, and the tensors of each shard.
`python tests/support/toy.py` records it anew (that needs transformers), and a test in tests/models
holds it against transformers. Values are drawn from the names, so they are the same everywhere.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

FILE = Path(__file__).with_name("toys.json")
INDEX = "model.safetensors.index.json"
# Each toy: the model type, and whether experts are stored as one tensor.
TOYS = {
    "qwen3_moe": ("qwen3_moe", False),
    "qwen2_moe": ("qwen2_moe", False),
    "qwen2_moe fused": ("qwen2_moe", True),
    "qwen3_next": ("qwen3_next", False),
    "deepseek_v3": ("deepseek_v3", False),
    "gpt_oss": ("gpt_oss", False),
    "llama4_text": ("llama4_text", False),
    "zaya": ("zaya", False),
    "jetmoe": ("jetmoe", False),
}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values for a tensor, normal and scaled as weights are, drawn from its name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if len(shape) >= 2:
        return drawn * np.float32(shape[-1] ** -0.5)
    return 1 + drawn * np.float32(0.1)


def build(model_type: str, folder: Path, *, fused: bool = False) -> Path:
    """Write a toy checkpoint to `folder`, laid out in shards as transformers does."""
    toy = json.loads(FILE.read_text())[f"{model_type} fused" if fused else model_type]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(toy["config"], indent=2) + "\n")
    (folder / "generation_config.json").write_text("{}\n")
    weight_map = {}
    for shard, shapes in toy["shards"].items():
        tensors = {name: values(name, tuple(shape)) for name, shape in shapes.items()}
        save_file(tensors, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    if len(toy["shards"]) > 1:
        size = sum(tensor.nbytes for tensor in tensors_of(folder).values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return folder


def tensors_of(folder: Path) -> Mapping[str, np.ndarray]:
    """All tensors of a checkpoint whose dtypes numpy has."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@contextmanager
def weights(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The tensors of a checkpoint, written back as one file at the end."""
    found = dict(tensors_of(folder))
    yield found
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def record(name: str, folder: Path) -> dict[str, Any]:
    """The config and the shards, with names and shapes, of what transformers saves for a toy."""
    import tiny

    model_type, fused = TOYS[name]
    tiny.build(model_type, folder, fused=fused)
    shards = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            shards[file.name] = {
                key: list(opened.get_slice(key).get_shape()) for key in sorted(opened.keys())
            }
    return {"config": json.loads((folder / "config.json").read_text()), "shards": shards}


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = {name: record(name, Path(folder) / name.replace(" ", "-")) for name in TOYS}
    lines = (
        f"{json.dumps(name)}: {json.dumps(toy, sort_keys=True)}" for name, toy in found.items()
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
