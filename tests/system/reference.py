"""Grown models made in memory out of a loaded source: what the result of a command must compute.

A deeper model has copies of the source's layer modules in the new order, each with its new number;
a layer that begins as the identity is left out, for it adds nothing. A wider model is a model of a
config with more experts whose tensors are rows of the source's. The tables below name the model
types of which transformers computes something by a layer's number or by the experts' count.
"""

import copy
import math
from typing import Any

import torch
import transformers
from definitions import Model

Network = transformers.PreTrainedModel

LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers")
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_KS = (
    "num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k",
    "top_k_experts",
)  # fmt: skip

# Full layers select keys for the sharing layers behind them, if there are any: of two copies of a
# full layer with no other full layer between them, the later one shares (docs/families.md).
SHARED_INDEXERS = ("glm_moe_dsa", "hy_v4", "mistral_large4")
# Their biases are added to probabilities, which shrink as experts are copied (docs/method.md).
BIASED_PROBABILITIES = ("ernie4_5_moe", "ernie4_5_vl_moe", "longcat_flash")
# Scores by a sigmoid, one by one: where they are not divided by their sum, k times as many of them
# add up to k times as much, and the experts' outputs make up for it (docs/method.md).
SIGMOID = (
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v3",
    "deepseek_v32", "dots1", "dots3_note", "exaone_moe", "flint", "glm4_moe", "glm4_moe_lite",
    "glm4v_moe", "glm5_next", "glm_moe_dsa", "hy_v3", "hy_v4", "kimi_linear", "kolibri1",
    "laguna", "lfm2_moe", "llama4", "mimo_v2_flash", "nemotron_h", "solar_open",
)  # fmt: skip
NEVER_NORMALISED = ("llama4",)
ALWAYS_NORMALISED = ("afmoe", "hy_v3", "laguna")
# Zero experts or shared experts that the router weighs together with the others are copied too.
WEIGHED_TOGETHER = ("longcat_flash", "inkling_text", "inkling_mm_model")
# No reference is known: routers by product keys, and with a class that skips.
NO_WIDTH = ("doge", "zaya")


def text_config(model: Network) -> Any:
    return model.config.get_text_config()


def setting(config: Any, names: tuple[str, ...]) -> Any:
    """The value under the first of the names that a config, or a table in it, has."""
    for holder in (config, getattr(config, "ffn_config", None)):
        for name in names:
            if holder is not None and getattr(holder, name, None) is not None:
                value = getattr(holder, name)
                return value[0] if isinstance(value, list) else value
    raise LookupError(names)


def layers(model: Network) -> tuple[torch.nn.Module, str]:
    """What holds the layers of the language model, and under which name."""
    for name, module in model.named_modules():
        is_tower = any(word in name for word in ("vision", "visual", "audio"))
        if isinstance(module, torch.nn.ModuleList) and not is_tower:
            above, _, last = name.rpartition(".")
            if last in ("layers", "blocks"):
                return model.get_submodule(above), last
    raise LookupError("no layers")


def deepened(source: Network, model: Model) -> Network:
    """The source with its layers in the order of `model`, but for those that are the identity."""
    order = model.computing
    new = copy.deepcopy(source)
    config = text_config(new)
    count = len(getattr(*layers(new)))
    for name, value in vars(config).copy().items():
        if isinstance(value, list) and len(value) == count and name not in NOT_BY_LAYER:
            vars(config)[name] = [value[old] for old in order]
    for name in LAYER_COUNTS:
        if isinstance(vars(config).get(name), int):
            vars(config)[name] = len(order)
    holder, name = layers(new)
    old_layers = getattr(holder, name)
    shared = {id(config): config, id(new.config): new.config}
    copies = [copy.deepcopy(old_layers[old], dict(shared)) for old in order]
    setattr(holder, name, torch.nn.ModuleList(copies))
    for number, layer in enumerate(copies):
        for module in layer.modules():
            _renumber(module, number)
    _SPECIAL.get(config.model_type, lambda *_: None)(new, source, order)
    _store_for_readers(new, source, model)
    return new


NOT_BY_LAYER = (
    "eos_token_id",
    "kv_source_layers",
    "mlp_only_layers",
    "ple_layer_ids",
    "moe_layers",
)


def _renumber(module: torch.nn.Module, number: int) -> None:
    if hasattr(module, "layer_idx"):
        module.layer_idx = number
    # BEAM weighs what a layer adds by the number of additions before.
    if hasattr(module, "attn_residual_add_idx"):
        module.attn_residual_add_idx = 2 * (number + 1)
        module.mlp_residual_add_idx = 2 * (number + 1) + 1


def _share_indexers(new: Network, source: Network, order: tuple[int, ...]) -> None:
    types = text_config(source).indexer_types
    if "shared" not in types:
        return
    nearest = None
    for old, layer in zip(order, getattr(*layers(new)), strict=True):
        if types[old] == "full":
            if nearest == old:
                layer.self_attn.indexer = None
                layer.self_attn.skip_topk = True
            nearest = old


