"""Try grown checkpoints in OpenVINO, through the export of optimum-intel.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 openvino==2026.4.1 optimum-intel==2.2.0
    ENV/bin/pip uninstall -y torchvision
    ENV/bin/python tests/engines/with_openvino.py WORK --save

What is uninstalled is compiled for CUDA and may not load beside a torch for CPUs.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Answers, greedy, logprobs, main

EXACTLY = {  # its defaults round weights, activations and the cache
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


def answer(folder: Path, prompts: list[list[int]]) -> Answers:
    import torch
    from optimum.intel import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(
        folder, export=True, load_in_8bit=False, ov_config=EXACTLY
    )

    def logits(tokens: list[int]) -> np.ndarray:
        ids = torch.tensor([tokens])
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy()

    return Answers(
        [logprobs(logits(prompt))[:-1] for prompt in prompts],
        [greedy(lambda tokens: logits(tokens)[-1], prompt) for prompt in prompts],
    )


def versions() -> dict[str, str]:
    names = ("openvino", "optimum-intel", "transformers", "torch")
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main("OpenVINO", answer, versions)
