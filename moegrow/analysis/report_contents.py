"""Collect the contents of a report: plan, source, result and norms."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moegrow.analysis import norm_profile
from moegrow.analysis.norm_profile import Profile
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import Access, scheme
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.families.read_layout import read_layout
from moegrow.files.untrusted import exists_inside
from moegrow.planning.check import check_source
from moegrow.planning.plan import Plan
from moegrow.planning.plan_file import read_plan
from moegrow.write.verify_result import Verified


@dataclass(frozen=True)
class Story:
    """A plan, its source and its result, with their profiles.

    `unread` says why there are no profiles, where there are none. `verified` is None where the
    result was not verified.
    """

    folder: Path
    plan: Plan
    source: Layout
    grown: Layout
    before: Profile | None
    after: Profile | None
    unread: str
    verified: Verified | None


def gather(
    grown: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    sample: bool = False,
    links_to: Sequence[str | os.PathLike[str]] = (),
    verified: Verified | None = None,
) -> Story:
    """What there is to tell of the checkpoint in the folder `grown`.

    The source is where the plan says, or where `source` says, and `links_to` are folders into which
    its links may lead. All weights are read for the norms,
    or with `sample`, and where the source is far away, a little of each layer. Raises MoegrowError
    where `grown` is no folder of moegrow's, or the source is another than the plan's.
    """
    folder = user_path(grown)
    if not exists_inside(folder, PLAN):
        raise MoegrowError(
            f"{folder} holds no {PLAN}", "report takes a folder that moegrow has written"
        )
    plan = read_plan(folder / PLAN)
    place = plan.source.folder
    if source is None and place is not None and not place.exists():
        raise MoegrowError(
            f"report shows the source too, and {plan.source.path} is gone",
            Parameter("source") + " names another place that has it",
        )
    old = open_checkpoint(
        plan.source.location if source is None else source, Access(links_to=links_to)
    )
    check_source(plan, old)
    layout = read_layout(old, family_text=plan.family_text)
    result = read_layout(open_checkpoint(folder), family_text=plan.family_text)
    before = after = None
    unread = ""
    sample = sample or bool(scheme(old.location))
    try:
        before = norm_profile.profile(layout, sample=sample)
        after = norm_profile.profile(result, sample=sample)
    except MoegrowError as error:
        unread = error.message
    return Story(folder.absolute(), plan, layout, result, before, after, unread, verified)
