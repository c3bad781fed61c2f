"""The quantised formats that moegrow knows, as data from formats.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import msgspec

from moegrow.files import typed_toml
from moegrow.quant.decoding import Decoding


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way of storing a weight in several tensors; formats.toml says what the keys mean."""

    name: str
    codec: str
    dtypes: tuple[str, ...]
    scales: tuple[str, ...]
    values: str
    becomes: str
    companions: Mapping[str, str]
    others: tuple[str, ...] = ()
    method: str = ""
    group: int = 0
    transposed: bool = False


class Weight(NamedTuple):
    """A quantised weight of a checkpoint: its shape when it is plain, the tensor with its values
    and how they are decoded, and what else belongs to it.

    The name of the tensor ends in `ending`, in place of which the plain one's ends in `becomes`.
    `problem` says why it cannot be decoded, if it cannot; the shape is empty then. Where it
    `is_symmetric`, as the config says, zeros that it has are all the middle of the codes.
    """

    format: str
    shape: tuple[int, ...]
    values: str
    ending: str
    becomes: str
    decoding: Decoding
    others: tuple[str, ...] = ()
    problem: str = ""
    is_symmetric: bool = False

    @property
    def companions(self) -> tuple[str, ...]:
        """Every other tensor of it: of no use without it."""
        return (*[name for _, name in self.decoding.companions], *self.others)


@dataclass(frozen=True)
class Quantised:
    """What of a checkpoint is quantised: its weights by their tensors of values, the tensors that
    look so and belong to no format that is known, and `beside` them scales of activations alone,
    which are of no use to a model that is not quantised."""

    weights: Mapping[str, Weight] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """For every companion the tensor of values that it belongs to."""
        found: dict[str, str] = {}
        for name, weight in self.weights.items():
            for _, other in weight.decoding.companions:
                found[other] = name
            for other in weight.others:
                found[other] = name
        return found


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of formats.toml."""

    activations: tuple[str, ...]
    format: tuple[Format, ...]


@cache
def _file() -> _File:
    return typed_toml.load("moegrow.quant", "formats.toml", _File)


def activations() -> tuple[str, ...]:
    """What the names of scales end in that belong to no weight."""
    return _file().activations


def formats() -> tuple[Format, ...]:
    """The formats of formats.toml, in their order."""
    return _file().format
