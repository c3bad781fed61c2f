"""The published shapes of the models that the guides grow, as checkpoints of holes."""

from pathlib import Path

from benchmarks import sparse
from benchmarks.sparse import Tensors


def deepseek_v3(folder: Path) -> int:
    """Make a checkpoint of DeepSeek-V3's shape, in fp8 with scales: its number of tensors."""
    return sparse.kimi_k2(folder, sparse.DEEPSEEK_V3)


def qwen3_30b_a3b(folder: Path) -> int:
    """Make a checkpoint of Qwen3-30B-A3B's shape in bf16: its number of tensors."""
    hidden, size, heads, kv_heads, head, vocabulary = 2048, 768, 32, 4, 128, 151936
    experts, layers = 128, 48

    def layer(number: int) -> Tensors:
        shapes = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "self_attn.q_proj": (heads * head, hidden),
            "self_attn.k_proj": (kv_heads * head, hidden),
            "self_attn.v_proj": (kv_heads * head, hidden),
            "self_attn.o_proj": (hidden, heads * head),
            "mlp.gate": (experts, hidden),
        }
        for expert in range(experts):
            shapes[f"mlp.experts.{expert}.gate_proj"] = (size, hidden)
            shapes[f"mlp.experts.{expert}.up_proj"] = (size, hidden)
            shapes[f"mlp.experts.{expert}.down_proj"] = (hidden, size)
        return {f"model.layers.{number}.{name}.weight": ("BF16", s) for name, s in shapes.items()}

    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": head,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": size,
        "norm_topk_prob": True,
        "num_attention_heads": heads,
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }
    return sparse.write(folder, config, [layer(i) for i in range(layers)], vocabulary, hidden)


def gpt_oss_20b(folder: Path, *, packed: bool = True) -> int:
    """Make a checkpoint of gpt-oss-20b's shape: its number of tensors.

    `packed`, as published, has the experts in MXFP4; otherwise they are in bf16, as transformers
    saves them after it has unpacked them.
    """
    hidden, size, heads, kv_heads, head, vocabulary = 2880, 2880, 64, 8, 64, 201088
    experts, layers = 32, 24

    def layer(number: int) -> Tensors:
        tensors: Tensors = {
            "input_layernorm.weight": ("BF16", (hidden,)),
            "post_attention_layernorm.weight": ("BF16", (hidden,)),
            "self_attn.sinks": ("BF16", (heads,)),
            "mlp.router.weight": ("BF16", (experts, hidden)),
            "mlp.router.bias": ("BF16", (experts,)),
            "mlp.experts.gate_up_proj_bias": ("BF16", (experts, 2 * size)),
            "mlp.experts.down_proj_bias": ("BF16", (experts, hidden)),
        }
        for name, rows, columns in (
            ("q", heads * head, hidden),
            ("k", kv_heads * head, hidden),
            ("v", kv_heads * head, hidden),
            ("o", hidden, heads * head),
        ):
            tensors[f"self_attn.{name}_proj.weight"] = ("BF16", (rows, columns))
            tensors[f"self_attn.{name}_proj.bias"] = ("BF16", (rows,))
        for name, inside, outside in (("gate_up", hidden, 2 * size), ("down", size, hidden)):
            stem = f"mlp.experts.{name}_proj"
            if packed:
                groups = (experts, outside, inside // 32)
                tensors[f"{stem}_blocks"] = ("U8", (*groups, 16))
                tensors[f"{stem}_scales"] = ("U8", groups)
            else:
                tensors[stem] = ("BF16", (experts, inside, outside))
        return {f"model.layers.{number}.{name}": tensor for name, tensor in tensors.items()}

    config = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "experts_per_token": 4,
        "head_dim": head,
        "hidden_size": hidden,
        "intermediate_size": size,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": heads,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "rms_norm_eps": 1e-05,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
    }
    if packed:
        config["quantization_config"] = {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        }
    return sparse.write(folder, config, [layer(i) for i in range(layers)], vocabulary, hidden)
