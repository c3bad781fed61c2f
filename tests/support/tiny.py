"""Tiny but real checkpoints, made by transformers itself with weights that make mistakes show."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

CONFIGS = Path(__file__).parent / "tiny_configs"

# Rotary frequencies, decay rates and state-space constants mean something: they stay as drawn.
LEFT_ALONE = ("inv_freq", "A_log", "dt_bias", "slope", "decay", "freqs")


def build(
    model_type: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    fused: bool = False,
    shard_size: str = "60KB",
    **settings: Any,
) -> Path:
    """Save a tiny model of the type to `folder`; `fused` writes experts as they are in memory.

    `settings` override the text model's config.
    """
    config = json.loads((CONFIGS / f"{model_type}.json").read_text())
    config.get("text_config", config).update(settings)
    return save(config, folder, dtype=dtype, fused=fused, shard_size=shard_size)


def save(
    config: dict[str, Any],
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    fused: bool = False,
    shard_size: str = "60KB",
) -> Path:
    """Save the model of a config, with weights drawn for tests, to `folder`."""
    torch.manual_seed(0)
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class(transformers.AutoConfig.for_model(**config))
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            draw_weight(name, weight)
    model.to(dtype).save_pretrained(
        folder, max_shard_size=shard_size, save_original_format=not fused
    )
    return folder


def draw_weight(name: str, weight: torch.Tensor) -> None:
    """Fill a weight so that logits have a deviation near 1 and no two experts are alike."""
    if not weight.is_floating_point() or any(word in name for word in LEFT_ALONE):
        return
    if weight.dim() >= 2:
        is_router = name.endswith(("gate.weight", "router.weight"))
        weight.normal_(0, (2 if is_router else 1) * weight.shape[-1] ** -0.5)
    elif name.endswith("weight"):
        weight.normal_(1, 0.1)
    elif name.endswith("layer_scalar"):
        weight.uniform_(0.5, 1.5)
    else:
        weight.normal_(0, 0.1)


def load(folder: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers loads it in float32, or an AssertionError if it complains."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def logits(source: Path | transformers.PreTrainedModel) -> torch.Tensor:
    """The logits of a checkpoint or a model for a fixed batch of random tokens."""
    model = load(source) if isinstance(source, Path) else source
    tokens = torch.randint(3, 56, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two sets of logits, in units of their standard deviation."""
    return float((a - b).abs().max() / a.std())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by name."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def text_config(folder: Path) -> Mapping[str, Any]:
    """The config of the language model."""
    config = json.loads((folder / "config.json").read_text())
    return config.get("text_config", config)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        if a.dim()
        else bool(a == b)
    )