def _store_for_readers(new: Network, source: Network, model: Model) -> None:
    """A layer without keys of its own uses those of the nearest copy of its owner before it.

    Of several copies in a row it is the first (docs/adding-a-family.md). Only owners that are used
    store their keys.
    """
    owners = getattr(text_config(source), "kv_source_layers", None)
    if owners is None:
        return
    stores, first, computed = set(), {}, 0
    for place, (old, is_silent) in enumerate(zip(model.layers, model.silent, strict=True)):
        if not place or model.layers[place - 1] != old:
            first[old] = computed
        if not is_silent:
            if owners[old] != old:
                stores.add(first[owners[old]])
            computed += 1
    for number, layer in enumerate(getattr(*layers(new))):
        layer.self_attn.store_full_length_kv = number in stores


def _first_tables(new: Network, _: Network, order: tuple[int, ...]) -> None:
    """Copies go without the n-gram table (docs/families.md)."""
    for number, layer in enumerate(getattr(*layers(new))):
        if order[number] in order[:number]:
            layer.ple = None


def _shared_keys(new: Network, _: Network, order: tuple[int, ...]) -> None:
    shared = text_config(new).num_kv_shared_layers
    for module in new.modules():
        if hasattr(module, "first_kv_shared_layer_idx"):
            module.first_kv_shared_layer_idx = len(order) - shared


_SPECIAL = {
    **dict.fromkeys(SHARED_INDEXERS, _share_indexers),
    "mistral_large4_text": _share_indexers,
    "qwen4_exp_text": _first_tables,
    "gemma4_text": _shared_keys,
}


def widened(source: Network, model: Model) -> Network:
    """The source with the experts and the top-k of `model`, which is as deep as the source."""
    config = copy.deepcopy(source.config)
    inner = config.get_text_config()
    old, new = setting(inner, EXPERT_COUNTS), len(model.experts)
    for holder in (inner, getattr(inner, "ffn_config", None)):
        for names, value in ((EXPERT_COUNTS, new), (TOP_KS, model.top_k)):
            for name in names:
                if holder is not None and name in vars(holder):
                    had = vars(holder)[name]
                    vars(holder)[name] = [value] * len(had) if isinstance(had, list) else value
    times = new // old
    extra = 0
    if (getattr(inner, "n_group", None) or 1) > 1 and new % old == 0:
        for name in ("n_group", "topk_group"):
            setattr(inner, name, getattr(inner, name) * times)
    for name in ("zero_expert_num", "n_shared_experts"):
        if inner.model_type in WEIGHED_TOGETHER and vars(inner).get(name):
            extra = vars(inner)[name]
            vars(inner)[name] = extra * times
    result = type(source)(config).eval()
    before = source.state_dict()
    after = {
        name: _rows(before[name], weight.shape, model.experts, old=old, extra=extra)
        for name, weight in result.state_dict().items()
    }
    if inner.model_type.removesuffix("_text") in BIASED_PROBABILITIES:
        for name in after:
            if name.endswith("e_score_correction_bias"):
                after[name] = after[name] * old / new
    family = inner.model_type.removesuffix("_text")
    is_normalised = family in ALWAYS_NORMALISED or (
        family not in NEVER_NORMALISED and getattr(inner, "norm_topk_prob", True)
    )
    is_sigmoid = getattr(inner, "expert_selection_fn", "sigmoid") == "sigmoid"
    if family in SIGMOID and is_sigmoid and not is_normalised:
        for name in after:
            if "experts.down_proj" in name and "shared" not in name:
                after[name] = after[name] * setting(text_config(source), TOP_KS) / model.top_k
    result.load_state_dict(after)
    return result


def _rows(
    weight: torch.Tensor, shape: torch.Size, experts: tuple[int, ...], *, old: int, extra: int
) -> torch.Tensor:
    """A weight in the shape that it has with more experts: rows are copied with their expert."""
    for axis, (had, wants) in enumerate(zip(weight.shape, shape, strict=True)):
        if had == wants:
            continue
        if had == extra:
            chosen = [*range(extra)] * (wants // had)
        elif had == old + extra and extra:
            chosen = [*experts, *[*range(old, had)] * ((wants - len(experts)) // extra)]
        else:
            size = had // old
            chosen = [expert * size + row for expert in experts for row in range(size)]
        weight = weight.index_select(axis, torch.tensor(chosen))
    return weight


def compute(model: Network) -> torch.Tensor:
    """The logits of a model for a fixed batch of random tokens."""
    tokens = torch.randint(3, 56, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two sets of logits, in units of their standard deviation."""
    found = float((a - b).abs().max() / a.std())
    return math.inf if math.isnan(found) else found
