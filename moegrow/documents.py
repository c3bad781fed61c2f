"""The JSON documents that commands print with --json; docs/json.md describes them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moegrow import report, serving
from moegrow.layout import Layout
from moegrow.plans import Plan
from moegrow.realised import Realised
from moegrow.verifier import Verified
from moegrow.writer import Written

Document = dict[str, Any]


def growth(
    plan: Plan,
    layout: Layout,
    target: Path,
    written: Written | None = None,
    seconds: float | None = None,
    noise: Iterable[Realised] = (),
    verified: Document | None = None,
) -> Document:
    """What a command that grows did, or would do where nothing was written."""
    before, after = report.numbers(layout), report.grown_numbers(plan, layout)
    return {
        "path": str(target.absolute()),
        "source": str(layout.checkpoint.folder),
        "family": layout.family.name,
        "before": before.table(),
        "after": after.table(),
        "steps": list(plan.steps),
        "warnings": list(serving.warnings(before, after)),
        "tensors": len(plan.outputs),
        "files": written.files if written else None,
        "moved": dict(written.moved.__dict__) if written else None,
        "seconds": seconds,
        "noise": [found.table() for found in noise],
        "verified": verified,
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
        "seconds": seconds,
    }
