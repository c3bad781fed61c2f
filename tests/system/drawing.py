"""Random cases: a small config of a model type, its layout on the disk, and what is done."""

import copy
import json
import random
from dataclasses import dataclass, field
from typing import Any

import tiny
import torch

Config = dict[str, Any]

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_KS = (
    "num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts",
    "moe_top_k",
)  # fmt: skip
GROUPS = ("n_group", "num_expert_group")
NORMALISED = ("norm_topk_prob", "moe_renormalize")
# Settings of routers and of layers that a class has defaults for: a config may leave them out.
OPTIONAL = (
    *GROUPS, *NORMALISED, "topk_group", "routed_scaling_factor", "first_k_dense_replace",
    "num_dense_layers", "layer_types", "mlp_layer_types", "indexer_types", "no_rope_layers",
    "moe_layer_start_index", "moe_layer_end_index", "mlp_only_layers", "n_shared_experts",
    "zero_expert_num", "n_layers_per_attn_res_block", "linear_attn_config", "num_experts_per_tok",
    "moe_topk", "moe_k", "attn_layer_period", "attn_layer_offset", "expert_layer_period",
    "expert_layer_offset", "full_attention_interval", "kv_source_layers",
)  # fmt: skip
LENGTH = ("num_hidden_layers", "num_layers", "n_layers")
# Whether copies share an indexer depends on the source that a command is given: one pass and
# several make other models where a first command leaves no sharing layer.
PIPED = ("glm_moe_dsa", "hy_v4", "mistral_large4")
# Always two experts, always one expert and skipping, or as many as the token table has.
FIXED_TOP_K = {"phimoe": 2, "zaya": 1}


@dataclass(frozen=True)
class Case:
    """A source, its layout on the disk, and the commands that grow it.

    `left_out`: how many of the keys that could be left out of config.json are: a share of them.
    `at_root`: keys of the language model stand at the root too. `aliases`: keys stand under both
    of their spellings. `is_piped`: plans go from command to command, and the last one writes.
    """

    model_type: str
    seed: int
    config: Config
    dtype: torch.dtype = torch.float32
    is_fused: bool = False
    shard_size: str = "60KB"
    left_out: float = 0
    at_root: bool = False
    aliases: bool = False
    operations: tuple[tuple[str, ...], ...] = ()
    is_piped: bool = False
    chance: random.Random = field(default_factory=random.Random, compare=False)


def draw(model_type: str, seed: int) -> Case:
    """The case of a model type and a seed; the same each time."""
    chance = random.Random(f"{model_type}:{seed}")
    config = json.loads((tiny.CONFIGS / f"{model_type}.json").read_text())
    if chance.random() < 0.8:
        _vary(model_type, config, chance)
    count = _layers(text_part(config))
    return Case(
        model_type,
        seed,
        config,
        dtype=chance.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16]),
        is_fused=chance.random() < 0.3,
        shard_size=chance.choice(["30KB", "60KB", "5GB"]),
        left_out=chance.choice([0, 0, 0.5, 1]),
        at_root=chance.random() < 0.25,
        aliases=chance.random() < 0.25,
        operations=_operations(model_type, count, chance),
        is_piped=chance.random() < 0.5 or model_type in PIPED,
        chance=chance,
    )


def text_part(config: Config) -> Config:
    """The table of the language model within a config."""
    for key in ("thinker_config", "text_config"):
        found = config.get(key)
        config = found if isinstance(found, dict) else config
    return config


def _layers(text: Config) -> int:
    return next(
        (text[key] for key in LENGTH if key in text), len(text.get("layers_block_type", ()))
    )


