"""Collect the warnings and notes about a plan, in the order in which they are shown.

The terminal's summary, the JSON documents and the report show the same notices.
"""

from collections.abc import Iterator
from enum import Enum
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


class NoticeKind(Enum):
    """The check or the look at a source that a notice comes from."""

    LEFT_BEHIND = "left behind"
    PREDICTIONS = "predictions"
    HEADER_METADATA = "header metadata"
    QUANTISATION = "quantisation"
    ENGINE_LIMIT = "engine limit"
    ENGINE_LAYERS = "engine layers"
    OTHER_CLASS = "other class"
    OTHER_KEYS = "other keys"
    ADDRESSED_LAYERS = "addressed layers"
    NOISE_ROUNDING = "noise rounding"


class Notice(NamedTuple):
    """One sentence about a plan, its kind, and the part of the growth that it is about.

    A warning may be ignored only by someone who knows why; any other notice is a fact of which
    nothing follows.
    """

    about: About
    kind: NoticeKind
    is_warning: bool
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


def notices(plan: Plan, layout: Layout) -> tuple[Notice, ...]:
    """All notices of a plan, in the order in which they are shown."""
    checkpoint = layout.checkpoint
    found: tuple[tuple[About, NoticeKind, bool, Iterator[str]], ...] = (
        ("source", NoticeKind.LEFT_BEHIND, True, left_behind.warnings(checkpoint)),
        ("source", NoticeKind.LEFT_BEHIND, False, left_behind.facts(checkpoint)),
        ("source", NoticeKind.PREDICTIONS, False, left_behind.prediction_facts(layout)),
        ("source", NoticeKind.HEADER_METADATA, False, header_metadata.facts(checkpoint)),
        ("source", NoticeKind.QUANTISATION, True, layout.quantisation.facts()),
        ("serving", NoticeKind.ENGINE_LIMIT, True, serving.warnings(plan, layout)),
        ("serving", NoticeKind.ENGINE_LAYERS, True, serving_layers.warnings(plan, layout)),
        ("source", NoticeKind.OTHER_CLASS, True, unfamiliar.class_warnings(plan, layout)),
        ("depth", NoticeKind.OTHER_KEYS, True, unfamiliar.key_warnings(plan, layout)),
        ("depth", NoticeKind.ADDRESSED_LAYERS, True, addressed_layers.warnings(plan, layout)),
        ("width", NoticeKind.NOISE_ROUNDING, True, quantised_noise.warnings(plan, layout)),
    )
    return tuple(
        Notice(about, kind, is_warning, text)
        for about, kind, is_warning, texts in found
        for text in texts
    )
