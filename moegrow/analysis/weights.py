"""The weights of a checkpoint as a model takes them: by plain names, decoded where quantised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moegrow.config.quantconfig import quantised_in
from moegrow.errors import MoegrowError, raise_all
from moegrow.families.structure import Layout
from moegrow.formats.formats import Quantised, Weight
from moegrow.numbers.reading import Source
from moegrow.plans import Piece

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = ("F64", "F32", "F16", "BF16")
NUMBERS = (*FLOATS, "I64", "I32", "BOOL")

Progress = Callable[[int], None]


class Weights:
    """What a model is filled with. `stored` gives for each plain name the tensor that it is of."""

    def __init__(self, lib: Any, layout: Layout, source: Source) -> None:
        """`source` has the files of the checkpoint, which is in a folder here.

        Raises MoegrowError where a weight is quantised in a way that is not decoded.
        """
        self._lib = lib
        self._checkpoint = layout.checkpoint
        self._source = source
        self._quantised = check_weights(layout)
        owned = self._quantised.owners
        self.stored = {
            self._plain(name): name for name in layout.checkpoint.tensors if name not in owned
        }

    def taken(self, names: list[str], progress: Progress) -> dict[str, Any]:
        """Tensors by name, each read when it is indexed with `...`.

        `progress` is told of their bytes.
        """
        opened: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name in names:
            spec = self._checkpoint.tensors[self.stored[name]]
            weight = self._quantised.weights.get(spec.name)
            count = spec.stop - spec.start
            if weight is not None:
                found[name] = _Decoded(self._lib, self._source, weight)
                parts = (self._checkpoint.tensors[part] for part in weight.companions)
                count += sum(part.stop - part.start for part in parts)
            else:
                # Opened anew for each layer: what is mapped into memory stays there until it is
                # closed.
                if spec.file not in opened:
                    file = Path(self._checkpoint.origin.location) / spec.file
                    opened[spec.file] = self._lib.safe_open(file, "pt")
                found[name] = opened[spec.file].get_slice(spec.name)
            progress(count)
        return found

    def _plain(self, name: str) -> str:
        weight = self._quantised.weights.get(name)
        return name if weight is None else name.removesuffix(weight.ending) + weight.becomes


@dataclass(frozen=True)
class _Decoded:
    """A quantised weight that is decoded when it is asked for, so that few are at a time."""

    lib: Any
    source: Source
    weight: Weight

    def __getitem__(self, everything: Any) -> "Tensor":
        weight = self.weight
        rows = weight.shape[0] if weight.shape else 1
        piece = Piece(weight.values, 0, rows, decoding=weight.decoding)
        numbers = np.empty(weight.shape, np.float32)
        filled = numbers.reshape(-1).view(np.uint8)
        first = 0
        for block in self.source.decoded(piece):
            filled[first : first + block.size] = block
            first += block.size
        found: Tensor = self.lib.torch.from_numpy(numbers)
        return found


def check_weights(layout: Layout) -> Quantised:
    """What of a checkpoint is quantised; raises MoegrowError where that cannot be decoded."""
    checkpoint, quantised = layout.checkpoint, quantised_in(layout)
    hint = "verify it without --logits"
    known = quantised.weights.keys() | quantised.owners.keys()
    odd = {
        name: f"{name} is stored as {spec.dtype}"
        for name, spec in checkpoint.tensors.items()
        if name not in known and spec.dtype not in NUMBERS
    }
    for name in quantised.unknown:
        odd[name] = f"{name} is stored as {checkpoint.tensors[name].dtype}"
    for name, weight in quantised.weights.items():
        if weight.problem:
            odd[name] = f"{name}: {weight.problem}"
    raise_all(
        f"{checkpoint.name} is quantised in a way that moegrow does not decode, and --logits runs"
        " decoded weights",
        [odd[name] for name in sorted(odd)],
        hint,
    )
    told: Mapping[str, Any] = {**checkpoint.config, **layout.config}
    if not quantised.weights and "quantization_config" in told:
        raise MoegrowError(
            f"{checkpoint.name} is quantised by its config.json, and no tensor of it is", hint
        )
    return quantised
