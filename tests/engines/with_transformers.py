"""Try grown checkpoints in transformers, in the version of the environment.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 transformers==5.23.0 accelerate
    ENV/bin/python tests/engines/with_transformers.py WORK

It shows whether another version of transformers computes the same as the one of prepare.py.
"""

import json
from importlib.metadata import version
from pathlib import Path

from measure import Answers, greedy, logprobs, main


def answer(folder: Path, prompts: list[list[int]]) -> Answers:
    import torch
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    loader = getattr(transformers, name, transformers.AutoModelForCausalLM)
    model, report = loader.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if complaints := {key: sorted(map(str, found)) for key, found in report.items() if found}:
        raise ValueError(f"not loaded as it is: {complaints}")
    model.eval()

    @torch.inference_mode()
    def logits(tokens: list[int]):
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()

    return Answers(
        [logprobs(logits(prompt))[:-1] for prompt in prompts],
        [greedy(lambda tokens: logits(tokens)[-1], prompt) for prompt in prompts],
    )


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("transformers", "torch")}


if __name__ == "__main__":
    main("transformers", answer, versions)
