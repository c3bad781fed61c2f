"""Checkpoints in the layouts of the Hub, where these are not what transformers writes itself."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alter

Patch = Mapping[str, Any]
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
DEEP_SPARSE = ["dense"] * 2 + ["sparse"] * 6


@dataclass(frozen=True)
class Published:
    """How a family's checkpoint is published, as what is different in the one that is saved.

    `config`, `deeper` and `wider` are JSON merge patches: in the published config, in that after
    doubling the layers in place, and in that after doubling the experts. They are complete, so
    whatever else growth changes is wrong. `names` are patterns of tensor names with what stands
    for them; all are applied, in this order. Tensors that fit `transposed` have their last two
    dimensions exchanged. The config is put under the keys `nested`, and `architectures` at the
    root. `settings` are for the text config of the model that is built.
    """

    family: str
    config: Patch = field(default_factory=dict)
    deeper: Patch = field(default_factory=dict)
    wider: Patch = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    transposed: str = ""
    nested: tuple[str, ...] = ()
    settings: Patch = field(default_factory=dict)


def publish(saved: Path, layout: Published, folder: Path) -> Path:
    """The checkpoint of `saved` in the published layout, in `folder`."""
    source = alter.copy(saved, folder)
    file = source / "config.json"
    config = json.loads(file.read_text())
    architectures = config.pop("architectures")
    for key in reversed(layout.nested):
        config = {key: config}
    config = merge({"architectures": architectures} | config, layout.config)
    file.write_text(json.dumps(config, indent=2))
    with alter.weights(source) as weights:
        old = dict(weights)
        weights.clear()
        for name, tensor in old.items():
            if layout.transposed and re.search(layout.transposed, name):
                tensor = tensor.transpose(-1, -2)
            for pattern, replacement in layout.names.items():
                name = re.sub(pattern, replacement, name)
            weights[name] = tensor
        assert len(weights) == len(old)
    return source


def merge(config: Any, patch: Any) -> Any:
    """The config with a JSON merge patch (RFC 7396): null takes a key away."""
    if not isinstance(patch, Mapping):
        return deepcopy(patch)
    merged = dict(config) if isinstance(config, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


# Some are there twice: with the spellings that one hub file uses, and with those of another.
LAYOUTS = {
    # No prefix; a ratio for each layer and the prediction layer, and a count of hash layers.
    "deepseek_v4": Published(
        "deepseek_v4",
        {
            "layer_types": None, "mlp_layer_types": None, "num_nextn_predict_layers": 1,
            "compress_ratios": [128, 128, 128, 4, 0], "num_hash_layers": 1,
        },
        {
            "num_hidden_layers": 8, "num_hash_layers": 2,
            "compress_ratios": [128] * 6 + [4, 4, 0],
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
        {r"^model\.embed_tokens": "embed", r"^model\.hc_head\.hc_": "hc_head_", r"^model\.": ""},
    ),
    "deepseek_v32": Published(
        "deepseek_v32",
        {"layer_types": None, "mlp_layer_types": None},
        {"num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2},
        {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4},
    ),
    # Saved as blocks instead of layers.
    "kimi_k25": Published(
        "kimi_k25",
        {
            "text_config": {
                "model_type": "kimi_k2", "moe_layer_freq": 1, "scoring_func": "sigmoid"
            }
        },
        {"text_config": {"num_hidden_layers": 8, "first_k_dense_replace": 2}},
        {
            "text_config": {
                "n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4
            }
        },
        {r"^language_model\.model\.blocks\.": "language_model.model.layers."},
    ),
    # Dense layers beside the sparse ones, not in their place; layers counted from one.
    "kimi_linear": Published(
        "kimi_linear",
        {
            "layer_types": None, "mlp_layer_types": None, "linear_head_dim": None,
            "linear_num_heads": None, "linear_conv_kernel_dim": None, "moe_layer_freq": 1,
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "linear_attn_config": {"full_attn_layers": [3, 4, 7, 8], "kda_layers": [1, 2, 5, 6]},
        },
        {
            "num_experts": 16, "num_experts_per_token": 4, "num_expert_group": 8, "topk_group": 4,
        },
        {r"block_sparse_moe\.(gate|up|down)_proj": r"mlp.\1_proj"},
    ),
    "glm4_moe_lite": Published(
        "glm4_moe_lite",
        {"mlp_layer_types": None, "first_k_dense_replace": 1},
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "scoring_func": "sigmoid",
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4, "scoring_func": "sigmoid"},
    ),
    "glm_moe_dsa": Published(
        "glm_moe_dsa",
        {
            "layer_types": None, "mlp_layer_types": None, "indexer_types": None,
            "index_topk_pattern": "FFSF",
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "index_topk_pattern": "FSFSSSFS",
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
    ),
    "glm5_next": Published(
        "glm5_next",
        {
            "text_config": {
                "layer_types": [LINEAR, FULL] * 2, "first_k_dense_replace": 3,
                "mlp_layer_types": None, "indexer_types": None, "linear_head_dim": None,
                "linear_num_heads": None, "linear_conv_kernel_dim": None,
                "linear_lower_bound": None,
                "linear_attn_config": {
                    "head_dim": 8, "num_heads": 4, "short_conv_kernel_size": 4,
                    "gate_lower_bound": -5.0,
                },
            }
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "mlp_layer_types": ["dense"] * 6 + ["sparse"] * 2,
                "first_k_dense_replace": 6, "indexer_types": ["full"] * 8,
                "layer_types": [LINEAR, LINEAR, FULL, FULL] * 2,
            }
        },
        {"text_config": {"n_routed_experts": 16, "num_experts_per_tok": 4}},
        settings={"mlp_layer_types": ["dense", "dense", "dense", "sparse"]},
    ),
    "hy_v3": Published(
        "hy_v3",
        {"mlp_layer_types": None, "first_k_dense_replace": 1},
        {"num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2},
        {"num_experts": 16, "num_experts_per_tok": 4},
    ),
    "hy_v4": Published(
        "hy_v4",
        {"layer_types": None, "mlp_layer_types": None},
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE,
            "indexer_types": [
                "full", "shared", "full", "shared", "shared", "shared", "full", "shared"
            ],
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
    ),
    "axk1": Published(
        "axk1",
        {"mlp_layer_types": None, "first_k_dense_replace": 1, "moe_layer_freq": 1},
        {"num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2},
        {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4},
    ),
    "axk2": Published(
        "axk2",
        {
            "layer_types": None, "mlp_layer_types": None, "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
        },
        {"num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2},
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
    ),
    # The names that other families use for the same keys.
    "bailing_hybrid": Published(
        "bailing_hybrid",
        {
            "layer_types": None, "mlp_layer_types": None, "num_expert_group": None, "n_group": 4,
            "num_experts_per_token": None, "num_experts_per_tok": 2, "moe_renormalize": None,
            "norm_topk_prob": True,
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "layer_types": [LINEAR, LINEAR, FULL, FULL] * 2,
        },
        {"num_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4},
    ),
    "dots1": Published(
        "dots1",
        {"layer_types": None, "sliding_window": None, "moe_layer_freq": 1},
        # Layers from number max_window_layers on slide unless the list says otherwise.
        {"num_hidden_layers": 8, "first_k_dense_replace": 2, "layer_types": [FULL] * 8},
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
    ),
    # The language model's config at the root, and that of sliding layers in keys of their own.
    "dots3_note": Published(
        "dots3_note_text",
        {
            "model_type": "dots3_note", "mlp_layer_types": None, "per_layer_config": None,
            "rope_parameters": None, "sliding_window": None,
            "shared_experts_intermediate_size": None, "first_k_dense_replace": 1,
            "moe_layer_freq": [0, 1, 1, 1], "layer_types": [FULL, FULL, SLIDING, SLIDING],
            "moe_shared_expert_intermediate_size": 24, "sliding_window_size": 8,
            "rope_theta": 80000000.0, "swa_rope_theta": 50000.0, "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
            "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "moe_layer_freq": [0, 0, 1, 1, 1, 1, 1, 1], "layer_types": [FULL] * 4 + [SLIDING] * 4,
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
    ),
    "exaone_moe": Published(
        "exaone_moe",
        {
            "mlp_layer_types": None, "is_moe_layer": [False, True, True, True],
            "sliding_window_pattern": "LG",
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "is_moe_layer": [False] * 2 + [True] * 6,
            "layer_types": [SLIDING, SLIDING, FULL, FULL] * 2,
        },
        {"num_experts": 16, "num_experts_per_tok": 4},
    ),
    "mimo_v2_flash": Published(
        "mimo_v2_flash",
        {
            "layer_types": None, "mlp_layer_types": None, "hybrid_layer_pattern": [0, 1, 1, 1],
            "moe_layer_freq": [0, 1, 1, 1], "routed_scaling_factor": None,
            "sliding_window_size": 7,
        },
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE,
            "layer_types": [FULL] * 2 + [SLIDING] * 6,
            "hybrid_layer_pattern": [0, 0, 1, 1, 1, 1, 1, 1],
            "moe_layer_freq": [0, 0, 1, 1, 1, 1, 1, 1],
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4},
        settings={"layer_types": [FULL, SLIDING, SLIDING, SLIDING]},
    ),
    # A list for each layer, though all layers are alike.
    "hunyuan_v1_moe": Published(
        "hunyuan_v1_moe",
        {"moe_topk": [2] * 4, "num_shared_expert": [1] * 4, "moe_intermediate_size": [24] * 4},
        {
            "num_hidden_layers": 8, "moe_topk": [2] * 8, "num_shared_expert": [1] * 8,
            "moe_intermediate_size": [24] * 8,
        },
        {"num_experts": 8, "moe_topk": [4] * 4},
    ),
    "longcat_flash": Published(
        "longcat_flash",
        {"num_hidden_layers": 4},
        {"num_layers": 4, "num_hidden_layers": 8},
        {"n_routed_experts": 8, "moe_topk": 4, "zero_expert_num": 4},
    ),
    "minimax": Published(
        "minimax",
        {"attn_type_list": [1, 0, 1, 0]},
        {
            "num_hidden_layers": 8, "attn_type_list": [1, 1, 0, 0] * 2,
            "layer_types": [FULL, FULL, LINEAR, LINEAR] * 2,
        },
        {"num_local_experts": 8, "num_experts_per_tok": 4},
    ),
    "minimax_m2": Published(
        "minimax_m2",
        {"attn_type_list": [1] * 4},
        {"num_hidden_layers": 8, "attn_type_list": [1] * 8},
        {"num_local_experts": 16, "num_experts_per_tok": 4},
    ),
    # Ones and zeros for each layer; the settings of sparse attention in a table of their own.
    "minimax_m3_vl": Published(
        "minimax_m3_vl",
        {
            "text_config": {
                "layer_types": None, "mlp_layer_types": None, "index_n_heads": None,
                "index_head_dim": None, "index_block_size": None, "index_topk_blocks": None,
                "index_local_blocks": None, "moe_layer_freq": [0, 1, 1, 1],
                "sparse_attention_config": {
                    "sparse_num_index_heads": 2, "sparse_index_dim": 16, "sparse_block_size": 4,
                    "sparse_topk_blocks": 2, "sparse_local_block": 1,
                    "sparse_attention_freq": [0, 1, 1, 1],
                },
            }
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "moe_layer_freq": [0, 0, 1, 1, 1, 1, 1, 1],
                "sparse_attention_config": {"sparse_attention_freq": [0, 0, 1, 1, 1, 1, 1, 1]},
            }
        },
        {"text_config": {"num_local_experts": 16, "num_experts_per_tok": 4}},
    ),
    # A letter for each layer, and the number of layers beside it.
    "nemotron_h": Published(
        "nemotron_h",
        {
            "layers_block_type": None, "hybrid_override_pattern": "ME*-ME",
            "num_hidden_layers": 6, "mtp_layers_block_type": None,
            "mtp_hybrid_override_pattern": "*E",
        },
        {"hybrid_override_pattern": "MMEE**--MMEE", "num_hidden_layers": 12},
        {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4},
    ),
    "nemotron_h, layers named as before": Published(
        "nemotron_h",
        {"layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba", "moe"]},
        {
            "layers_block_type": [
                kind for kind in ("mamba", "moe", "attention", "mlp", "mamba", "moe")
                for _ in range(2)
            ]
        },
        {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4},
    ),
    "granitemoehybrid": Published(
        "granitemoehybrid",
        {"layer_types": ["mamba", "attention"] * 2},
        {
            "num_hidden_layers": 8,
            "layer_types": ["mamba", "mamba", "attention", "attention"] * 2,
        },
        {"num_local_experts": 8, "num_experts_per_tok": 4},
    ),
    "granitemoehybrid, layers in blocks": Published(
        "granitemoehybrid",
        {"layer_types": None, "layers_block_type": ["mamba", "attention"] * 2},
        {
            "num_hidden_layers": 8,
            "layers_block_type": ["mamba", "mamba", "attention", "attention"] * 2,
        },
        {"num_local_experts": 8, "num_experts_per_tok": 4},
    ),
    "qwen3_moe": Published(
        "qwen3_moe",
        {"num_local_experts": None, "num_experts": 4},
        {"num_hidden_layers": 8},
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    "qwen3_moe, both spellings": Published(
        "qwen3_moe",
        {"num_experts": 4},
        {"num_hidden_layers": 8},
        {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 4},
    ),
    "qwen2_moe": Published(
        "qwen2_moe",
        {"layer_types": None, "sliding_window": 4096},
        {"num_hidden_layers": 8, "mlp_only_layers": [0, 1]},
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    "qwen3_next": Published(
        "qwen3_next",
        {"layer_types": None, "full_attention_interval": 4},
        {"num_hidden_layers": 8, "layer_types": [LINEAR] * 6 + [FULL] * 2},
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    # The language model of a checkpoint that also sees.
    "qwen3_5_moe_text": Published(
        "qwen3_5_moe_text",
        {"layer_types": None, "full_attention_interval": 4},
        {"num_hidden_layers": 8, "layer_types": [LINEAR] * 6 + [FULL] * 2},
        {"num_experts": 8, "num_experts_per_tok": 4},
        {r"^model\.": "model.language_model."},
    ),
    "qwen4_exp": Published(
        "qwen4_exp_text",
        {
            "model_type": "qwen4_exp",
            "text_config": {"layer_types": [LINEAR, LINEAR, LINEAR, FULL]},
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "layer_types": [LINEAR] * 6 + [FULL] * 2,
            }
        },
        {"text_config": {"num_experts": 8, "num_experts_per_tok": 4}},
        {r"^model\.": "model.language_model."},
        nested=("text_config",),
    ),
    # Every expert's matrices the other way round.
    "qwen3_vl_moe": Published(
        "qwen3_vl_moe",
        {"text_config": {"num_local_experts": None, "num_experts": 4}},
        {"text_config": {"num_hidden_layers": 8}},
        {"text_config": {"num_experts": 8, "num_experts_per_tok": 4}},
        transposed=r"\.mlp\.experts\.",
    ),
    "kolibri1": Published(
        "kolibri1",
        {"num_local_experts": None, "num_experts": 4},
        {"num_hidden_layers": 8, "layer_types": [SLIDING, SLIDING, FULL, FULL] * 2},
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    "mellum": Published(
        "mellum",
        {"num_local_experts": None, "num_experts": 4},
        {
            "num_hidden_layers": 8, "mlp_layer_types": ["sparse"] * 8,
            "layer_types": [SLIDING, SLIDING, FULL, FULL] * 2,
        },
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    "cohere2_moe": Published(
        "cohere2_moe",
        {"layer_types": None, "mlp_layer_types": None, "first_k_dense_replace": 1},
        {
            "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "first_k_dense_replace": 2,
            "layer_types": [FULL, FULL, SLIDING, SLIDING] * 2,
        },
        {"num_experts": 8, "num_experts_per_tok": 4},
    ),
    "gpt_oss": Published(
        "gpt_oss",
        {"experts_per_token": 2},
        {"num_hidden_layers": 8, "layer_types": [SLIDING, SLIDING, FULL, FULL] * 2},
        {"num_local_experts": 8, "num_experts_per_tok": 4, "experts_per_token": 4},
    ),
    "llama4": Published(
        "llama4",
        {"text_config": {"layer_types": None, "moe_layers": None, "no_rope_layers": []}},
        {
            "text_config": {
                "num_hidden_layers": 8, "moe_layers": [2, 3, 6, 7],
                "no_rope_layers": [1, 1, 1, 1, 1, 1, 0, 0],
            }
        },
        {"text_config": {"num_local_experts": 8, "num_experts_per_tok": 2}},
    ),
    "gemma4": Published(
        "gemma4",
        {"text_config": {"per_layer_config": None, "global_head_dim": 16}},
        {
            "text_config": {
                "num_hidden_layers": 8, "layer_types": [SLIDING, SLIDING, FULL, FULL] * 2,
            }
        },
        {"text_config": {"num_experts": 8, "top_k_experts": 4}},
    ),
    "inkling_mm_model": Published(
        "inkling_mm_model",
        {
            "text_config": {
                "layer_types": None, "mlp_layer_types": None, "dense_mlp_idx": 1,
                "moe_intermediate_size": None, "intermediate_size": 24,
                "dense_intermediate_size": 64,
            }
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE, "dense_mlp_idx": 2,
                "local_layer_ids": [0, 1, 4, 5],
            }
        },
        {"text_config": {"n_routed_experts": 8, "num_experts_per_tok": 4, "n_shared_experts": 2}},
    ),
    "inkling2_text": Published(
        "inkling2_text",
        {"n_routed_experts": None, "num_local_experts": 4},
        {
            "num_hidden_layers": 8, "n_layers_per_attn_res_block": 4,
            "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid", "hybrid"] * 2,
        },
        {"num_local_experts": 8, "num_experts_per_tok": 4},
    ),
    "mistral_large4": Published(
        "mistral_large4",
        {
            "text_config": {
                "layer_types": None, "mlp_layer_types": None, "no_rope_layers": None,
                "indexer_types": None, "index_topk_pattern": "FFSF", "n_routed_experts": None,
                "num_experts": 8,
            }
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "mlp_layer_types": DEEP_SPARSE,
                "first_k_dense_replace": 2, "no_rope_layers": [1, 1, 1, 1, 1, 1, 0, 0],
                "kv_source_layers": [0, 1, 2, 3, 2, 2, 6, 7], "index_topk_pattern": "FSFSSSFS",
            }
        },
        {"text_config": {"num_experts": 16, "num_experts_per_tok": 4}},
    ),
    # Lists with an entry for the prediction layer, and sparse layers as one text.
    "step3p7": Published(
        "step3p7",
        {
            "text_config": {
                "n_routed_experts": None, "moe_num_experts": 8, "num_experts_per_tok": None,
                "moe_top_k": 2, "mlp_layer_types": None, "moe_layers_enum": "1,2,3",
                "mtp_layer_types": None, "mtp_mlp_layer_types": None, "per_layer_config": None,
                "num_nextn_predict_layers": 1, "num_sliding_attention_heads": None,
                "attention_other_setting": {"num_attention_heads": 4},
                "layer_types": [FULL, SLIDING, FULL, SLIDING, SLIDING],
                "swiglu_limits": [0.0, 7.0, 0.0, 7.0, 0.0],
                "swiglu_limits_shared": [0.0, 0.0, 16.0, 0.0, 0.0],
                "rope_parameters": None, "rope_theta": [10000.0] * 5,
                "partial_rotary_factors": [1.0] * 5,
            }
        },
        {
            "text_config": {
                "num_hidden_layers": 8, "moe_layers_enum": "2,3,4,5,6,7",
                "layer_types": [FULL, FULL, SLIDING, SLIDING] * 2 + [SLIDING],
                "swiglu_limits": [0.0, 0.0, 7.0, 7.0, 0.0, 0.0, 7.0, 7.0, 0.0],
                "swiglu_limits_shared": [0.0, 0.0, 0.0, 0.0, 16.0, 16.0, 0.0, 0.0, 0.0],
                "rope_theta": [10000.0] * 9, "partial_rotary_factors": [1.0] * 9,
            }
        },
        {"text_config": {"moe_num_experts": 16, "moe_top_k": 4}},
    ),
    "lfm2_moe": Published(
        "lfm2_moe",
        {"tie_word_embeddings": None, "tie_embedding": False},
        {
            "num_hidden_layers": 8, "num_dense_layers": 2,
            "layer_types": ["conv", "conv", FULL, FULL] * 2,
        },
        {"num_experts": 16, "num_experts_per_tok": 4},
    ),
}  # fmt: skip
