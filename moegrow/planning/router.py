"""What a wider router needs so that the grown model computes what the source computes."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.growth import Growth
from moegrow.maps import NULL, Map
from moegrow.model_config.config_json import scaled
from moegrow.planning.op import ONE, ZERO


@dataclass(frozen=True)
class Compensation:
    """What is changed beside the copies, why, and whether the function is preserved by it.

    `output_scale` multiplies the output projections of the routed experts; the load-balancing
    bias becomes bias · `balance_scale` + `balance_shift`; what stands behind the experts' rows is
    there `extra_copies` times; a token's list of experts is `top_k_times` as long; `settings` go
    into the config. `exact` speaks of growth without noise; `losses` say why it is not.
    """

    output_scale: Fraction = ONE
    balance_scale: Fraction = ONE
    balance_shift: Fraction = ZERO
    extra_copies: int = 1
    top_k_times: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.losses


def compensate(layout: Layout, growth: Growth) -> Compensation:
    """The compensation for a growth along the axis of experts (docs/method.md).

    Raises MoegrowError where the family's router cannot serve the new number of experts.
    """
    if growth.experts == tuple(range(layout.experts)) and growth.top_k == layout.top_k:
        return Compensation()
    router = layout.family.router
    if router.refuses_width:
        raise MoegrowError(
            f"the experts of {layout.family.name} cannot be copied: {router.refuses_width}",
            "grow it in depth",
        )
    if router.kind == "skip":
        return _skip(layout, growth)
    scale, settings, notes = _magnitude(layout, growth)
    group_settings, group_notes = _groups(layout, growth)
    extra, extra_settings, extra_notes = _extra(layout, growth)
    balance = ONE
    if router.balance == "probability" and layout.family.tensors.balance_bias:
        balance = Fraction(layout.experts, len(growth.experts))
        extra_notes += (f"load-balancing biases times {balance}: probabilities shrink as much",)
    if layout.family.tensors.expert_numbers:
        extra_notes += ("tables of experts by token list the copies too",)
    return Compensation(
        output_scale=scale,
        balance_scale=balance,
        extra_copies=extra,
        top_k_times=_times(layout, growth),
        settings=settings | group_settings | extra_settings,
        notes=(*notes, *group_notes, *extra_notes),
        losses=_losses(layout, growth),
    )


def _skip(layout: Layout, growth: Growth) -> Compensation:
    """A router of one choice among the experts and skipping: every class is copied alike.

    Each of m copies has 1/m of the probability, so outputs grow by m; the bias must shrink with
    it, and be -1 for skipping, which the model insists on: b/m + (1/m - 1).
    """
    if growth.top_k != layout.top_k:
        raise MoegrowError(
            f"{layout.family.name} always chooses {layout.top_k} of its experts, so top-k cannot be"
            f" {growth.top_k}",
            "use " + Parameter("top_k", "keep"),
        )
    times = (len(growth.experts) + 1) // (layout.experts + 1)
    share = Fraction(1, times)
    nulls = growth.experts.count(NULL)
    return Compensation(
        output_scale=Fraction(times),
        balance_scale=share,
        balance_shift=share - 1,
        notes=(
            f"{nulls} of the experts are empty: they stand for copies of the class that skips",
            f"output projections of the experts times {times}, load-balancing biases b to"
            f" b/{times} + (1/{times} - 1): probabilities shrink as much",
        ),
        losses=_rounded_biases(layout) if times > 1 else (),
    )


def _rounded_biases(layout: Layout) -> tuple[str, ...]:
    """Why biases that take a shift do not order the experts as before, if they do not.

    They are small, and near the shift a float of 16 bits has steps that are large beside them.
    """
    found = {
        layout.checkpoint.tensors[name].dtype
        for name, place in layout.places.items()
        if place.role == "balance_bias"
    }
    return tuple(
        f"load-balancing biases are stored as {dtype}, which rounds them where they are shifted,"
        " and experts with nearly the same probability change places"
        for dtype in sorted(found & {"BF16", "F16"})
    )


def _magnitude(layout: Layout, growth: Growth) -> tuple[Fraction, dict[str, Any], tuple[str, ...]]:
    """Weights that are not divided by their sum add up to more when more experts are chosen."""
    router, facts = layout.family.router, layout.facts.router
    scale = Fraction(layout.top_k, growth.top_k)
    exponent = facts.exponent
    if exponent not in (None, 1) and scale != 1:
        # m equal weights divided by their p-norm add up to m^(1 - 1/p) (docs/method.md).
        power = float(scale) ** (1 - 1 / exponent)
        scale = Fraction(power).limit_denominator(1 << 20)
        return scale, {}, (
            f"output projections of the experts times {power:g}: the router's weights are divided"
            f" by their {exponent:g}-norm",
        )  # fmt: skip
    if scale == 1 or facts.scores == "softmax" or facts.is_normalised:
        return ONE, {}, ()
    why = "the router's weights are not divided by their sum"
    if router.multiplies == "output" and facts.scaling:
        settings = scaled(facts.scaling, scale)
        (key, value), *_ = settings.items()
        return ONE, settings, (f"{key} {facts.scaling.value} -> {value:g}: {why}",)
    if router.multiplies == "input":
        why = "the router's weights multiply the experts' input"
    return scale, {}, (f"output projections of the experts times {scale}: {why}",)


def group_size(layout: Layout) -> int:
    """How many experts the router picks or leaves together; 1 where it picks them one by one."""
    groups = layout.facts.router.groups
    if groups is None:
        return 1
    if layout.experts % groups.count:
        raise MoegrowError(
            f"config.json: {groups.count_key} {groups.count} does not go with"
            f" {layout.experts} experts"
        )
    return layout.experts // groups.count


def _groups(layout: Layout, growth: Growth) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Group-limited selection stays the same when whole groups are copied and counted."""
    groups = layout.facts.router.groups
    if groups is None:
        return {}, ()
    count, kept = groups.count, groups.kept
    if layout.experts % count or not 1 <= kept <= count:
        raise MoegrowError(
            f"config.json: {groups.kept_key} {kept} of {groups.count_key} {count} groups does not"
            f" go with {layout.experts} experts"
        )
    factor = Fraction(len(growth.experts), layout.experts)
    size = layout.experts // count
    if _are_whole_groups(growth.experts, size):
        new_count, new_kept = int(count * factor), max(1, round(kept * factor))
        settings = {groups.count_key: new_count, groups.kept_key: new_kept}
        return settings, (
            f"{groups.count_key} {count} -> {new_count}, {groups.kept_key} {kept} -> {new_kept}:"
            " copies are appended as whole groups",
        )
    beside = [set(chunk) for chunk in _chunks(growth.experts, int(size * factor))]
    own = [set(range(first, first + size)) for first in range(0, layout.experts, size)]
    if groups.score == "maximum" and factor.denominator == 1 and beside == own:
        return {}, (
            f"{groups.count_key} stays {count}: every copy is in the group of its original",
        )
    raise MoegrowError(
        f"the router of {layout.family.name} picks {kept} of {count} groups of {size} experts,"
        " and these copies would mix the groups",
        "use " + Parameter("order", "append") + f" and a multiple of {size} experts",
    )


