"""Limits of serving engines, as facts with version and source from serving.toml.

They are worth knowing when a plan is made, and never a reason to refuse it.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import msgspec

from moegrow.families.layout import Layout
from moegrow.families.model_facts import ModelFacts
from moegrow.families.schema import Names, Rule, Table
from moegrow.files import json_edit, typed_toml
from moegrow.planning.plan import Plan

Counted = Literal["experts", "layers", "top_k", "groups"]


class Limit(Table, frozen=True, kw_only=True):
    """A number up to which an engine takes a model, or takes it at full speed.

    `of` is what is counted: "experts", "layers", "top_k" or "groups". What fits is at most `most`
    or one of `among`. It concerns the model `types`, or all; checkpoints of the quantisation
    `method`, or all; and with `grouped` only routers that pick groups of experts.
    """

    engine: str
    of: Counted
    says: str
    source: str
    most: int = 0
    among: tuple[int, ...] = ()
    types: Names = ()
    method: str = ""
    grouped: bool = False

    def fits(self, count: int) -> bool:
        """Whether a model with so many is taken."""
        return count in self.among if self.among else count <= self.most


class Recognised(Table, frozen=True, kw_only=True):
    """Models that an engine tells from others by a number that growth changes.

    Those with one of `values`, and what `where` has in their config, are taken for `what`.
    """

    engine: str
    types: Names
    of: Counted
    values: tuple[int, ...]
    what: str
    loads: bool
    source: str
    where: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Kinds(Table, frozen=True, kw_only=True):
    """Kinds of layers that engines compute from a layer's number, in models of some `types`.

    `what` they compute by the `rule`, or, where it is None, by how many layers come before the
    first with experts. `ignores` are the keys that say it layer by layer and are not read; with
    `unless` that key is read where it is there. Where a model with other kinds does not load,
    `loads` is false.
    """

    engines: Names
    types: Names
    what: str
    ignores: Names
    loads: bool
    source: str
    rule: Rule | None = None
    leading: bool = False
    unless: str = ""

    def __post_init__(self) -> None:
        if self.leading == (self.rule is not None):
            raise ValueError(f"kinds of {self.types} need a rule or leading")


class Facts(Table, frozen=True, kw_only=True):
    """All that is known of serving engines, and when they were looked at."""

    looked_at: str
    engines: Mapping[str, str]
    limits: tuple[Limit, ...]
    recognised: tuple[Recognised, ...]
    kinds: tuple[Kinds, ...]


@cache
def facts() -> Facts:
    """The facts of serving.toml."""
    return typed_toml.load("moegrow.planning", "serving.toml", Facts)


def warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence for each engine that takes the source and not, or not as well, the result."""
    growth, result = plan.growth, result_facts(plan.config, layout)
    old = {
        "experts": layout.experts, "layers": layout.layers, "top_k": layout.top_k,
        "groups": layout.facts.router.stated_groups,
    }  # fmt: skip
    new = {
        "experts": len(growth.experts), "layers": len(growth.layers), "top_k": growth.top_k,
        "groups": result.router.stated_groups,
    }  # fmt: skip
    for limit in facts().limits:
        before, now = old[limit.of], new[limit.of]
        if (
            _concerns(limit, layout, result.quant_method, new)
            and limit.fits(before)
            and not limit.fits(now)
        ):
            said = limit.says.format(most=limit.most, old=before, new=now)
            yield f"{limit.engine} {said}"
    for known in facts().recognised:
        if layout.family.name not in known.types or not layout.facts.agrees_with(known.where):
            continue
        was, is_ = old[known.of] in known.values, new[known.of] in known.values
        if was != is_:
            numbers = " or ".join(map(str, known.values))
            yield (
                f"{known.engine} takes models of {numbers} {known.of} and no others for"
                f" {known.what}: the source has {old[known.of]} and the result {new[known.of]},"
                f" so {'something else is computed there' if known.loads else 'it does not load'}"
            )


def result_facts(config_text: str, layout: Layout) -> ModelFacts:
    """What the config of a result says, which has the language model's part where its source does.

    Spellings and defaults that only the source's class knows are not filled in.
    """
    root = json_edit.loads(config_text, "config.json", infinities=True)
    found: Any = root
    for key in layout.nested:
        found = found.get(key) if isinstance(found, Mapping) else None
    return ModelFacts(layout.family, root, found if isinstance(found, Mapping) else {})


def _concerns(limit: Limit, layout: Layout, method: Any, new: Mapping[str, int]) -> bool:
    """Whether a limit is about models of this type, stored so and routed so."""
    if limit.types and layout.family.name not in limit.types:
        return False
    if limit.grouped and new["groups"] < 2:
        return False
    return not limit.method or method == limit.method
