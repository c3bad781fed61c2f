"""Open the source of a growth: a checkpoint, or a plan to grow further."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from moegrow import maps
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.store import ANYONE, Access
from moegrow.errors import MoegrowError, Parameter, UsageError
from moegrow.families.layout import Layout
from moegrow.families.quantisation import KEYS
from moegrow.families.read_layout import read_layout
from moegrow.families.registry import LARGEST_FAMILY
from moegrow.files.untrusted import read_text
from moegrow.model_config.quantization_config import check_claims
from moegrow.planning import build, plan_file
from moegrow.planning.check import check_growth, check_plan, check_result, check_source
from moegrow.planning.check_layers import check_layers
from moegrow.planning.notes import AxisSummary, LinesEdited, recognised
from moegrow.planning.plan import Plan
from moegrow.planning.plan_file import Lines


class Opened(NamedTuple):
    """A plan with the layout of the checkpoint that it reads from."""

    plan: Plan
    layout: Layout


# A checkpoint's folder or file, a plan's file, its lines, a plan, or one whose source is open.
AnySource = str | os.PathLike[str] | Lines | Plan | Opened

EDITED = AxisSummary("hand", (LinesEdited(),))


def plan(
    source: AnySource,
    *,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
) -> Plan:
    """The plan that copies `source` as it is, or the plan in the file `source`.

    `family` is a family file of your own, for a model that moegrow does not know. `revision` and
    `token` are for a repository of the Hub, as everywhere. Raises MoegrowError where the source
    is no checkpoint of a known family, or has changed since the plan was made.
    """
    return load(source, family, Access(token, revision, links_to)).plan


def load(
    source: AnySource, family: str | os.PathLike[str] | None = None, access: Access = ANYONE
) -> Opened:
    """The plan of a source (see `plan`) with the layout of the checkpoint that it reads from.

    A plan whose lines are not what its header says has a step that says so.
    """
    plan, layout = begin(source, family, access)
    return Opened(build.spell_out(plan, layout), layout)


def begin(
    source: AnySource, family: str | os.PathLike[str] | None = None, access: Access = ANYONE
) -> Opened:
    """As `load`, for growing, which makes the outputs anew: a checkpoint's are left out."""
    if isinstance(source, Opened):
        return source
    text = "" if family is None else _family_text(user_path(family))
    if not isinstance(source, Plan | Lines):
        path = user_path(source)
        if not plan_file.is_plan(path):
            layout = read_layout(open_checkpoint(source, access), family_text=text)
            return Opened(build.outline(layout, text), layout)
        source = plan_file.read_lines(path.resolve())
    header = source.header if isinstance(source, Lines) else source
    if text and text != header.family_text:
        raise UsageError(
            "a plan brings its family along, so " + Parameter("family") + " does not go with it"
        )
    if access.revision is not None:
        raise UsageError(
            "a plan names the commit of its source, so "
            + Parameter("revision")
            + " does not go with it"
        )
    checkpoint = open_checkpoint(header.source.location, access)
    check_source(header, checkpoint)
    layout = read_layout(checkpoint, family_text=header.family_text)
    check_growth(header, layout)
    if header.growth.layers != maps.identity(layout.layers):
        check_layers(header, layout, header.growth)
    check_kept(header, layout)
    rendered = build.render(header, layout, header.growth)
    if not isinstance(source, Lines):
        plan = source
    elif source.spell(rendered.outputs):
        plan = replace(header, outputs=rendered.outputs)
    else:
        plan = source.plan()
        check_plan(plan, checkpoint)
        check_result(plan, checkpoint)
    plan = replace(plan, steps=recognised(plan.steps, rendered.steps))
    if rendered != plan and not plan.is_edited:
        plan = replace(plan, steps=(*plan.steps, EDITED))
    return Opened(plan, layout)


def _family_text(path: Path) -> str:
    if not path.is_file():
        raise MoegrowError(
            Parameter("family", str(path)) + " is not a file", "give the path of a family file"
        )
    path = path.resolve()
    return read_text(path.parent, path.name, LARGEST_FAMILY)


def check_kept(plan: Plan, layout: Layout) -> None:
    """Raise MoegrowError where the result's config would keep what is not so of quantisation."""
    if any(f'"{key}"' in plan.config for key in KEYS):
        check_claims(layout)


def check_unedited(old: Plan) -> None:
    """Growing renders a plan anew from its header, so its lines must be what the header says."""
    if old.is_edited:
        raise MoegrowError(
            "the plan's lines are not what its header says: it was edited",
            "grow first and edit the result; moegrow apply writes an edited plan as it stands",
        )
