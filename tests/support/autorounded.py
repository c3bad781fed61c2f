"""Quantise a checkpoint of plain weights with AutoRound, on the CPU, and save it in another format.

    python tests/support/autorounded.py SOURCE FOLDER auto_gptq

It runs in a process of its own, since AutoRound changes transformers where it is imported.
"""

import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def main(source: Path, folder: Path, form: str) -> None:
    from auto_round import AutoRound

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    words = {f"word {number}": number for number in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word 0"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="word 0")
    # No iterations: weights are rounded to the nearest, for which no text is needed.
    rounding = AutoRound(
        model, tokenizer=wrapped, scheme="W4A16", group_size=32, sym=form == "auto_gptq",
        iters=0, disable_opt_rtn=True, device_map="cpu",
    )  # fmt: skip
    made = folder.with_name(f"{folder.name} made")
    rounding.quantize_and_save(str(made), format=form)
    # They lie in a folder that is named for the scheme.
    (config,) = made.rglob("config.json")
    shutil.move(config.parent, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
