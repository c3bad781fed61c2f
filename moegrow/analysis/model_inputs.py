"""Inputs on which two models are compared: token sequences and, where taken, an image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moegrow.analysis import run_layerwise
from moegrow.analysis.model_image import Image
from moegrow.analysis.model_weights import Progress, library
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor


RANDOM = "leave " + Parameter("prompts") + " out to run random tokens"
SEQUENCES, LENGTH = 4, 32  # of random tokens


def drawn(layout: Layout) -> list[list[int]]:
    """Tokens drawn from the vocabulary, always the same, without those that mean images or ends."""
    import torch

    size = layout.facts.vocabulary
    if type(size) is not int or size < 1:
        raise MoegrowError(
            f"config.json says vocab_size {size!r}, so no tokens can be drawn",
            "give texts with " + Parameter("prompts"),
        )
    special = layout.facts.special_tokens
    usable = torch.tensor([number for number in range(size) if number not in special] or [0])
    drawn = torch.randint(
        len(usable), (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    found: list[list[int]] = usable[drawn].tolist()
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
    rows = layout.facts.vocabulary
    most = max(map(max, found))
    if isinstance(rows, int) and most >= rows:
        raise MoegrowError(
            f"the tokenizer of {layout.checkpoint.name} gives token {most}, and config.json says"
            f" vocab_size {rows}",
            RANDOM,
        )
    return found


@dataclass(frozen=True)
class Batch:
    """Sequences of tokens; with an image, the last of them is the one that it stands in.

    `no_image` says why no image is among them although the model takes images.
    """

    sequences: tuple[tuple[int, ...], ...]
    image: Image | None = None
    no_image: str = ""

    @property
    def longest(self) -> int:
        return max(map(len, self.sequences))

    @property
    def padded(self) -> list[list[int]]:
        """All sequences in the length of the longest.

        What stands behind a text changes nothing in it: every token sees only those before it.
        """
        return [
            [*tokens, *(self.sequences[0][:1] * (self.longest - len(tokens)))]
            for tokens in self.sequences
        ]

    @property
    def counts(self) -> "Tensor":
        """Which of the padded tokens are compared, [sequences, tokens]."""
        torch = library().torch
        lengths = torch.tensor([len(tokens) for tokens in self.sequences])
        found: Tensor = torch.arange(self.longest)[None, :] < lengths[:, None]
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """What a model is called with beside the tokens."""
        if self.image is None:
            return {}
        return self.image.arguments(library(), sequences=len(self.sequences), longest=self.longest)

    def without_image(self, why: str) -> "Batch":
        return replace(self, sequences=self.sequences[:-1], image=None, no_image=why)


def batch_for(source: Layout, grown: Layout, prompts: Sequence[str] = ()) -> Batch:
    """The prompts by the tokenizer of `grown`, or drawn tokens, and an image if the model takes it.

    Raises MoegrowError where the model cannot be built or its weights do not fit.
    """
    texts = tuple(map(tuple, tokenized(grown, prompts) if prompts else drawn(source)))
    special = source.facts.special_tokens
    around = [token for token in texts[0] if token not in special][: LENGTH // 2]
    image = run_layerwise.image_for(source, around or texts[0][:1])
    if image is None:
        return Batch(texts)
    if image.problem:
        return Batch(texts, no_image=image.problem)
    return Batch((*texts, image.tokens), image)


def run_source(
    batch: Batch, source: Layout, progress: Progress
) -> tuple[Batch, run_layerwise.ModelOutputs]:
    """What the source computes; where it does not run with the image, without, and that is told."""
    try:
        return batch, run_layerwise.run_layers(source, batch.padded, progress, batch.arguments)
    except MoegrowError as error:
        if batch.image is None:
            raise
        batch = batch.without_image(error.message)
        return batch, run_layerwise.run_layers(source, batch.padded, progress)
