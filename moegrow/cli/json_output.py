"""The JSON documents that commands print with --json; docs/json.md describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moegrow.analysis.advice import Advice
from moegrow.analysis.logits import TOLERANCE, Compared
from moegrow.analysis.norm_profile import Profile
from moegrow.analysis.seams import Jump, Planned, Way
from moegrow.families.layout import Layout
from moegrow.planning import model_size
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.notices import notices
from moegrow.planning.plan import Plan
from moegrow.write.engine import Moved
from moegrow.write.verify_result import Verified
from moegrow.write.write_checkpoint import Written

Document = dict[str, Any]


def growth(
    plan: Plan,
    layout: Layout,
    target: Path,
    written: Written | None = None,
    seconds: float | None = None,
    verified: Document | None = None,
    uploaded: str | None = None,
    joined: Planned | None = None,
) -> Document:
    """What a command that grows did, or would do where nothing was written."""
    before, after = model_size.numbers(layout), model_size.grown_numbers(plan, layout)
    told = notices(plan, layout)
    return {
        "path": str(target.absolute()),
        "source": layout.checkpoint.location,
        "family": layout.family.name,
        "before": before.table(),
        "after": after.table(),
        "steps": [step.table() for step in plan.steps],
        "warnings": [notice.text for notice in told if notice.is_warning],
        "notes": [notice.text for notice in told if not notice.is_warning],
        "part": str(written.part) if written and written.part else None,
        "published": bool(written and written.is_published),
        "missing": list(written.missing) if written else None,
        "tensors": len(plan.outputs),
        "files": written.files if written else None,
        "moved": _moved(written.moved) if written else None,
        "noise": _noise(written.moved.realised) if written else None,
        "still": sorted(written.moved.still) if written else None,
        "unchecked": written.moved.unchecked if written else None,
        "seconds": seconds,
        "verified": verified,
        "uploaded": uploaded,
        "seams": None if joined is None else _planned(joined),
    }


def verification(found: Verified, folder: Path, seconds: float) -> Document:
    """What `verify` found."""
    return {
        "path": str(folder.absolute()),
        "ok": found.ok,
        "problems": list(found.problems),
        "tensors": found.tensors,
        "copied": found.copied,
        "drawn": found.drawn,
        "decoded": found.decoded,
        "noise": _noise(found.realised),
        "seconds": seconds,
    }


def norms(profiles: Sequence[Profile], ways: Sequence[Sequence[Way]] | None = None) -> Document:
    """The profiles of sources, layer by layer, and for each the ways to deepen it, if asked."""
    documents = [_profile(profile) for profile in profiles]
    for number, document in enumerate(documents):
        document["seams"] = None if ways is None else [_way(its) for its in ways[number]]
    return {"profiles": documents}


def _way(way: Way) -> Document:
    return {
        "options": way.options,
        "layers": list(way.layers),
        "seams": way.seams,
        "largest": _jumps(way.largest),
        "refused": way.refused or None,
    }


def _planned(joined: Planned) -> Document:
    """The seams of a plan."""
    return {
        "seams": joined.seams,
        "says": joined.says,
        "share": joined.share,
        "largest": None if joined.largest is None else _jumps(joined.largest),
    }


def _jumps(largest: Mapping[str, Jump]) -> Document:
    return {
        group: {
            "new": list(jump.new), "old": list(jump.old),
            "size": jump.size, "usual": jump.usual, "times": jump.times,
        }
        for group, jump in largest.items()
    }  # fmt: skip


def _profile(profile: Profile) -> Document:
    sample = None
    if profile.is_sample:
        sample = {
            "values": profile.values, "of": profile.of,
            "experts": profile.experts, "of_experts": profile.of_experts,
        }  # fmt: skip
    return {
        "source": profile.location,
        "name": profile.name,
        "family": profile.family,
        "layers": profile.layers,
        "predicted": profile.is_predicted,
        "norms": {group: list(norms) for group, norms in profile.norms.items()},
        "nonfinite": dict(profile.nonfinite),
        "sample": sample,
    }


def compared(found: Compared, seconds: float) -> Document:
    """What `verify --logits` found."""
    return {
        "ok": found.ok,
        "reasons": list(map(str, found.reasons)),
        "tolerance": TOLERANCE,
        "tokens": found.tokens,
        "has_head": found.has_head,
        "deviation": found.deviation,
        "largest": found.largest,
        "mean": found.mean,
        "kl": found.kl,
        "agree": found.agree,
        "parts_at": found.parts_at,
        "layers": [
            {"old": layer.old, "new": list(layer.new), "differences": list(layer.differences)}
            for layer in found.layers
        ],
        "together": None
        if found.together is None
        else [{"layer": layer.layer, "share": layer.share} for layer in found.together],
        "images": found.images,
        "no_image": found.no_image or None,
        "alive": list(found.alive),
        "seconds": seconds,
    }


def advice(found: Advice) -> Document:
    """What `advise` says."""
    return asdict(found)


def _moved(moved: Moved) -> Document:
    return {way: getattr(moved, way) for way in ("shared", "copied", "computed", "read")}


def _noise(found: dict[str, NoiseStats]) -> list[Document]:
    """What rounding has left of the noise in each kind of tensor."""
    return [
        {
            "tensors": kind,
            "values": realised.values,
            "unchanged": realised.unchanged,
            "ratio": realised.ratio,
        }
        for kind, realised in sorted(found.items())
    ]
