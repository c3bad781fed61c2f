"""Facts of a model, read once from its config.json: router, groups, layers, vocabulary."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from moegrow.families import architecture
from moegrow.families.layer_rules import LayeredConfig, from_rule
from moegrow.families.schema import Config, Family, Router, Rule, Setting, lookup, number
from moegrow.families.settings import promised_predictions

# Keys of the weight of the load-balancing loss, the likeliest first.
_AUXILIARY = ("router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha", "moe_loss_weight")
_TOKEN_KEYS = ("_token_id", "_token_index", "_token_ids")


class Stated(NamedTuple):
    """A value of the config, and the key that it has there."""

    key: str
    value: Any


@dataclass(frozen=True)
class GroupFacts:
    """Groups of experts: a router keeps `kept` of `count` before it picks experts."""

    count: int
    kept: int
    count_key: str
    kept_key: str
    score: str


@dataclass(frozen=True, eq=False)
class RouterFacts:
    """How a router computes, by its family and a config; each fact is read when first asked for.

    Reading raises MoegrowError where the config has a value of another kind than the family says.
    """

    router: Router
    config: Config

    @cached_property
    def scores(self) -> str:
        """The function that makes scores: "softmax" or "sigmoid"."""
        return self.router.scores_by(self.config)

    @cached_property
    def exponent(self) -> float | None:
        """The p of the p-norm that the weights of the chosen experts are divided by, if given."""
        exponent = self.router.exponent
        return exponent.read(self.config) if exponent else None

    @cached_property
    def is_normalised(self) -> bool:
        """Whether the weights of the chosen experts are known to be divided by a norm of them."""
        if self.router.exponent:
            return self.exponent is not None
        normalised = self.router.normalised
        if normalised is None:
            return self.scores != "softmax"
        if isinstance(normalised, Setting):
            return bool(normalised.read(self.config))
        return normalised

    @cached_property
    def scaling(self) -> Stated | None:
        """The factor on the router's weights, where the family has one."""
        scaling = self.router.scaling
        return Stated(scaling.key, scaling.read(self.config)) if scaling else None

    @cached_property
    def groups(self) -> GroupFacts | None:
        """The groups of experts that the router picks from; None where it picks from all."""
        groups, config = self.router.groups, self.config
        if groups is None or (groups.when and lookup(config, groups.when) != groups.equals):
            return None
        count = number(config, groups.count, 1)
        if count <= 1:
            return None
        kept = number(config, groups.kept, 1)
        return GroupFacts(count, kept, groups.count, groups.kept, groups.score)

    @property
    def stated_groups(self) -> int:
        """The number of groups in the config, 1 where it has none; also where they are not used."""
        groups = self.router.groups
        count = lookup(self.config, groups.count) if groups else None
        return count if type(count) is int else 1


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What a config says of a model; each fact is read when it is first asked for.

    `root` is the whole of config.json, `config` the language model's part of it.
    """

    family: Family
    root: Config
    config: Config

    @cached_property
    def router(self) -> RouterFacts:
        """How the router computes."""
        return RouterFacts(self.family.router, self.config)

    @cached_property
    def promised_predictions(self) -> int:
        """How many multi-token-prediction layers the config speaks of."""
        return promised_predictions(self.config, self.family)

    @property
    def prediction_setting(self) -> Stated | None:
        """The key that counts multi-token-prediction layers, where the config has one."""
        return next(self._stated(self.family.config.prediction_layers), None)

    @property
    def shared_experts(self) -> int | None:
        """How many shared experts a layer has; None where the config does not count them."""
        found = self._stated(self.family.config.shared_experts)
        return next((value for _, value in found if type(value) is int), None)

    @property
    def layer_types(self) -> list[Any]:
        """The entries of `layer_types` in the config; none where it has no such list."""
        types = lookup(self.config, "layer_types")
        return types if isinstance(types, list) else []

    @property
    def copies_come_first(self) -> bool:
        """Whether an identity copy has to come before its original."""
        key = self.family.depth.copies_first
        return bool(key and lookup(self.config, key))

    @property
    def addressed_layers(self) -> int:
        """How many of the first layers another part of the model addresses by number."""
        addressed = self.family.depth.addressed
        return addressed.count(self.root) if addressed else 0

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names under `architectures`, or None where there is no list of names."""
        return architecture.classes(self.root)

    @property
    def other_classes(self) -> list[str]:
        """The classes under `architectures` that are not of the family's model type."""
        return architecture.other_classes(self.root, self.family)

    def unnamed_keys(self, layers: int) -> dict[str, Any]:
        """Keys that seem to speak of the `layers`, and that the family does not name."""
        return architecture.unnamed_keys(self.config, self.family, layers)

    @property
    def vocabulary(self) -> Any:
        """The value of `vocab_size`: a number of tokens, unless the config is wrong."""
        return lookup(self.config, "vocab_size")

    @property
    def special_tokens(self) -> frozenset[int]:
        """The tokens that the config names, such as those for images and ends."""
        return frozenset(_tokens(self.root)) | frozenset(_tokens(self.config))

    @property
    def auxiliary_loss(self) -> Stated:
        """The weight of the load-balancing loss, 0.0 where there is none."""
        for key in _AUXILIARY:
            if found := lookup(self.config, key):
                is_number = isinstance(found, int | float) and math.isfinite(found)
                return Stated(key, found if is_number else 0.0)
        return Stated("", 0.0)

    @property
    def takes_images(self) -> bool:
        """Whether a part of the model reads images."""
        return isinstance(self.root.get("vision_config"), Mapping)

    @property
    def names_quantisation(self) -> bool:
        """Whether the config has a quantization_config, be it null."""
        return "quantization_config" in self.root or "quantization_config" in self.config

    @property
    def quant_method(self) -> Any:
        """The name of the method of quantisation; None where the config has none."""
        return lookup(self.root, "quantization_config.quant_method")

    def has(self, key: str) -> bool:
        """Whether the language model's part has a value under a key."""
        return lookup(self.config, key) is not None

    def agrees_with(self, values: Mapping[str, Any]) -> bool:
        """Whether the language model's part has all these values under their keys."""
        return all(lookup(self.config, key) == value for key, value in values.items())

    def list_by(self, rule: Rule, layers: int, moe_layers: frozenset[int]) -> list[Any] | None:
        """The list with an entry a layer that a rule makes; None where the rule does not apply.

        Raises MoegrowError where the config has a pattern that is not read.
        """
        return from_rule(rule, LayeredConfig(self.config, layers, moe_layers))

    def period_of(self, rule: Rule) -> int:
        """After how many layers a rule begins anew."""
        every = rule.every.read(self.config) if isinstance(rule.every, Setting) else rule.every
        return max(1, every)

    def _stated(self, keys: tuple[str, ...]) -> Iterator[Stated]:
        for key in keys:
            if (value := lookup(self.config, key)) is not None:
                yield Stated(key, value)


def _tokens(config: Config) -> Iterator[int]:
    """The numbers of tokens at the top level of a config."""
    for key, value in config.items():
        if key.endswith(_TOKEN_KEYS):
            numbers = value if isinstance(value, list) else [value]
            yield from (number for number in numbers if type(number) is int)