def _are_whole_groups(experts: Map, size: int) -> bool:
    """Whether the experts are whole groups, one after another."""
    if len(experts) % size:
        return False
    return all(
        chunk[0] % size == 0 and chunk == tuple(range(chunk[0], chunk[0] + size))
        for chunk in _chunks(experts, size)
    )


def _chunks(experts: Map, size: int) -> list[Map]:
    return [experts[first : first + size] for first in range(0, len(experts), size)]


def _extra(layout: Layout, growth: Growth) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """What competes with the experts for the router's weights is copied as often as they are."""
    key = layout.family.router.extra
    if not key or not layout.extra:
        return 1, {}, ()
    times, rest = divmod(len(growth.experts), layout.experts)
    if rest:
        raise MoegrowError(
            f"{key} has to grow with the experts, and {len(growth.experts)} is not a multiple of"
            f" {layout.experts}",
            "use " + Parameter("experts", "2x") + f" for {2 * layout.experts}",
        )
    new = layout.extra * times
    return times, {key: new}, (f"{key} {layout.extra} -> {new}: the router weighs them together",)


def _times(layout: Layout, growth: Growth) -> int:
    """How many times as long a token's list of experts becomes, where a table holds it."""
    times, rest = divmod(growth.top_k, layout.top_k)
    if rest and layout.family.tensors.expert_numbers:
        raise MoegrowError(
            f"a table holds {layout.top_k} experts for each token, so top-k must be a multiple of"
            f" that, not {growth.top_k}",
            "use " + Parameter("top_k", "keep") + ", or a whole multiple of the experts",
        )
    return times


def _losses(layout: Layout, growth: Growth) -> tuple[str, ...]:
    """Why the function is not preserved, if it is not."""
    losses = []
    copies = Counter(Counter(growth.experts).values())
    if _is_one_of_copies(layout, growth, are_even=len(copies) == 1):
        return ()
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


def _is_one_of_copies(layout: Layout, growth: Growth, *, are_even: bool) -> bool:
    """Whether a token goes to one copy of the one expert that it went to, at the same weight.

    Copies have the score of their original, so any of them is the best where it was. Its weight
    stays where the score depends on that expert alone, or is divided by itself.
    """
    router = layout.family.router
    if growth.top_k != 1 or layout.top_k != 1 or router.kind != "rows" or router.extra:
        return False
    if router.balance == "probability" and not are_even:
        return False  # biases shrink evenly, and the probabilities that they are added to do not
    return layout.facts.router.scores == "sigmoid" or layout.facts.router.is_normalised
