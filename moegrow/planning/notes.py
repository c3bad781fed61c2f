"""Notes on each axis of a growth as typed values, and their text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from moegrow import maps
from moegrow.growth import Noise
from moegrow.maps import Map
from moegrow.planning.router_notes import CompensationNote, Loss


@dataclass(frozen=True)
class Quoted:
    """A sentence of a plan's header that this version would not write."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class LayersMade:
    """Source layers by new layer, of a source with `old` layers."""

    layers: Map
    old: int

    def __str__(self) -> str:
        return f"new layers from old: {spell(self.layers, self.old)}"


@dataclass(frozen=True)
class IdentityLayers:
    """Layers whose output projections are zero."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} of them begin as the identity: their output projections are zero"


@dataclass(frozen=True)
class LayersLeftOut:
    """Source layers without any copy."""

    layers: Map

    def __str__(self) -> str:
        return f"left out: layers {','.join(map(str, self.layers))}"


@dataclass(frozen=True)
class KeptOnce:
    """Tensors of a layer that only its first copy keeps."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"only the first copy of a layer keeps {' and '.join(self.names)}"


@dataclass(frozen=True)
class IndexersShared:
    """Copies that use the indexer of their original."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} copies share the indexer of their original and have none of their own"


@dataclass(frozen=True)
class PredictionMoved:
    """Layers for prediction, from a new number on."""

    to: int

    def __str__(self) -> str:
        return f"multi-token prediction moved behind the last layer, to {self.to}"


DepthNote = (
    LayersMade | IdentityLayers | LayersLeftOut | KeptOnce | IndexersShared | PredictionMoved
)


@dataclass(frozen=True)
class NoiseAdded:
    """Noise on copies of experts: on their weights, on rows of the router, or on its biases."""

    on: Literal["weights", "rows", "biases"]
    noises: tuple[Noise, ...]

    def __str__(self) -> str:
        where = "" if self.on == "weights" else f"router {self.on} of "
        return f"{where}copied experts: {' and '.join(map(_noise, self.noises))}"


@dataclass(frozen=True)
class FunctionPreserved:
    """The model computes the same, or would without the noise."""

    is_noisy: bool

    def __str__(self) -> str:
        return "the function is preserved" + (", but for the noise" if self.is_noisy else "")


@dataclass(frozen=True)
class FunctionLost:
    """A reason for which the model computes something else."""

    loss: Loss

    def __str__(self) -> str:
        return f"the function is not preserved: {self.loss}"


WidthNote = NoiseAdded | CompensationNote | FunctionPreserved | FunctionLost


@dataclass(frozen=True)
class Stored:
    """Weights of one format or dtype that are decoded, rounded, or kept as they are finer."""

    how: Literal["decoded", "rounded", "kept"]
    count: int
    old: str
    new: str

    def __str__(self) -> str:
        match self.how:
            case "decoded":
                return f"{self.count} weights in {self.old} are decoded and written as {self.new}"
            case "rounded":
                return f"{self.count} tensors of {self.old} are written as {self.new}"
            case "kept":
                why = "they are finer than the others for a reason"
                return f"{self.count} tensors stay {self.old}: {why}"


@dataclass(frozen=True)
class ScalesLeftOut:
    """Scales of activations that belong to no weight any more."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} scales of activations are left out: no weight has any more"


@dataclass(frozen=True)
class LinesEdited:
    """Lines of a plan that are not what its header makes."""

    def __str__(self) -> str:
        return "the plan was edited: its lines alone say what is written"


StorageNote = Stored | ScalesLeftOut
Note = DepthNote | WidthNote | StorageNote | LinesEdited | Quoted


