"""The steps `Depth`, `Width` and `Convert`: every option, defined once."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from moegrow.growth import Rounding
from moegrow.options import Option, check, said

Mode = Literal["interpose", "stack", "expand", "overlap"]
NewLayers = Literal["copy", "identity"]
Order = Literal["append", "interleave"]
RouterCopies = Literal["noise", "copy"]
PresetName = Literal["orthogonal", "upcycling"]
Dtype = Literal["bf16", "fp16", "fp32"]


_SIZED: tuple[Mode, ...] = ("interpose", "stack")
_EDGED: tuple[Mode, ...] = (*_SIZED, "expand")


@dataclass(frozen=True)
class _Step:
    def __post_init__(self) -> None:
        check(self)


# Fields are in the order in which plans note them. A command line gives the first of the types
# that a field joins.
@dataclass(frozen=True, kw_only=True)
class Depth(_Step):
    """A step that repeats layers."""

    grow: ClassVar = "depth"

    mode: Annotated[Mode | None, Option("How layers are repeated.", rule="interpose")] = None
    times: Annotated[
        str | int | None, Option("How many times deeper.", "2x", rule="2x", modes=_SIZED)
    ] = None
    to: Annotated[int | None, Option("The number of layers to reach.", "N", modes=_SIZED)] = None
    keep_first: Annotated[int, Option("Leave the first N once.", "N", modes=_EDGED)] = 0
    keep_last: Annotated[int, Option("Leave the last N once.", "N", modes=_EDGED)] = 0
    group: Annotated[
        int, Option("interpose: repeat groups of G layers in place.", "G", modes=("interpose",))
    ] = 1
    every: Annotated[
        int | None, Option("expand: a new layer after every G.", "G", modes=("expand",))
    ] = None
    drop: Annotated[
        int | None, Option("overlap: layers left out at the seam.", "M", modes=("overlap",))
    ] = None
    layers: Annotated[str | None, Option("A free layer map instead of a mode.", "0,0,1-3")] = None
    new_layers: Annotated[
        NewLayers | None,
        Option(
            "Repeated layers as copies, or beginning as the identity (zero outputs).",
            rule="copy; for expand identity",
        ),
    ] = None

    def spelled_out(self) -> "Depth":
        """The same step with its mode and size, which a later version might choose otherwise."""
        if self.layers is not None:
            return self
        mode = self.mode or "interpose"
        if mode in ("interpose", "stack") and self.times is None and self.to is None:
            return replace(self, mode=mode, times="2x")
        return replace(self, mode=mode)


@dataclass(frozen=True, kw_only=True)
class Width(_Step):
    """A step that copies experts."""

    grow: ClassVar = "width"

    experts: Annotated[
        str | int | None,
        Option("How many times, or how many, experts.", "2x|N", default="2x"),
    ] = None
    noise: Annotated[
        float | int | None,
        Option(
            "Gaussian noise on copies, relative to the sigma of what is copied.", "A",
            rule="0.01", least=0, below=1e6,
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        int | None, Option("The seed of the noise.", "N", default=0, least=0, below=2**63)
    ] = None
    top_k: Annotated[
        str | int | None,
        Option(
            "Experts per token: grow with the experts, keep, or a number.", "scale|keep|N",
            rule="scale", words=("scale", "keep"),
        ),
    ] = None  # fmt: skip
    order: Annotated[
        Order | None, Option("Copies behind the originals or beside each.", rule="append")
    ] = None
    router: Annotated[
        RouterCopies | None, Option("Noise on the copies' router rows, or none.", rule="noise")
    ] = None
    preset: Annotated[
        PresetName | None,
        Option("A published recipe; single flags override it.", default="orthogonal"),
    ] = None
    rounding: Annotated[
        Rounding | None,
        Option(
            "Round copies with noise to nearest, or up or down by a draw: none of it is lost on"
            " average, and quantised experts keep their format.",
            rule="nearest",
        ),
    ] = None
    allow_nonfinite: Annotated[
        bool, Option("Noise around finite values only; NaN and infinity stay as they are.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Convert(_Step):
    """A step that writes weights in another dtype."""

    grow: ClassVar = "convert"

    dtype: Annotated[
        Dtype | None,
        Option("Write all weights so; quantised ones are decoded.", rule="as in the source"),
    ] = None
    experts_dtype: Annotated[
        Dtype | None, Option("Write routed experts so.", rule="as the others")
    ] = None


Step = Depth | Width | Convert
KINDS: dict[str, type[Step]] = {kind.grow: kind for kind in (Depth, Width, Convert)}


def to_table(step: Step) -> dict[str, Any]:
    """A step as recipes and plans hold it.

    >>> to_table(Depth(mode="stack", times="2x"))
    {'grow': 'depth', 'mode': 'stack', 'times': '2x'}
    """
    return {"grow": step.grow, **said(step)}
