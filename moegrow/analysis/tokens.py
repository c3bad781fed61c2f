"""The tokens that two models are compared on: of texts, or drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from moegrow.analysis.models import library
from moegrow.errors import MoegrowError
from moegrow.families.family import lookup
from moegrow.families.structure import Layout

RANDOM = "leave --prompt out to run random tokens"
SEQUENCES, LENGTH = 4, 32  # of random tokens


def drawn(layout: Layout) -> list[list[int]]:
    """Tokens drawn from the vocabulary, always the same, without those that mean images or ends."""
    import torch

    size = lookup(layout.config, "vocab_size")
    if type(size) is not int or size < 1:
        raise MoegrowError(
            f"config.json says vocab_size {size!r}, so no tokens can be drawn",
            "give texts with --prompt",
        )
    special = special_tokens(layout)
    usable = torch.tensor([number for number in range(size) if number not in special] or [0])
    drawn = torch.randint(
        len(usable), (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    found: list[list[int]] = usable[drawn].tolist()
    return found


def special_tokens(layout: Layout) -> set[int]:
    """The tokens that stand for images, ends and the like, as the config names them."""
    configs = layout.checkpoint.config, layout.config
    return {number for config in configs for number in _special(config)}


def _special(config: Mapping[str, Any]) -> set[int]:
    found: set[int] = set()
    for key, value in config.items():
        if key.endswith(("_token_id", "_token_index", "_token_ids")):
            numbers = value if isinstance(value, list) else [value]
            found.update(number for number in numbers if type(number) is int)
    return found


def tokenized(layout: Layout, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts as tokens, by the tokenizer that lies beside the weights."""
    transformers, folder = library().transformers, layout.checkpoint.location
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        found = [[int(number) for number in tokenizer(text)["input_ids"]] for text in prompts]
    except Exception as error:  # a stranger's tokenizer fails in any way it likes
        reason = str(error).strip().partition("\n")[0][:300]
        raise MoegrowError(
            f"{layout.checkpoint.name} has no tokenizer that transformers can use: {reason}",
            RANDOM,
        ) from error
    for text, tokens in zip(prompts, found, strict=True):
        if not tokens:  # where there is no tokenizer, transformers makes an empty one
            raise MoegrowError(
                f"the tokenizer of {layout.checkpoint.name} makes no tokens of {text!r}", RANDOM
            )
    rows = lookup(layout.config, "vocab_size")
    most = max(map(max, found))
    if isinstance(rows, int) and most >= rows:
        raise MoegrowError(
            f"the tokenizer of {layout.checkpoint.name} gives token {most}, and config.json says"
            f" vocab_size {rows}",
            RANDOM,
        )
    return found
