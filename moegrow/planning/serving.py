"""What common serving engines accept: worth knowing when a plan is made, never a reason to refuse.

The limits are those seen in the engines' own sources and issues in 2026 (docs/method.md).
"""

from collections.abc import Iterator

from moegrow.planning.report import Numbers

VLLM_EXPERTS = {1 << power for power in range(10)} | {192, 320, 384, 448, 576}
LLAMA_CPP_EXPERTS = 512
LLAMA_CPP_LAYERS = 512
TENSORRT_EXPERTS = 512
TENSORRT_TOP_K = 8


def warnings(before: Numbers, after: Numbers) -> Iterator[str]:
    """A sentence for each engine that accepts the model before and not the one after."""
    if before.experts in VLLM_EXPERTS and after.experts not in VLLM_EXPERTS:
        yield (
            f"fused kernels of vLLM take powers of two up to 512 experts, and 192, 320, 384, 448"
            f" and 576; not {after.experts}"
        )
    for engine, what, most, old, new in (
        ("llama.cpp takes", "experts", LLAMA_CPP_EXPERTS, before.experts, after.experts),
        ("llama.cpp takes", "layers", LLAMA_CPP_LAYERS, before.layers, after.layers),
        ("older TensorRT-LLM takes", "experts", TENSORRT_EXPERTS, before.experts, after.experts),
        ("older TensorRT-LLM fuses", "top-k", TENSORRT_TOP_K, before.top_k, after.top_k),
    ):
        if old <= most < new:
            yield f"{engine} at most {most} {what}, not {new}"
