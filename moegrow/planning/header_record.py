"""Parse the header line of a plan, strictly."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from moegrow.checkpoint.checkpoint import QUANT_FILES
from moegrow.checkpoint.fingerprint import SourceFile
from moegrow.checkpoint.listing import safe
from moegrow.checkpoint.store import MOST_FILES, names_weights, scheme
from moegrow.errors import MoegrowError
from moegrow.growth import Growth, Noise, Rounding
from moegrow.maps import NULL, check_size
from moegrow.planning.notes import read_summary
from moegrow.planning.output_record import (
    WRONG_KINDS,
    Amount,
    Number,
    Record,
    malformed,
)
from moegrow.planning.plan import Plan, Source, Storage
from moegrow.recipes.recipe import MOST_STEPS, read_step
from moegrow.steps import Step

Stored = Literal["", "F32", "F16", "BF16"]


class FileRecord(Record, frozen=True):
    """A weight file of the source."""

    name: str
    size: Number
    digest: str


class SourceRecord(Record, frozen=True):
    """Where the source is, and how to tell that it is the same."""

    path: str
    config_digest: str
    files: list[FileRecord]
    named: str = ""


class RunRecord(Record, frozen=True, array_like=True):
    """Noise of the experts from `first` to before `stop`, as a list of these values."""

    first: Number
    stop: Number
    kind: Literal["normal", "finite", "uniform"]
    amount: Amount
    seed: Number
    rounding: Rounding = "nearest"


class GrowthRecord(Record, frozen=True):
    """The maps of both axes, and the noise in runs of experts."""

    layers: tuple[Number, ...]
    silent: list[Number]
    experts: tuple[Annotated[int, Meta(ge=NULL, le=2**63 - 1)], ...]
    weight_noise: list[RunRecord]
    router_noise: list[RunRecord]
    top_k: Number


class StorageRecord(Record, frozen=True):
    """In which dtypes weights are written."""

    dtype: Stored = ""
    experts: Stored = ""


class HeaderRecord(Record, frozen=True):
    """The first line of a plan; docs/plan-format.md explains its keys."""

    moegrow_plan: int
    source: SourceRecord
    family: str
    growth: GrowthRecord
    steps: list[dict[str, Any]]
    commands: tuple[str, ...]
    config: str
    outputs: Any = None
    family_text: str = ""
    recipe: list[Any] | UnsetType = UNSET
    files: dict[str, str | None] = msgspec.field(default_factory=dict)
    storage: StorageRecord = StorageRecord()
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


def header_of(table: dict[str, Any]) -> tuple[Plan, Any]:
    """The plan that the table of a header line is of, without outputs, and the number of these
    that it promises.

    Raises MoegrowError where a key is missing or not known, or a value of the wrong kind.
    """
    try:
        record = msgspec.convert(table, HeaderRecord)
        plan = Plan(
            source=_source(record.source),
            family=record.family,
            growth=_growth(record.growth),
            steps=tuple(read_summary(_step(step)) for step in record.steps),
            config=record.config,
            outputs=(),
            commands=record.commands,
            family_text=record.family_text,
            files=_files(record.files),
            storage=Storage(record.storage.dtype, record.storage.experts),
            recipe=_recipe(record),
            metadata=_metadata(record.metadata),
        )
    except WRONG_KINDS as error:
        raise malformed(1, error) from None
    return plan, record.outputs


def _growth(record: GrowthRecord) -> Growth:
    layers, experts = record.layers, record.experts
    check_size(len(layers), "layers")
    check_size(len(experts), "experts")
    silent = set(record.silent)
    return Growth(
        layers=layers,
        silent=tuple(layer in silent for layer in range(len(layers))),
        experts=experts,
        weight_noise=_noises(record.weight_noise, len(experts)),
        router_noise=_noises(record.router_noise, len(experts)),
        top_k=record.top_k,
    )


def _noises(runs: list[RunRecord], count: int) -> tuple[Noise | None, ...]:
    noises: list[Noise | None] = [None] * count
    end = 0
    for run in runs:
        if not end <= run.first <= run.stop:
            raise ValueError("runs of noise overlap or run backwards")
        noise, end = Noise(run.kind, run.amount, run.seed, run.rounding), run.stop
        noises[run.first : min(end, count)] = [noise] * (min(end, count) - run.first)
    return tuple(noises)


def _source(record: SourceRecord) -> Source:
    files = tuple(
        SourceFile(_file_name(file.name), file.size, file.digest)
        for file in record.files[:MOST_FILES]
    )
    path, named = record.path, record.named
    if not scheme(path) and not Path(path).is_absolute():
        raise ValueError(f"the path of the source, {path!r}, is not absolute")
    if named and not (names_weights(named) and _is_inside(named)):
        raise ValueError(f"{named!r} is not the name of a weight file or of an index")
    return Source(path, record.config_digest, files, named)


def _file_name(name: str) -> str:
    """The name of a file in the source's folder; any other could lead out of it."""
    if not name.endswith(".safetensors") or not _is_inside(name):
        raise ValueError(f"{name!r} is not the name of a weight file")
    return name


def _is_inside(name: str) -> bool:
    try:
        return safe(name) == name
    except MoegrowError:
        return False


def _files(table: dict[str, str | None]) -> tuple[tuple[str, str | None], ...]:
    """Texts of files beside the config; only those that speak of quantisation can be others."""
    for name in table:
        if name not in QUANT_FILES:
            raise ValueError(f"{name!r} is no file that a plan can change")
    return tuple(table.items())


def _metadata(table: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Texts for the headers of weight files; their format is moegrow's to say."""
    if "format" in table:
        raise ValueError("the metadata cannot say the format")
    found = tuple(sorted(table.items()))
    for text in (text for pair in found for text in pair):
        text.encode()  # an escape for half a character is no text, and raises a ValueError
    return found


def _step(table: dict[str, Any]) -> dict[str, Any]:
    """A step, with what other files rely on in it."""
    step = table | {"says": msgspec.convert(table["says"], list[str])}
    counted = {"depth": ["layers"], "width": ["experts", "top_k"]}
    for key in counted.get(msgspec.convert(step["axis"], str), []):
        before, after = msgspec.convert(step[key], tuple[Number, Number])
        step[key] = [before, after]
        if not before:
            raise ValueError(f"{key} {before} makes no sense")
    return step


def _recipe(record: HeaderRecord) -> tuple[Step, ...] | None:
    """The steps that a plan notes; None where an older moegrow noted none of those it took."""
    steps = record.recipe
    if isinstance(steps, UnsetType):
        return None if record.steps else ()
    if len(steps) > MOST_STEPS:
        raise ValueError("the recipe makes no sense")
    return tuple(read_step(step, "the recipe in line 1 of the plan") for step in steps)
