"""What a person should know of a plan before its result is trained or served, in one list.

The terminal's summary, the JSON documents and the report show the same notices.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Literal, NamedTuple

from moegrow.families.layout import Layout
from moegrow.planning import (
    addressed_layers,
    header_metadata,
    left_behind,
    quantised_noise,
    serving,
    serving_layers,
    unfamiliar,
)
from moegrow.planning.plan import Plan

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
        ("source", layout.quantisation.facts()),
        ("serving", serving.warnings(plan, layout)),
        ("serving", serving_layers.warnings(plan, layout)),
        ("source", unfamiliar.class_warnings(plan, layout)),
        ("depth", unfamiliar.key_warnings(plan, layout)),
        ("depth", addressed_layers.warnings(plan, layout)),
        ("width", quantised_noise.warnings(plan, layout)),
    )
    facts = chain(
        left_behind.facts(checkpoint),
        left_behind.prediction_facts(layout),
        header_metadata.facts(checkpoint),
    )
    return (
        *(Notice("source", text) for text in left_behind.warnings(checkpoint)),
        *(Notice("source", text, is_warning=False) for text in facts),
        *(Notice(about, text) for about, texts in warnings for text in texts),
    )
