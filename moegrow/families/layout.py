"""The layout of a checkpoint: the role of each tensor, and the facts of its config."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import TensorSpec
from moegrow.families.layer_rules import LayeredConfig
from moegrow.families.model_facts import ModelFacts
from moegrow.families.quantisation import Quantisation
from moegrow.families.schema import Config, Family
from moegrow.families.tensor_names import TensorRole
from moegrow.quant.formats import Quantised

# A tensor of a layer: what the headers say of it, and where it stands.
Tensor = tuple[TensorSpec, TensorRole]


@dataclass(frozen=True, eq=False)  # what is found out about one is kept with it
class Layout:
    """A checkpoint with its family and what the two say together, found consistent.

    `places` has no entry for tensors outside all layers. `config` is the language model's part
    of the config, under the keys `nested`. `extra` counts rows of the router behind those of the
    experts. `moe_layers` are the numbers of the layers with experts; `prediction_layers` counts
    the multi-token-prediction layers that stand behind the last layer under the same names.
    """

    checkpoint: Checkpoint
    family: Family
    config: Config
    nested: tuple[str, ...]
    places: Mapping[str, TensorRole]
    layers: int
    experts: int
    top_k: int
    extra: int
    moe_layers: frozenset[int]
    prediction_layers: int

    @property
    def router_rows(self) -> int:
        """Rows of a router's weight: experts, and what else can be chosen."""
        return self.experts + (1 if self.family.router.kind == "skip" else self.extra)

    @cached_property
    def stacks(self) -> Mapping[str, Mapping[int, list[Tensor]]]:
        """The tensors of each layer of each stack, in the order of their names."""
        stacks: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for name, place in self.places.items():
            stacks[place.stack][place.layer].append((self.checkpoint.tensors[name], place))
        for layers in stacks.values():
            for tensors in layers.values():
                tensors.sort()
        return stacks

    @cached_property
    def facts(self) -> ModelFacts:
        """What config.json says of the model."""
        return ModelFacts(self.family, self.checkpoint.config, self.config)

    @cached_property
    def layered(self) -> LayeredConfig:
        """The config with the layers that it speaks of, keys of its root behind a slash."""
        outside = {f"/{key}": value for key, value in self.checkpoint.config.items()}
        return LayeredConfig(
            {**self.config, **outside},
            self.layers,
            self.moe_layers,
            max(self.prediction_layers, self.facts.promised_predictions),
            self.family.config.per_layer,
        )

    @cached_property
    def quantisation(self) -> Quantisation:
        """The quantisation configs of the checkpoint."""
        return Quantisation(self.checkpoint, self.nested)

    @property
    def quantised(self) -> Quantised:
        """The quantised weights of the checkpoint."""
        return self.quantisation.quantised

    @cached_property
    def routed_parameters(self) -> Mapping[int | None, int]:
        """Parameters of routed experts by layer; under None those of prediction layers."""
        counts, tensors = self.quantisation.parameters, self.checkpoint.tensors
        routed: dict[int | None, int] = defaultdict(int)
        for name, place in self.places.items():
            if place.role == "experts":
                mapped = not place.is_prediction and place.layer < self.layers
                count = counts.get(name)
                if count is None:
                    count = math.prod(tensors[name].shape)
                routed[place.layer if mapped else None] += count
        return dict(routed)

    def expert_tensors(self) -> Iterator[Tensor]:
        """Every tensor that holds weights of routed experts."""
        for name, place in self.places.items():
            if place.role == "experts":
                yield self.checkpoint.tensors[name], place


def parameters(shapes: Iterable[tuple[int, ...]]) -> int:
    """Elements of tensors of these shapes."""
    return sum(map(math.prod, shapes))


def is_of_all(spec: TensorSpec, place: TensorRole) -> bool:
    """Whether a tensor is one scale that all experts of a layer share, as ModelOpt has for experts
    that are one tensor."""
    return (
        place.role == "experts"
        and place.expert is None
        and _SCALE.search(spec.name) is not None
        and math.prod(spec.shape) == 1
    )


_SCALE = re.compile(r"scale(?:_inv|_2)?$")
