"""What two models are compared on: sequences of tokens, and an image where they take one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moegrow.analysis import layerwise
from moegrow.analysis.images import Image
from moegrow.analysis.models import library
from moegrow.analysis.tokens import LENGTH, drawn, special_tokens, tokenized
from moegrow.analysis.weights import Progress
from moegrow.errors import MoegrowError
from moegrow.families.structure import Layout

if TYPE_CHECKING:
    from torch import Tensor


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
    special = special_tokens(source)
    around = [token for token in texts[0] if token not in special][: LENGTH // 2]
    image = layerwise.image_for(source, around or texts[0][:1])
    if image is None:
        return Batch(texts)
    if image.problem:
        return Batch(texts, no_image=image.problem)
    return Batch((*texts, image.tokens), image)


def run_source(batch: Batch, source: Layout, progress: Progress) -> tuple[Batch, layerwise.Outcome]:
    """What the source computes; where it does not run with the image, without, and that is told."""
    try:
        return batch, layerwise.run_layers(source, batch.padded, progress, batch.arguments)
    except MoegrowError as error:
        if batch.image is None:
            raise
        batch = batch.without_image(error.message)
        return batch, layerwise.run_layers(source, batch.padded, progress)
