"""What a wider router needs so that the grown model computes what the source computes."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from moegrow.config import scaled
from moegrow.errors import MoegrowError
from moegrow.family import Groups, Setting
from moegrow.layout import Layout
from moegrow.plans import Growth


@dataclass(frozen=True)
class Compensation:
    """What is changed beside the copies, why, and whether the function is preserved by it.

    `output_scale` multiplies the output projections of the routed experts, `settings` go into
    the config. `exact` speaks of growth without noise; `losses` say why it is not.
    """

    output_scale: Fraction = Fraction(1)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.losses


def compensate(layout: Layout, growth: Growth) -> Compensation:
    """The compensation for a growth along the axis of experts (measured in docs/method.md).

    Raises MoegrowError where the family's router cannot serve the new number of experts.
    """
    if len(growth.experts) == layout.experts and growth.top_k == layout.top_k:
        return Compensation()
    scale, settings, notes = _magnitude(layout, growth)
    group_settings, group_notes = _groups(layout, growth)
    return Compensation(
        scale, settings | group_settings, (*notes, *group_notes), _losses(layout, growth)
    )


def _magnitude(layout: Layout, growth: Growth) -> tuple[Fraction, dict[str, Any], tuple[str, ...]]:
    """Weights that are not divided by their sum add up to more when more experts are chosen."""
    router = layout.family.router
    normalised = router.normalised
    if isinstance(normalised, Setting):
        normalised = bool(normalised.read(layout.config))
    scale = Fraction(layout.top_k, growth.top_k)
    if scale == 1 or router.scores == "softmax" or normalised:
        return Fraction(1), {}, ()
    why = "the router's weights are not divided by their sum"
    if router.scaling and router.multiplies == "output":
        settings = scaled(router.scaling, layout.config, scale)
        (key, value), *_ = settings.items()
        old = router.scaling.read(layout.config)
        return Fraction(1), settings, (f"{key} {old} -> {value:g}: {why}",)
    if router.multiplies == "input":
        why = "the router's weights multiply the experts' input"
    return scale, {}, (f"output projections of the experts times {scale}: {why}",)


def _groups(layout: Layout, growth: Growth) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Group-limited selection stays the same when whole groups are copied and counted."""
    groups = layout.family.router.groups
    if groups is None or not _in_use(groups, layout.config):
        return {}, ()
    count, kept = layout.config[groups.count], layout.config.get(groups.kept) or 1
    factor = Fraction(len(growth.experts), layout.experts)
    size = layout.experts // count
    if _are_whole_groups(growth.experts, size):
        new_count, new_kept = count * factor, kept * factor
        settings = {groups.count: int(new_count), groups.kept: int(new_kept)}
        return settings, (
            f"{groups.count} {count} -> {new_count}, {groups.kept} {kept} -> {new_kept}:"
            " copies are appended as whole groups",
        )
    beside = [set(chunk) for chunk in _chunks(growth.experts, int(size * factor))]
    own = [set(range(first, first + size)) for first in range(0, layout.experts, size)]
    if groups.score == "maximum" and factor.denominator == 1 and beside == own:
        return {}, (f"{groups.count} stays {count}: every copy is in the group of its original",)
    raise MoegrowError(
        f"the router of {layout.family.name} picks {kept} of {count} groups of {size} experts,"
        " and these copies would mix the groups",
        f"use --order append and a multiple of {layout.experts} experts",
    )


def _in_use(groups: Groups, config: Mapping[str, Any]) -> bool:
    if groups.when and config.get(groups.when) != groups.equals:
        return False
    return (config.get(groups.count) or 1) > 1


def _are_whole_groups(experts: tuple[int, ...], size: int) -> bool:
    """Whether the experts are whole groups, one after another, each as often as the others."""
    if len(experts) % size:
        return False
    chunks = _chunks(experts, size)
    whole = all(
        chunk[0] % size == 0 and chunk == tuple(range(chunk[0], chunk[0] + size))
        for chunk in chunks
    )
    return whole and len(set(Counter(chunks).values())) == 1


def _chunks(experts: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [experts[first : first + size] for first in range(0, len(experts), size)]


def _losses(layout: Layout, growth: Growth) -> tuple[str, ...]:
    """Why the function is not preserved, if it is not."""
    losses = []
    copies = Counter(Counter(growth.experts).values())
    if len(copies) > 1:
        most, least = max(copies), min(copies)
        losses.append(
            f"{copies[most]} of the {layout.experts} experts have {most} copies and the others"
            f" {least}, so the router favours them by a factor of {most / least:g}"
            f" ({math.log(most / least):.2f} in the logits)"
        )
    expected = Fraction(layout.top_k * len(growth.experts), layout.experts)
    if growth.top_k != expected:
        reached = growth.top_k * layout.experts / len(growth.experts)
        losses.append(
            f"top-k is {growth.top_k} and not {float(expected):g}, so a token reaches copies of"
            f" about {max(reached, 1):g} of the source's experts instead of {layout.top_k}"
        )
    return tuple(losses)
