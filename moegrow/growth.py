"""A growth: the maps of both axes, identity layers, noise and top-k."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from moegrow import maps
from moegrow.maps import NULL, Map

Rounding = Literal["nearest", "stochastic"]


class Noise(NamedTuple):
    """Noise to be drawn: "normal" with σ = `amount` times that of the copied block, "finite" with
    that of its finite values while the others stay as they are, or "uniform" in ±`amount`.

    What has it is rounded to what is stored: to "nearest", or "stochastic", by a draw.
    """

    kind: str
    amount: float
    seed: int
    rounding: str = "nearest"

    @property
    def is_rounded_by_draw(self) -> bool:
        return self.rounding == "stochastic"


@dataclass(frozen=True)
class Growth:
    """Which source layer and which source expert everything new is made from.

    New layer `i` is source layer `layers[i]`, and its output projections are zero where
    `silent[i]`. New expert `j` is source expert `experts[j]`, its matrices with `weight_noise[j]`
    and its router rows with `router_noise[j]`; an expert NULL is none of the source's: it does
    nothing, and stands in for a copy of a router's skip class. Every token goes to `top_k`
    experts.
    """

    layers: Map
    silent: tuple[bool, ...]
    experts: Map
    weight_noise: tuple[Noise | None, ...]
    router_noise: tuple[Noise | None, ...]
    top_k: int

    @classmethod
    def none(cls, *, layers: int, experts: int, top_k: int) -> "Growth":
        """The growth that changes nothing."""
        nothing = (None,) * experts
        return cls(
            maps.identity(layers), (False,) * layers, maps.identity(experts), nothing, nothing,
            top_k,
        )  # fmt: skip

    def deepen(self, layer_map: Map, *, silent: tuple[bool, ...]) -> "Growth":
        """This growth, followed by one that maps layers; `silent` marks new identity layers."""
        return replace(
            self,
            layers=maps.compose(layer_map, self.layers),
            silent=tuple(
                new or self.silent[old] for old, new in zip(layer_map, silent, strict=True)
            ),
        )

    def widen(
        self, expert_map: Map, *, weight_noise: Noise | None, router_noise: Noise | None, top_k: int
    ) -> "Growth":
        """This growth, followed by one that maps experts.

        The first of several copies of an expert stays as it is; the others get the noise, or keep
        the kind of noise that they had, drawn anew for each, where none is given. A copy
        of a copy is drawn around the source's expert like any other, so doubling twice is
        quadrupling.
        """
        copied = maps.repeats(expert_map)

        def noise(old: tuple[Noise | None, ...], new: Noise | None) -> tuple[Noise | None, ...]:
            return tuple(
                None if expert == NULL else (is_copy and new) or old[expert]
                for expert, is_copy in zip(expert_map, copied, strict=True)
            )

        return replace(
            self,
            experts=tuple(
                self.experts[expert] if expert != NULL else NULL for expert in expert_map
            ),
            weight_noise=noise(self.weight_noise, weight_noise),
            router_noise=noise(self.router_noise, router_noise),
            top_k=top_k,
        )
