"""Notes on a wider router as typed values: compensations and losses."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Because = Literal["undivided", "on the input", "divided by a norm"]


@dataclass(frozen=True)
class EmptyExperts:
    """Experts that are copies of a router's class that skips."""

    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} of the experts are empty: they stand for copies of the class that skips"
        )


@dataclass(frozen=True)
class SharedProbability:
    """A choice among `times` copies of each class, with their part of the probability."""

    times: int

    def __str__(self) -> str:
        return (
            f"output projections of the experts times {self.times}, load-balancing biases b to"
            f" b/{self.times} + (1/{self.times} - 1): probabilities shrink as much"
        )


@dataclass(frozen=True)
class OutputsScaled:
    """Output projections of the experts times a factor, and what the router's weights are."""

    scale: Fraction | float
    because: Because
    exponent: float = 0.0

    def __str__(self) -> str:
        match self.because:
            case "undivided":
                return _OUTPUTS + f"{self.scale}: {_UNDIVIDED}"
            case "on the input":
                return _OUTPUTS + f"{self.scale}: the router's weights multiply the experts' input"
            case "divided by a norm":
                why = f"the router's weights are divided by their {self.exponent:g}-norm"
                return _OUTPUTS + f"{self.scale:g}: {why}"


_OUTPUTS = "output projections of the experts times "
_UNDIVIDED = "the router's weights are not divided by their sum"


@dataclass(frozen=True)
class SettingScaled:
    """A setting of the config that multiplies the router's weights."""

    key: str
    old: float
    new: float

    def __str__(self) -> str:
        return f"{self.key} {self.old} -> {self.new:g}: {_UNDIVIDED}"


@dataclass(frozen=True)
class GroupsAppended:
    """Groups of experts, counted and picked under two keys of the config, before and after."""

    keys: tuple[str, str]
    counts: tuple[int, int]
    kept: tuple[int, int]

    def __str__(self) -> str:
        (count, kept), (old, new), (before, after) = self.keys, self.counts, self.kept
        return (
            f"{count} {old} -> {new}, {kept} {before} -> {after}:"
            " copies are appended as whole groups"
        )


@dataclass(frozen=True)
class GroupsWidened:
    """Groups of experts that are as many as before, each with its copies."""

    key: str
    count: int

    def __str__(self) -> str:
        return f"{self.key} stays {self.count}: every copy is in the group of its original"


@dataclass(frozen=True)
class RowsCopied:
    """Rows of the router behind those of the experts, which it weighs together."""

    key: str
    old: int
    new: int

    def __str__(self) -> str:
        return f"{self.key} {self.old} -> {self.new}: the router weighs them together"


@dataclass(frozen=True)
class BiasesScaled:
    """Load-balancing biases times a factor."""

    scale: Fraction

    def __str__(self) -> str:
        return f"load-balancing biases times {self.scale}: probabilities shrink as much"


@dataclass(frozen=True)
class TablesExtended:
    """Tables of experts by token, with copies in them."""

    def __str__(self) -> str:
        return "tables of experts by token list the copies too"


@dataclass(frozen=True)
class FactorInScales:
    """Quantised weights of some formats that are multiplied by their scales alone."""

    formats: tuple[str, ...]

    def __str__(self) -> str:
        return f"weights in {' and '.join(self.formats)} take that in their scales, exactly"


CompensationNote = (
    EmptyExperts | SharedProbability | OutputsScaled | SettingScaled | GroupsAppended
    | GroupsWidened | RowsCopied | BiasesScaled | TablesExtended | FactorInScales
)  # fmt: skip


@dataclass(frozen=True)
class BiasesRounded:
    """Load-balancing biases in a dtype that rounds them where they are shifted."""

    dtype: str

    def __str__(self) -> str:
        return (
            f"load-balancing biases are stored as {self.dtype}, which rounds them where they are"
            " shifted, and experts with nearly the same probability change places"
        )


@dataclass(frozen=True)
class UnevenCopies:
    """Of some of the experts `most` copies, and of the others `least`."""

    favoured: int
    experts: int
    most: int
    least: int

    def __str__(self) -> str:
        factor = self.most / self.least
        return (
            f"{self.favoured} of the {self.experts} experts have {self.most} copies and the others"
            f" {self.least}, so the router favours them by a factor of {factor:g}"
            f" ({math.log(factor):.2f} in the logits)"
        )


@dataclass(frozen=True)
class OtherTopK:
    """A top-k that does not grow as the experts do."""

    top_k: int
    expected: Fraction
    reached: float
    old: int

    def __str__(self) -> str:
        return (
            f"top-k is {self.top_k} and not {float(self.expected):g}, so a token reaches copies of"
            f" about {max(self.reached, 1):g} of the source's experts instead of {self.old}"
        )


Loss = BiasesRounded | UnevenCopies | OtherTopK
