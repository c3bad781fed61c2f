"""Where a grown checkpoint is not what its definition says: tensors, config, logits and verdict."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import reference
import tiny
import torch
from definitions import Model
from drawing import Case, text_part

# Tiny stacks of linear attention amplify rounding in float32. Where no wider model can be made,
# factors on what is stored in 16 bits round once more. Wrong results differ by 0.2 and more.
EXACT, ROUNDED = 2e-3, 5e-2


class NoReference(Exception):
    """No wider model can be made in memory."""


# What begins the report of a verdict that promises less than the function keeps.
CAUTIOUS = "the function is preserved"


def logit_problems(
    source: reference.Network, grown: reference.Network, model: Model, case: Case,
    told: list[dict[str, Any]],
) -> Iterator[str]:  # fmt: skip
    found = reference.compute(grown)
    same_function = reference.compute(reference.deepened(source, model))
    has_factor = any("times" in sentence for step in told for sentence in step["says"])
    is_rounded = case.dtype != torch.float32 and has_factor
    has_reference = case.model_type not in reference.NO_WIDTH and not model.noisy_router
    distance = reference.distance(same_function, found)
    says_exact = all(step["preserves_function"] for step in told) and not model.noisy_router
    if says_exact and not (is_rounded and has_reference):
        if distance > (ROUNDED if is_rounded else EXACT):
            yield f"logits differ by {distance:.2g}, and the function is said to be preserved"
        return
    if not says_exact and len(told) == 1 and distance < 1e-5 and not model.noisy_router:
        yield f"{CAUTIOUS} ({distance:.1g}), and is said not to be"
    if not has_reference:
        return
    try:
        wider = reference.widened(source, model)
    except Exception as error:
        raise NoReference(repr(error)[:200]) from None
    # A rounded factor can turn near ties in routers, so what is exact is asked of the factor
    # itself, and logits are compared with the factor as it was stored.
    if says_exact:
        exact = reference.compute(reference.deepened(wider, model))
        if (distance := reference.distance(same_function, exact)) > EXACT:
            yield f"the function is said to be preserved; the reference differs by {distance:.2g}"
    if is_rounded:
        _take_rounding(wider, grown, model, case)
    distance = reference.distance(reference.compute(reference.deepened(wider, model)), found)
    if distance > EXACT:
        yield f"logits differ from the reference by {distance:.2g}"


def _take_rounding(
    wider: reference.Network, grown: reference.Network, model: Model, case: Case
) -> None:
    """Give the reference the grown tensors that are its own but for one rounding an operation."""
    limits = torch.finfo(case.dtype)
    relative = len(case.operations) * limits.eps / 2
    olds, news = (getattr(*reference.layers(network)) for network in (wider, grown))
    for number, old in enumerate(olds):
        copies = zip(model.layers, model.silent, news, strict=True)
        new = next(
            (new for made_of, silent, new in copies if made_of == number and not silent), old
        )
        after = new.state_dict()
        for name, exact in old.state_dict().items():
            stored = after.get(name, exact)
            if stored.shape == exact.shape and exact.is_floating_point():
                limit = relative * exact.abs() + limits.smallest_normal * limits.eps
                if bool(((stored - exact).abs() <= limit).all()):
                    exact.copy_(stored)


_LAYER = re.compile(r"(?<![a-z_])(layers|blocks)\.(\d+)\.")
_EXPERT = re.compile(r"(?<=experts\.)(\d+)(?=\.)")
# Tensors of layers that stand elsewhere, and of other stacks of layers.
_NOT_IN_FIRST = ("router_states_scale", "query", "queries")  # a copy of layer 0 begins with zeros
_NOT_LAYERS = ("attn_res.", "mtp", "vision", "visual", "audio", "talker")


def tensor_problems(place: Path, result: Path, model: Model, case: Case) -> Iterator[str]:
    """Where a tensor does not have the bytes of the layer and expert that it was made from."""
    old, new = tiny.tensors(place), tiny.tensors(result)
    experts = max(model.experts) + 1
    has_noise = model.noisy_router
    for name, tensor in new.items():
        made_of, silent = name, False
        found = _LAYER.search(name)
        if found and not any(word in name[: found.start()] for word in _NOT_LAYERS):
            number = int(found[2])
            if number < len(model.layers):
                silent = model.silent[number]
                made_of = name[: found.start(2)] + str(model.layers[number]) + name[found.end(2) :]
        if (expert := _EXPERT.search(made_of)) and "shared" not in made_of:
            number = int(expert[1])
            if number >= len(model.experts):
                continue  # zero experts and lists for pictures
            made_of = _EXPERT.sub(str(model.experts[number]), made_of, count=1)
        if made_of not in old:
            if not silent and not any(word in name for word in _NOT_IN_FIRST):
                yield f"{name} comes from {made_of}, which there is not"
            continue
        was = old[made_of]
        if tiny.same_bytes(was, tensor) or (silent and not tensor.count_nonzero()):
            continue
        if silent and bool((tensor == 1).all()):
            continue
        if was.shape != tensor.shape:
            if was.dim() == tensor.dim() and case.model_type not in reference.NO_WIDTH:
                was = _taken(was, tensor.shape, model.experts, experts)
                if was is None or (was.shape == tensor.shape and tiny.same_bytes(was, tensor)):
                    continue
            else:
                continue
            if silent and not tensor.count_nonzero():
                continue
        if case.model_type in reference.NO_WIDTH or "tid2eid" in made_of:
            continue
        scale = tensor.double() / was.double()
        scale = scale[scale.isfinite()]
        spread = float(scale.max() - scale.min()) if scale.numel() else 1
        takes_noise = has_noise and any(word in name for word in ("gate", "router", "bias"))
        if spread > 0.02 * float(scale.abs().max()) and not takes_noise:
            yield f"{name} does not have the bytes of {made_of}"


def _taken(
    was: torch.Tensor, shape: torch.Size, experts: tuple[int, ...], count: int
) -> torch.Tensor | None:
    """A tensor of all experts with their copies, or None where it has further rows."""
    for axis, (had, wants) in enumerate(zip(was.shape, shape, strict=True)):
        if had != wants:
            size, rest = divmod(had, count)
            if rest or size * len(experts) != wants:
                return None
            rows = [expert * size + row for expert in experts for row in range(size)]
            was = was.index_select(axis, torch.tensor(rows))
    return was


# Lists that follow rules of their own, and settings that a wider router or a deeper model changes.
OWN_RULES = (
    "indexer_types", "kv_source_layers", "mlp_only_layers", "ple_layer_ids", "moe_layers",
    "per_layer_config", "eos_token_id", "n_group", "topk_group", "num_expert_group",
    "routed_scaling_factor", "n_shared_experts", "zero_expert_num", "first_k_dense_replace",
    "num_dense_layers", "moe_layer_end_index", "moe_layer_start_index", "decoder_sparse_step",
    "n_layers_per_attn_res_block", "num_kv_shared_layers", "index_topk_pattern", "route_scale",
    "linear_attn_config", "local_layer_ids", "hybrid_override_pattern", "dense_mlp_idx",
    "sparse_attention_config", "number_of_conv_states", "compress_ratios", "num_hash_layers",
    "max_window_layers", "attn_layer_period", "moe_layers_enum", "route_norm",
)  # fmt: skip
# What the classes of transformers compute without the key, and other engines only with it.
WRITTEN_FOR_ENGINES = {"scoring_func": "sigmoid"}


def config_problems(place: Path, result: Path, model: Model, count: int) -> Iterator[str]:
    """Where the config says something else of a layer or of the experts than its source did."""
    old, new = layouts.resolved(place), layouts.resolved(result)
    layers = len(model.layers)
    for key in sorted(old.keys() | new.keys()):
        had, has = old.get(key), new.get(key)
        wants = had
        if key in OWN_RULES or (had is None and has == WRITTEN_FOR_ENGINES.get(key, had)):
            continue
        if key in reference.LAYER_COUNTS:
            wants = had and had * layers // count
        elif key in reference.EXPERT_COUNTS:
            wants = had and _like(had, len(model.experts), layers)
        elif key in reference.TOP_KS:
            wants = had and _like(had, model.top_k, layers)
        elif isinstance(had, list) and len(had) == count:
            wants = [had[layer] for layer in model.layers]
            if had == has and key not in ("layer_types", "mlp_layer_types"):
                continue
        elif isinstance(had, list) and len(had) > count and "compress" in key:
            continue
        if has != wants and not isinstance(wants, dict):
            yield f"{key} is {str(has)[:80]} and should be {str(wants)[:80]}"
    yield from _twice(place, result)


def _like(had: Any, value: int, layers: int) -> Any:
    return [value] * layers if isinstance(had, list) else value


def _twice(place: Path, result: Path) -> Iterator[str]:
    """Where a key that config.json says twice, and alike, is not said alike any more."""
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (place, result))
    text, after = text_part(old), text_part(new)
    for key, value in text.items():
        if key in old and old[key] == value and new.get(key) != after.get(key):
            yield f"{key} is {str(after.get(key))[:50]}, and {str(new.get(key))[:50]} at the root"
    for spelling, key in type(layouts.wanted_class(place)).attribute_map.items():
        if spelling in text and key in text and after.get(spelling) != after.get(key):
            yield f"{key} is {after.get(key)!r}, and {spelling} {after.get(spelling)!r}"
