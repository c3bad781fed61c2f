"""Try grown checkpoints in llama.cpp, through its converter and llama-cpp-python.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece llama-cpp-python==0.3.36
    ENV/bin/pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    export LLAMA_CPP=llama_cpp_python-0.3.36/vendor/llama.cpp
    ENV/bin/python tests/engines/with_llama_cpp.py WORK --save

LLAMA_CPP names a folder with the converter, of the version that is compiled by the second line.
"""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
from measure import Answers, greedy, logprobs, main


def answer(folder: Path, prompts: list[list[int]]) -> Answers:
    import llama_cpp

    with tempfile.TemporaryDirectory() as workspace:
        converted = Path(workspace) / "model.gguf"
        convert(folder, converted)
        try:
            model = llama_cpp.Llama(
                str(converted), n_ctx=256, logits_all=True, seed=0, n_threads=1, n_threads_batch=1,
                type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
                yarn_attn_factor=-1.0, yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,  # the model's own
            )  # fmt: skip
        except ValueError as problem:
            raise ValueError(str(problem).replace(f"{workspace}/", "")) from problem

        def logits(tokens: list[int]) -> np.ndarray:
            model.reset()
            model.eval(tokens)
            return model.scores[: len(tokens)].copy()

        found = Answers(
            [logprobs(logits(prompt))[:-1] for prompt in prompts],
            [greedy(lambda tokens: logits(tokens)[-1], prompt) for prompt in prompts],
        )
        model.close()
    return found


def convert(folder: Path, converted: Path) -> None:
    """Convert a checkpoint without a tokenizer, which the converter takes from few types only."""
    if os.environ["LLAMA_CPP"] not in sys.path:
        sys.path.insert(0, os.environ["LLAMA_CPP"])
    import convert_hf_to_gguf as converter

    original = converter.get_model_class

    def get_model_class(*arguments, **named):
        found = original(*arguments, **named)

        def set_vocab(self):
            self._set_vocab_none()
            self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

        found.set_vocab = set_vocab
        return found

    command = ["convert", str(folder), "--outfile", str(converted), "--outtype", "f32"]
    with (
        mock.patch.object(converter, "get_model_class", get_model_class),
        mock.patch.object(sys, "argv", command),
    ):
        try:
            converter.main()
        except SystemExit as end:
            raise ValueError("the converter does not know the architecture") from end


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("llama-cpp-python", "transformers", "torch")}


if __name__ == "__main__":
    main("llama.cpp", answer, versions)