def _vary(model_type: str, config: Config, chance: random.Random) -> None:
    """Other numbers of layers and experts, another top-k, and keys left to their defaults."""
    text = text_part(config)
    count = _layers(text)
    order = [chance.randrange(count) for _ in range(chance.choice([2, 3, 4, 5, 6, 8]))]
    order[0] = 0
    if chance.random() < 0.6 and model_type not in ("jamba", "nemotron_h", "minimax_m3_vl"):
        for key, value in text.items():
            if isinstance(value, list) and len(value) == count and "token" not in key:
                text[key] = [value[old] for old in order]
        for key in LENGTH:
            if key in text:
                text[key] = len(order)
        if "linear_attn_config" in text and "kda_layers" in text["linear_attn_config"]:
            full = [layer for layer in range(1, len(order) + 1) if chance.random() < 0.5]
            rest = sorted({*range(1, len(order) + 1)} - {*full})
            text["linear_attn_config"] |= {"full_attn_layers": full, "kda_layers": rest}
    experts = chance.choice([4, 9, 16]) if model_type == "doge" else chance.choice([4, 6, 8, 12])
    top_k = FIXED_TOP_K.get(model_type) or chance.choice([1, 2, 3])
    groups = chance.choice([group for group in (1, 2, 3, 4) if experts % (2 * group) == 0] or [1])
    for holder in (text, text.get("ffn_config", {})):
        _set(holder, EXPERTS, experts)
        _set(holder, TOP_KS, top_k)
    if any(key in text for key in GROUPS):
        _set(text, GROUPS, groups)
        kept = [n for n in range(1, groups + 1) if n * experts // groups >= top_k]
        text["topk_group"] = chance.choice(kept or [groups])
    for key in (*NORMALISED, "routed_scaling_factor"):
        if chance.random() < 0.4 and (key in text or key == "norm_topk_prob"):
            text[key] = chance.choice([1.5, 2.0]) if "factor" in key else chance.random() < 0.5
    if chance.random() < 0.5:
        for key in OPTIONAL:
            if chance.random() < 0.4:
                text.pop(key, None)


def _set(table: Config, keys: tuple[str, ...], value: Any) -> None:
    for key in keys:
        if key in table:
            table[key] = [value] * len(table[key]) if isinstance(table[key], list) else value


def plainer(case: Case) -> Case:
    """The case with the config of tests/support/tiny_configs, if its own makes no model."""
    config = json.loads((tiny.CONFIGS / f"{case.model_type}.json").read_text())
    chance = random.Random(f"{case.model_type}:{case.seed}:plain")
    operations = _operations(case.model_type, _layers(text_part(config)), chance)
    return Case(**vars(case) | {"config": copy.deepcopy(config), "operations": operations})


def _operations(model_type: str, count: int, chance: random.Random) -> tuple[tuple[str, ...], ...]:
    number = chance.choice([1, 1, 2, 2, 3])
    operations = []
    for _ in range(number):
        if chance.random() < 0.6:
            words, count = _depth(model_type, count, chance)
        else:
            words = _width(model_type, chance)
        operations.append(words)
        if count > 12:
            break
    return tuple(operations)


def _depth(model_type: str, count: int, chance: random.Random) -> tuple[tuple[str, ...], int]:
    mode = chance.choice(["interpose", "interpose", "stack", "expand", "overlap", "free"])
    if model_type == "jamba" and chance.random() < 0.8:
        return ("depth", "--group", "4"), 2 * count
    new = chance.choice([(), (), ("--new-layers", "identity")])
    if mode == "free":
        chosen = [chance.randrange(count) for _ in range(chance.randint(2, 9))]
        if chance.random() < 0.6:
            chosen = sorted([*range(count), *chosen[: count // 2 + 1]])
        return ("depth", "--layers", ",".join(map(str, chosen)), *new), len(chosen)
    first = chance.choice([0, 0, 1, 2]) if count > 2 else 0
    last = chance.choice([0, 0, 1]) if count - first > 1 else 0
    edges = tuple(
        word
        for name, value in (("--keep-first", first), ("--keep-last", last))
        if value
        for word in (name, str(value))
    )
    middle = count - first - last
    if mode == "overlap":
        drop = chance.randrange(0, count)
        return ("depth", "--mode", "overlap", "--drop", str(drop), *new), 2 * (count - drop)
    if mode == "expand":
        every = chance.randint(1, middle)
        return ("depth", "--mode", "expand", "--every", str(every), *edges), count + middle // every
    times = chance.choice(["2x", "2x", "3x", *(["1.5x"] if middle % 2 == 0 else [])])
    group: tuple[str, ...] = ()
    if mode == "interpose" and middle % 2 == 0 and times != "1.5x" and chance.random() < 0.3:
        group = ("--group", "2")
    words = ("depth", "--mode", mode, "--times", times, *group, *edges, *new)
    return words, first + last + int(float(times[:-1]) * middle)


def _width(model_type: str, chance: random.Random) -> tuple[str, ...]:
    times = "4x" if model_type == "doge" else chance.choice(["2x", "2x", "2x", "3x", "4x"])
    if chance.random() < 0.15:
        return ("width", "--experts", times, "--preset", "upcycling")
    words = ["width", "--experts", times, "--noise", "0"]
    words += chance.choice([[], [], ["--top-k", "keep"]])
    words += chance.choice([[], [], [], ["--order", "interleave"]])
    return tuple(words)
