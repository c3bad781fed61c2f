"""What a person should know of a plan before its result is trained or served, in one list.

The terminal's summary, the JSON documents and the report show the same notices.
"""

from collections.abc import Iterator
from itertools import chain
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
    checkpoint = layout.checkpoint
    warnings: tuple[tuple[About, Iterator[str]], ...] = (
        ("source", quantconfig.facts(layout)),
        ("serving", serving.warnings(plan, layout)),
        ("serving", servinglayers.warnings(plan, layout)),
        ("source", unfamiliar.class_warnings(plan, layout)),
        ("depth", unfamiliar.key_warnings(plan, layout)),
        ("depth", addressed.warnings(plan, layout)),
        ("width", ways.warnings(plan, layout)),
    )
    facts = chain(
        leftbehind.facts(checkpoint), uncounted.facts(layout), headermetadata.facts(checkpoint)
    )
    return (
        *(Notice("source", text) for text in leftbehind.warnings(checkpoint)),
        *(Notice("source", text, is_warning=False) for text in facts),
        *(Notice(about, text) for about, texts in warnings for text in texts),
    )
