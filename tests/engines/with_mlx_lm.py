"""Try grown checkpoints in mlx-lm; on Linux it runs on the processor.

    python -m venv ENV
    ENV/bin/pip install "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0
    ENV/bin/python tests/engines/with_mlx_lm.py WORK --save

mlx compiles its kernels while it runs: it needs g++.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Answers, greedy, logprobs, main


def answer(folder: Path, prompts: list[list[int]]) -> Answers:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)

    def logits(tokens: list[int]) -> np.ndarray:
        return np.array(model(mx.array([tokens]))[0].astype(mx.float32))

    return Answers(
        [logprobs(logits(prompt))[:-1] for prompt in prompts],
        [greedy(lambda tokens: logits(tokens)[-1], prompt) for prompt in prompts],
    )


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("mlx-lm", "mlx")}


if __name__ == "__main__":
    main("mlx-lm", answer, versions)
