"""What a person should know of a plan before its result is trained or served, in one list.

The terminal's summary, the JSON documents and the report show the same notices.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from moegrow.config import quantconfig
from moegrow.families.structure import Layout
from moegrow.planning import (
    addressed,
    headermetadata,
    leftbehind,
    serving,
    servinglayers,
    uncounted,
    unfamiliar,
    ways,
)
from moegrow.plans import Plan

About = Literal["source", "depth", "width", "serving"]


class Notice(NamedTuple):
    """One sentence about a plan, and what it is about.

    A warning may be ignored only by someone who knows why; any other notice is a fact of which
    nothing follows.
    """

    about: About
    text: str
    is_warning: bool = True

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


def notices(plan: Plan, layout: Layout) -> tuple[Notice, ...]:
    """All notices of a plan, in the order in which they are shown."""
    return tuple(_notices(plan, layout))


def _notices(plan: Plan, layout: Layout) -> Iterator[Notice]:
    for text in leftbehind.warnings(layout.checkpoint):
        yield Notice("source", text)
    for text in leftbehind.facts(layout.checkpoint):
        yield Notice("source", text, is_warning=False)
    for text in uncounted.facts(layout):
        yield Notice("source", text, is_warning=False)
    for text in headermetadata.facts(layout.checkpoint):
        yield Notice("source", text, is_warning=False)
    for text in quantconfig.facts(layout):
        yield Notice("source", text)
    for text in serving.warnings(plan, layout):
        yield Notice("serving", text)
    for text in servinglayers.warnings(plan, layout):
        yield Notice("serving", text)
    for text in unfamiliar.class_warnings(plan, layout):
        yield Notice("source", text)
    for text in unfamiliar.key_warnings(plan, layout):
        yield Notice("depth", text)
    for text in addressed.warnings(plan, layout):
        yield Notice("depth", text)
    for text in ways.warnings(plan, layout):
        yield Notice("width", text)
