"""Compute expert count, expert map, top-k and noise of a width step from its preset."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from moegrow import maps
from moegrow.errors import Parameter, UsageError, choose
from moegrow.families.layout import Layout
from moegrow.growth import Noise
from moegrow.maps import Map
from moegrow.planning.router import group_size
from moegrow.steps import Order, PresetName, RouterCopies, Width


@dataclass(frozen=True)
class Preset:
    """What options of width are where they are not given; only presets jitter router rows."""

    noise: float
    top_k: str | int
    router: RouterCopies | Literal["uniform"]
    order: Order = "append"


PRESETS: Mapping[PresetName, Preset] = {
    # arXiv 2510.08008, Eq. 4
    "orthogonal": Preset(noise=0.01, top_k="scale", router="noise"),
    # arXiv 2604.19835: exact copies, k unchanged, a uniform bias of 1e-3 on the copies' routing
    "upcycling": Preset(noise=0.0, top_k="keep", router="uniform"),
}
UPCYCLING_BIAS = 1e-3


def chosen(step: Width) -> Preset:
    """The options that a step gives over those of its preset."""
    preset = PRESETS[step.preset or "orthogonal"]
    return Preset(
        noise=preset.noise if step.noise is None else step.noise,
        top_k=preset.top_k if step.top_k is None else step.top_k,
        router=step.router or preset.router,
        order=step.order or preset.order,
    )


def expert_map(layout: Layout, count: int, wanted: int, order: Order) -> Map:
    """The map from `count` experts to those wanted, in the way that the family's router takes."""
    kind = layout.family.router.kind
    if kind == "grid":
        return maps.grid(count, to=wanted, order=order)
    if kind == "skip":
        return maps.with_skip(count, to=wanted)
    return maps.copies(count, to=wanted, order=order, group=group_size(layout))


def expert_count(text: str, count: int, kind: str) -> int:
    """How many experts "2x" or "12" asks for, where there are `count`."""
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        wanted = Fraction(int(text))
    else:
        # A class that skips is copied with the experts and turns into experts, but for one.
        skip = int(kind == "skip")
        wanted = maps.factor(text, "experts") * (count + skip) - skip
    asked = Parameter("experts", text)
    if wanted.denominator != 1:
        raise UsageError(
            asked + f" of {count} experts is not a whole number",
            "use " + Parameter("experts", round(wanted)),
        )
    if wanted < count:
        raise UsageError(
            asked + f" is fewer than the {count} experts there are",
            "use " + Parameter("experts", "2x") + f" for {2 * count}",
        )
    return int(wanted)


def top_k(text: str | int, top_k: int, experts: int, old_experts: int) -> int:
    """The new top-k; growing in step with the experts, it is rounded where it must be."""
    if text == "keep":
        return top_k
    if text == "scale":
        return max(1, round(Fraction(top_k * experts, old_experts)))
    asked = Parameter("top_k", text)
    if not re.fullmatch(r"[0-9]{1,9}", str(text)):
        raise UsageError(
            asked + " is not known",
            choose(text, ("scale", "keep"), "use scale, keep or a number"),
        )
    if not 1 <= int(text) <= experts:
        raise UsageError(
            asked + f" does not fit {experts} experts", f"use a number from 1 to {experts}"
        )
    return int(text)


def router_noise(router: str, noise: Noise) -> Noise | None:
    """The noise on the copies' router rows: as on experts, upcycling's jitter, or none."""
    if router == "uniform":
        return noise._replace(kind="uniform", amount=UPCYCLING_BIAS)
    return noise if router == "noise" and noise.amount else None
