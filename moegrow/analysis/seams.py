"""Measure how far norms jump where layers meet that were not neighbours before."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from shlex import quote
from statistics import median
from typing import NamedTuple

from moegrow.analysis import norm_profile
from moegrow.analysis.norm_profile import Norms, Profile
from moegrow.checkpoint.store import scheme
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.maps import Map
from moegrow.options import typed
from moegrow.planning import grow
from moegrow.planning.open_source import Opened
from moegrow.planning.plan import Plan
from moegrow.steps import Depth


class Jump(NamedTuple):
    """The difference of norms at a seam.

    It is between the new layers `new`, which are made from the old ones `old`. `usual` is the
    usual step in the source: the median of the differences between neighbours that differ.
    """

    new: tuple[int, int]
    old: tuple[int, int]
    size: float
    usual: float

    @property
    def times(self) -> float | None:
        """How many usual steps it is; None where neighbours do not usually differ."""
        return self.size / self.usual if self.usual else None


@dataclass(frozen=True)
class DepthWay:
    """One way to deepen a model: its options, its layer map, and the largest jump of each group.

    `seams` is the number of places where layers meet that did not in the source. A way that the
    model refuses has the reason under `refused`, and no map.
    """

    options: str
    layers: Map
    seams: int
    largest: Mapping[str, Jump]
    refused: str = ""


def jumps(norms: Norms, layer_map: Map) -> Iterator[Jump]:
    """The jump at every seam, in the order of the new layers.

    Layers without a norm are passed over: the next that has one counts as the neighbour.

    >>> [(jump.new, jump.old, jump.times) for jump in jumps((1.0, 2.0, 3.0), (0, 1, 2, 0, 1, 2))]
    [((2, 3), (2, 0), 2.0)]
    """
    known = [old for old, norm in enumerate(norms) if norm is not None]
    usual = usual_step(norms)
    following = dict(pairwise(known))
    new = [place for place, old in enumerate(layer_map) if norms[old] is not None]
    for one, other in pairwise(new):
        old = layer_map[one], layer_map[other]
        first, second = norms[old[0]], norms[old[1]]
        if following.get(old[0]) != old[1] and first is not None and second is not None:
            yield Jump((one, other), old, abs(second - first), usual)


def usual_step(norms: Norms) -> float:
    """The median of the differences between neighbours, 0 where there are none.

    Neighbours that are equal are passed over: in a model that was grown, they are copies.

    >>> usual_step((1.0, 1.0, 2.0, 2.0, None, 4.0, 4.0))
    1.5
    """
    steps = [abs(b - a) for a, b in pairwise(norm for norm in norms if norm is not None) if a != b]
    return median(steps) if steps else 0.0


def way(profile: Profile, layer_map: Map, options: str) -> DepthWay:
    """What a layer map does to a source with this profile."""
    found = {group: list(jumps(norms, layer_map)) for group, norms in profile.norms.items()}
    return DepthWay(
        options,
        layer_map,
        seams=sum(new != old + 1 for old, new in pairwise(layer_map)),
        largest={
            group: max(its, key=lambda jump: jump.size) for group, its in found.items() if its
        },
    )


def ways(opened: Opened, profile: Profile) -> list[DepthWay]:
    """What there is to compare: a plan's own layers, or the modes side by side for a source.

    `profile` is that of the checkpoint. Each mode has the options that are common for it, or where
    the config cannot say what they make, the first like them with which it can.
    """
    if opened.plan.growth.layers != tuple(range(opened.layout.layers)):
        return [way(profile, opened.plan.growth.layers, "as planned")]
    found = []
    for alike in (*deep_options(opened.layout), *_others(opened.layout.layers)):
        options, plan, refused = first_taken(opened, alike)
        text = typed(options)
        if plan is None:
            found.append(DepthWay(text, (), 0, {}, refused.message if refused else ""))
        else:
            found.append(way(profile, plan.growth.layers, text))
    return found


Taken = tuple[Depth, Plan | None, MoegrowError | None]


def first_taken(opened: Opened, alike: Iterable[Depth]) -> Taken:
    """The first of some options of depth that the model takes, with its plan.

    Where it takes none, the first options and no plan. Last, why the first are refused, if so.
    """
    first: tuple[Depth, MoegrowError] | None = None
    for options in alike:
        try:
            plan = grow.grown(opened, options.spelled_out()).plan
        except MoegrowError as error:
            first = first or (options, error)
        else:
            return options, plan, first[1] if first else None
    if first is None:
        raise ValueError("no options were given")
    return first[0], None, first[1]


def deep_options(layout: Layout) -> tuple[list[Depth], list[Depth]]:
    """The options that interpose, and those that stack, the plain ones first.

    What follows is for configs that can only say how many layers come first, or that layers of a
    kind stand at regular distances.
    """
    in_groups = [size for size in range(2, layout.layers) if not layout.layers % size]
    first = min(layout.moe_layers, default=0)
    return (
        [Depth(mode="interpose", group=size) for size in (1, *in_groups)],
        [Depth(mode="stack", keep_first=kept) for kept in sorted({0, first})],
    )


def _others(layers: int) -> Iterator[list[Depth]]:
    """The other modes, with the options of the methods that they come from."""
    yield [Depth(mode="expand", every=min(4, layers))]
    # SOLAR dropped 8 of 32.
    yield [Depth(mode="overlap", drop=max(1, layers // 4))]


def mapped(profile: Profile, layer_map: Map, name: str) -> Profile:
    """The profile of a model whose layers are copies by a map, before any begins as identity."""
    norms = {group: tuple(its[old] for old in layer_map) for group, its in profile.norms.items()}
    return replace(profile, name=name, layers=len(layer_map), norms=norms, is_predicted=True)


def drawn(old: Sequence[Profile], found: Sequence[Sequence[DepthWay]]) -> list[Profile]:
    """Every source, followed by what becomes of it in each way, for one picture."""
    return [
        profile
        for source, its in zip(old, found, strict=True)
        for profile in (
            source,
            *(
                mapped(
                    source,
                    way.layers,
                    f"{source.name} {way.options}" if len(old) > 1 else way.options,
                )
                for way in its
                if not way.refused
            ),
        )
    ]


@dataclass(frozen=True)
class Planned:
    """The seams of a plan: how many, what a person is told of them, and the largest jumps.

    `largest` is by group, without an entry where neighbours are copies of each other, so that
    nothing jumps; None where it is not known. It is from a `share` of the weights.
    """

    seams: int
    says: str
    largest: Mapping[str, Jump] | None
    share: float = 0.0


def planned(plan: Plan, layout: Layout) -> Planned:
    """How far norms jump at the seams of a plan, from a sample of the source's weights.

    Nothing is read of a source that is far away: then it says what to type.
    """
    layer_map = plan.growth.layers
    met = [(old, new) for old, new in pairwise(layer_map) if new != old + 1]
    if all(old == new for old, new in met):
        says = "no jump: layers that were not neighbours in the source are copies of each other"
        return Planned(len(met), f"seams: {says}" if met else "", {})
    where = layout.checkpoint.location
    if scheme(where):
        says = f"not looked at so far away; moegrow norms --seams --sample {quote(where)} does"
        return Planned(len(met), f"seams: {says}", None)
    try:
        profile = norm_profile.profile(layout, sample=True)
    except MoegrowError as error:
        return Planned(len(met), f"seams: not known; {error.message}", None)
    found = way(profile, layer_map, "").largest
    group = next(iter(profile.norms), "")
    jump = found.get(group)
    if jump is None or jump.times is None:
        says = "not known; the norms of neighbours do not usually differ"
    else:
        says = (
            f"the largest jump is {jump.times:.1f} × the usual step between neighbours"
            f" ({told(jump)}; norms of {group}, {profile.share} of the weights read)"
        )
    return Planned(len(met), f"seams: {says}", found, profile.values / max(profile.of, 1))


def told(jump: Jump) -> str:
    """Between which layers a jump is, in words.

    >>> told(Jump((3, 4), (3, 0), 0.5, 0.1))
    'layers 3 and 4, from 3 and 0'
    """
    return "layers {} and {}, from {} and {}".format(*jump.new, *jump.old)
