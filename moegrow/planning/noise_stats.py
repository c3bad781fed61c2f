"""Statistics of the noise that a result holds, beside the noise that was asked for."""

import math
import re
from dataclasses import dataclass
from typing import Self

SWALLOWED = 0.5  # the share of values that noise leaves as they are from which on it is lost

_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")


@dataclass(frozen=True)
class NoiseStats:
    """Noise that was found in some values, beside what was asked for."""

    values: int = 0
    unchanged: int = 0
    asked: float = 0.0  # the sum of the squares of the noise, as it should be
    found: float = 0.0  # and as it is
    by_draw: bool = False  # whether a draw rounded the values

    def __add__(self, other: Self) -> "NoiseStats":
        return NoiseStats(
            self.values + other.values,
            self.unchanged + other.unchanged,
            self.asked + other.asked,
            self.found + other.found,
            self.by_draw or other.by_draw,
        )

    @property
    def share_unchanged(self) -> float:
        """The share of values that are what they would be without noise, from 0 to 1."""
        return self.unchanged / self.values if self.values else 0.0

    @property
    def ratio(self) -> float:
        """The root mean square of the noise that was found, divided by that asked for."""
        return math.sqrt(self.found / self.asked) if self.asked else 0.0

    @property
    def is_swallowed(self) -> bool:
        """Whether most of the noise is lost to rounding, which is never so on average by draw."""
        return self.share_unchanged > SWALLOWED and not self.by_draw


def kind_of(name: str) -> str:
    """What tensors are counted together: names that differ in numbers alone.

    >>> kind_of("model.layers.3.mlp.experts.17.up_proj.weight")
    'model.layers.*.mlp.experts.*.up_proj.weight'
    """
    return _NUMBER.sub("*", name)


def add_all(found: dict[str, NoiseStats], more: dict[str, NoiseStats]) -> None:
    """Add what was found of some kinds of tensors to what was found before."""
    for kind, realised in more.items():
        found[kind] = found.get(kind, NoiseStats()) + realised
