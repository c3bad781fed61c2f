"""Other ways to grow a checkpoint, each one command: what moegrow is measured against.

    python tests/benchmarks/peers.py transformers SOURCE OUT     depth ×2
    python tests/benchmarks/peers.py formula SOURCE OUT          width ×2 with noise

The first loads a model with transformers, repeats its layers and saves it. The second adds noise as
arXiv 2510.08008 gives it (Eq. 4), in the obvious way: with torch, one tensor after another. Both
are written for this comparison, and for checkpoints that synthetic.py makes.
"""

import argparse
import copy
import json
import re
from pathlib import Path
from typing import Any

ALPHA = 0.01
SHARD = "5GB"  # what moegrow makes unless told otherwise
EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts\.)(\d+)(\..*)")
ROUTER = re.compile(r"model\.layers\.\d+\.mlp\.gate\.weight")


def main() -> None:
    ways = {"transformers": load_repeat_save, "formula": noised_by_formula}
    parser = argparse.ArgumentParser(description="Grow a checkpoint without moegrow.")
    parser.add_argument("way", choices=ways)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    ways[arguments.way](arguments.source, arguments.out)


def load_repeat_save(source: Path, out: Path) -> None:
    """Depth ×2: every layer of the loaded model stands twice in the saved one."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    # A layer that stood in two places would be saved once.
    layers = [twin for layer in model.model.layers for twin in (layer, copy.deepcopy(layer))]
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    model.save_pretrained(out, max_shard_size=SHARD)


def noised_by_formula(source: Path, out: Path) -> None:
    """Width ×2: each expert with a copy W + N(0, (α·σ)²), each router with rows of both.

    One file of the source is held at a time, with what it becomes.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    out.mkdir()
    config = json.loads((source / "config.json").read_text())
    experts = config["num_experts"]
    config |= {"num_experts": 2 * experts, "num_experts_per_tok": 2 * config["num_experts_per_tok"]}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weight_map: dict[str, str] = {}
    for file in sorted(source.glob("*.safetensors")):
        new: dict[str, Any] = {}
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                new |= _grown(name, opened.get_tensor(name), experts)
        save_file(new, out / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(new, file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _grown(name: str, tensor: Any, experts: int) -> dict[str, Any]:
    """What becomes of one tensor, by name."""
    import torch

    if found := EXPERT.fullmatch(name):
        block, number, role = found.groups()
        return {name: tensor, f"{block}{int(number) + experts}{role}": noised(tensor)}
    if ROUTER.fullmatch(name):
        return {name: torch.cat([tensor, noised(tensor)])}
    return {name: tensor}


def noised(tensor: Any) -> Any:
    """W + N(0, (α·σ)²), where σ is the standard deviation of W, all in W's own dtype."""
    import torch

    return tensor + torch.randn_like(tensor) * (ALPHA * tensor.std())


def mergekit_config(source: Path, layers: int) -> str:
    """Depth ×2 as mergekit is told: a list of slices of one layer. JSON is YAML, too."""
    slices = [
        {"sources": [{"model": str(source), "layer_range": [layer, layer + 1]}]}
        for layer in range(layers)
        for _ in range(2)
    ]
    wanted = {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}
    return json.dumps(wanted, indent=2) + "\n"


if __name__ == "__main__":
    main()
