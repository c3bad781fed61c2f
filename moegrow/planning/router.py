"""Adjust the router of a wider model so that it computes what the source computes."""

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
from moegrow.planning.router_notes import (
    Because,
    BiasesRounded,
    BiasesScaled,
    CompensationNote,
    EmptyExperts,
    GroupsAppended,
    GroupsWidened,
    Loss,
    OtherTopK,
    OutputsScaled,
    RowsCopied,
    SettingScaled,
    SharedProbability,
    TablesExtended,
    UnevenCopies,
)

Notes = tuple[CompensationNote, ...]


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
    notes: tuple[CompensationNote, ...] = ()
    losses: tuple[Loss, ...] = ()

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
        extra_notes += (BiasesScaled(balance),)
    if layout.family.tensors.expert_numbers:
        extra_notes += (TablesExtended(),)
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
    return Compensation(
        output_scale=Fraction(times),
        balance_scale=share,
        balance_shift=share - 1,
        notes=(EmptyExperts(growth.experts.count(NULL)), SharedProbability(times)),
        losses=_rounded_biases(layout) if times > 1 else (),
    )


def _rounded_biases(layout: Layout) -> tuple[BiasesRounded, ...]:
    """Why biases that take a shift do not order the experts as before, if they do not.

    They are small, and near the shift a float of 16 bits has steps that are large beside them.
    """
    found = {
        layout.checkpoint.tensors[name].dtype
        for name, place in layout.places.items()
        if place.role == "balance_bias"
    }
    return tuple(map(BiasesRounded, sorted(found & {"BF16", "F16"})))


def _magnitude(layout: Layout, growth: Growth) -> tuple[Fraction, dict[str, Any], Notes]:
    """Weights that are not divided by their sum add up to more when more experts are chosen."""
    router, facts = layout.family.router, layout.facts.router
    scale = Fraction(layout.top_k, growth.top_k)
    exponent = facts.exponent
    if exponent not in (None, 1) and scale != 1:
        # m equal weights divided by their p-norm add up to m^(1 - 1/p) (docs/method.md).
        power = float(scale) ** (1 - 1 / exponent)
        scale = Fraction(power).limit_denominator(1 << 20)
        return scale, {}, (OutputsScaled(power, "divided by a norm", exponent),)
    if scale == 1 or facts.scores == "softmax" or facts.is_normalised:
        return ONE, {}, ()
    if router.multiplies == "output" and facts.scaling:
        settings = scaled(facts.scaling, scale)
        (key, value), *_ = settings.items()
        return ONE, settings, (SettingScaled(key, facts.scaling.value, value),)
    because: Because = "on the input" if router.multiplies == "input" else "undivided"
    return scale, {}, (OutputsScaled(scale, because),)


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


def _groups(layout: Layout, growth: Growth) -> tuple[dict[str, Any], Notes]:
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
        keys = groups.count_key, groups.kept_key
        return settings, (GroupsAppended(keys, (count, new_count), (kept, new_kept)),)
    beside = [set(chunk) for chunk in _chunks(growth.experts, int(size * factor))]
    own = [set(range(first, first + size)) for first in range(0, layout.experts, size)]
    if groups.score == "maximum" and factor.denominator == 1 and beside == own:
        return {}, (GroupsWidened(groups.count_key, count),)
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


def _extra(layout: Layout, growth: Growth) -> tuple[int, dict[str, Any], Notes]:
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
    return times, {key: new}, (RowsCopied(key, layout.extra, new),)


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


def _losses(layout: Layout, growth: Growth) -> tuple[Loss, ...]:
    """Why the function is not preserved, if it is not."""
    losses: list[Loss] = []
    copies = Counter(Counter(growth.experts).values())
    if _is_one_of_copies(layout, growth, are_even=len(copies) == 1):
        return ()
    if len(copies) > 1:
        most, least = max(copies), min(copies)
        losses.append(UnevenCopies(copies[most], layout.experts, most, least))
    expected = Fraction(layout.top_k * len(growth.experts), layout.experts)
    if growth.top_k != expected:
        reached = growth.top_k * layout.experts / len(growth.experts)
        losses.append(OtherTopK(growth.top_k, expected, reached, layout.top_k))
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