@dataclass(frozen=True, eq=False)
class AxisSummary:
    """Numbers before and after along one axis, and notes on what was done.

    `as_read` is the table that it was read from in the header of a plan, or None. Summaries are
    equal where a header has the same of them, whether they were read or made.
    """

    axis: str
    notes: tuple[Note, ...]
    layers: tuple[int, int] | None = None
    experts: tuple[int, int] | None = None
    top_k: tuple[int, int] | None = None
    preserves_function: bool | None = None
    as_read: Mapping[str, Any] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxisSummary) and self.table() == other.table()

    def __hash__(self) -> int:
        return hash((self.axis, self.layers, self.experts, self.top_k))

    @property
    def numbers(self) -> Mapping[str, tuple[int, int]]:
        """What was counted, before and after."""
        counted = {"layers": self.layers, "experts": self.experts, "top_k": self.top_k}
        return {key: value for key, value in counted.items() if value}

    @property
    def compensations(self) -> tuple[CompensationNote, ...]:
        """The notes on what keeps the function."""
        return tuple(note for note in self.notes if isinstance(note, CompensationNote))

    def table(self) -> Mapping[str, Any]:
        """The summary as the header of a plan and the JSON documents have it."""
        if self.as_read is not None:
            return self.as_read
        width: Mapping[str, Any] = {}
        if self.preserves_function is not None:
            width = {
                "preserves_function": self.preserves_function,
                "compensated": list(map(str, self.compensations)),
            }
        numbers = {key: list(value) for key, value in self.numbers.items()}
        return {"axis": self.axis, **numbers, **width, "says": list(map(str, self.notes))}


def read_summary(table: Mapping[str, Any]) -> AxisSummary:
    """The summary of an axis in the header of a plan; its sentences are quoted."""
    notes = tuple(map(Quoted, table["says"]))
    match table["axis"]:
        case "depth":
            before, after = table["layers"]
            return AxisSummary("depth", notes, layers=(before, after), as_read=table)
        case "width":
            (before, after), (old, new) = table["experts"], table["top_k"]
            numbers = (before, after), (old, new)
            return AxisSummary("width", notes, None, *numbers, as_read=table)
        case axis:
            return AxisSummary(axis, notes, as_read=table)


def recognised(
    read: tuple[AxisSummary, ...], made: tuple[AxisSummary, ...]
) -> tuple[AxisSummary, ...]:
    """Summaries that were read, each as the one made anew that has the same text, if any has."""
    return tuple(next((own for own in made if own == one), one) for one in read)


def _noise(noise: Noise) -> str:
    drawn = ", rounded up or down by a draw" if noise.is_rounded_by_draw else ""
    return _kind(noise) + drawn


def _kind(noise: Noise) -> str:
    if noise.kind == "normal":
        return f"normal noise of {noise.amount:g} sigma, seed {noise.seed}"
    if noise.kind == "finite":
        return (
            f"normal noise of {noise.amount:g} sigma, seed {noise.seed}, around finite values;"
            " NaN and infinity stay as they are"
        )
    return f"uniform noise within {noise.amount:g}, seed {noise.seed}"


def spell(numbers: Map, layers: int) -> str:
    """A map of `layers` layers for people: by its name, or as the list that `layers` reads.

    >>> spell((0, 0, 1, 1), 2)
    'every layer 2 times in place'
    >>> spell((0, 1, 0, 1), 2)
    'the whole block 2 times'
    >>> spell((0, 1, 0, 1, 2, 3, 2, 3), 4)
    'every group of 2 layers 2 times in place'
    >>> spell((0, 0, 1, 2, 3, 3), 4)
    '0,0-3,3'
    """
    total = len(numbers)
    if total % layers == 0 and numbers == maps.interpose(layers, to=total):
        return f"every layer {total // layers} times in place"
    if total % layers == 0 and numbers == maps.stack(layers, to=total):
        return f"the whole block {total // layers} times"
    for size in range(2, layers):
        whole = total % layers == layers % size == 0
        if whole and numbers == maps.interpose(layers, to=total, group=size):
            return f"every group of {size} layers {total // layers} times in place"
    return maps.spell(numbers)
