"""The JSON documents that commands print with --json (docs/json.md)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from moegrow.analysis.logits import TOLERANCE, Compared
from moegrow.analysis.norm_profile import Profile
from moegrow.analysis.seams import DepthWay, Jump, Planned
from moegrow.families.layout import Layout
from moegrow.planning import model_size
from moegrow.planning.model_size import ModelSize
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.notices import notices
from moegrow.planning.plan import Plan
from moegrow.write.engine import Moved
from moegrow.write.verify_result import Verified
from moegrow.write.write_checkpoint import Written


class Bytes(Struct, frozen=True):
    """By which way the bytes of a result came, and how many were read for it."""

    shared: int
    copied: int
    computed: int
    read: int


class NoiseLeft(Struct, frozen=True):
    """The noise that rounding has left in one kind of tensor."""

    tensors: str
    values: int
    unchanged: int
    ratio: float


class NormJump(Struct, frozen=True):
    """The largest difference of norms at a seam."""

    new: tuple[int, int]
    old: tuple[int, int]
    size: float
    usual: float
    times: float | None


class Seams(Struct, frozen=True):
    """The seams of a plan."""

    seams: int
    says: str
    share: float
    largest: dict[str, NormJump] | None


class PartingDocument(Struct, frozen=True):
    """How far the states behind the layers made from an old one are from its own."""

    old: int
    new: Sequence[int]
    differences: Sequence[float]


class ChosenTogether(Struct, frozen=True):
    """How often copies are chosen with their originals in one layer."""

    layer: int
    share: float


class LogitsDocument(Struct, frozen=True):
    """The document of `verify --logits`."""

    ok: bool
    reasons: Sequence[str]
    tolerance: float
    tokens: int
    has_head: bool
    deviation: float
    largest: float
    mean: float
    kl: float | None
    agree: float | None
    parts_at: int | None
    layers: list[PartingDocument]
    together: list[ChosenTogether] | None
    images: int
    no_image: str | None
    alive: Sequence[int]
    seconds: float


class Verification(Struct, frozen=True):
    """The document of `verify`; `logits` are there where they were compared."""

    path: str
    ok: bool
    problems: Sequence[str]
    tensors: int
    copied: int
    drawn: int
    decoded: int
    noise: list[NoiseLeft]
    seconds: float
    logits: LogitsDocument | UnsetType = UNSET


class GrowthDocument(Struct, frozen=True):
    """The document of a command that grows; the middle part is None where nothing was written."""

    path: str
    source: str
    family: str
    before: ModelSize
    after: ModelSize
    steps: list[Mapping[str, Any]]
    warnings: list[str]
    notes: list[str]
    part: str | None
    published: bool
    missing: Sequence[int] | None
    tensors: int
    files: int | None
    moved: Bytes | None
    noise: list[NoiseLeft] | None
    still: list[str] | None
    unchecked: list[str] | None
    seconds: float | None
    verified: Verification | None
    uploaded: str | None
    seams: Seams | None


class Sample(Struct, frozen=True):
    """How much of a checkpoint was read for its norms."""

    values: int
    of: int
    experts: int
    of_experts: int


class Deepening(Struct, frozen=True):
    """One way to deepen a checkpoint, and the jumps of norms that it makes."""

    options: str
    layers: Sequence[int]
    seams: int
    largest: dict[str, NormJump]
    refused: str | None


class NormProfile(Struct, frozen=True):
    """The norms of one source, layer by layer."""

    source: str
    name: str
    family: str
    layers: int
    predicted: bool
    norms: dict[str, Sequence[float | None]]
    nonfinite: dict[str, int]
    sample: Sample | None
    seams: list[Deepening] | None


class NormProfiles(Struct, frozen=True):
    """The document of `norms`."""

    profiles: list[NormProfile]


def growth(
    plan: Plan,
    layout: Layout,
    target: Path,
    written: Written | None = None,
    seconds: float | None = None,
    verified: Verification | None = None,
    uploaded: str | None = None,
    joined: Planned | None = None,
) -> GrowthDocument:
    """The document of a command that grows, or would grow where nothing was written."""
    said = notices(plan, layout)
    return GrowthDocument(
        path=str(target.absolute()),
        source=layout.checkpoint.location,
        family=layout.family.name,
        before=model_size.numbers(layout),
        after=model_size.grown_numbers(plan, layout),
        steps=[step.table() for step in plan.steps],
        warnings=[notice.text for notice in said if notice.is_warning],
        notes=[notice.text for notice in said if not notice.is_warning],
        part=str(written.part) if written and written.part else None,
        published=bool(written and written.is_published),
        missing=written.missing if written else None,
        tensors=len(plan.outputs),
        files=written.files if written else None,
        moved=_moved(written.moved) if written else None,
        noise=_noise(written.moved.realised) if written else None,
        still=sorted(written.moved.still) if written else None,
        unchecked=written.moved.unchecked if written else None,
        seconds=seconds,
        verified=verified,
        uploaded=uploaded,
        seams=_planned(joined) if joined else None,
    )


def verification(found: Verified, folder: Path, seconds: float) -> Verification:
    """The document of `verify`."""
    return Verification(
        path=str(folder.absolute()),
        ok=found.ok,
        problems=list(map(str, found.problems)),
        tensors=found.tensors,
        copied=found.copied,
        drawn=found.drawn,
        decoded=found.decoded,
        noise=_noise(found.realised),
        seconds=seconds,
    )


def compared(found: Compared, seconds: float) -> LogitsDocument:
    """The document of `verify --logits`."""
    together = None
    if found.together is not None:
        together = [ChosenTogether(layer.layer, layer.share) for layer in found.together]
    return LogitsDocument(
        ok=found.ok,
        reasons=list(map(str, found.reasons)),
        tolerance=TOLERANCE,
        tokens=found.tokens,
        has_head=found.has_head,
        deviation=found.deviation,
        largest=found.largest,
        mean=found.mean,
        kl=found.kl,
        agree=found.agree,
        parts_at=found.parts_at,
        layers=[PartingDocument(layer.old, layer.new, layer.differences) for layer in found.layers],
        together=together,
        images=found.images,
        no_image=found.no_image or None,
        alive=found.alive,
        seconds=seconds,
    )


def norms(
    profiles: Sequence[Profile], ways: Sequence[Sequence[DepthWay]] | None = None
) -> NormProfiles:
    """The document of `norms`: the profile of each source, and the ways to deepen it, if asked."""
    each: Sequence[Sequence[DepthWay] | None] = ways or [None] * len(profiles)
    return NormProfiles([_profile(*both) for both in zip(profiles, each, strict=True)])


def _profile(profile: Profile, ways: Sequence[DepthWay] | None) -> NormProfile:
    sample = Sample(profile.values, profile.of, profile.experts, profile.of_experts)
    return NormProfile(
        source=profile.location,
        name=profile.name,
        family=profile.family,
        layers=profile.layers,
        predicted=profile.is_predicted,
        norms=dict(profile.norms),
        nonfinite=dict(profile.nonfinite),
        sample=sample if profile.is_sample else None,
        seams=None if ways is None else [_way(way) for way in ways],
    )


def _way(way: DepthWay) -> Deepening:
    return Deepening(way.options, way.layers, way.seams, _jumps(way.largest), way.refused or None)


def _planned(joined: Planned) -> Seams:
    largest = None if joined.largest is None else _jumps(joined.largest)
    return Seams(joined.seams, joined.says, joined.share, largest)


def _jumps(largest: Mapping[str, Jump]) -> dict[str, NormJump]:
    return {
        group: NormJump(jump.new, jump.old, jump.size, jump.usual, jump.times)
        for group, jump in largest.items()
    }


def _moved(moved: Moved) -> Bytes:
    return Bytes(moved.shared, moved.copied, moved.computed, moved.read)


def _noise(found: Mapping[str, NoiseStats]) -> list[NoiseLeft]:
    """The noise that rounding has left in each kind of tensor."""
    return [
        NoiseLeft(kind, stats.values, stats.unchanged, stats.ratio)
        for kind, stats in sorted(found.items())
    ]
