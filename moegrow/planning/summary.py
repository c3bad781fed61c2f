"""Describe what was done along each axis."""

from collections.abc import Iterator
from dataclasses import replace

from moegrow.families.layout import Layout
from moegrow.growth import Growth
from moegrow.model_config.indexers import sharing_copies
from moegrow.planning.notes import (
    AxisSummary,
    DepthNote,
    FunctionLost,
    FunctionPreserved,
    IdentityLayers,
    IndexersShared,
    KeptOnce,
    LayersLeftOut,
    LayersMade,
    NoiseAdded,
    Note,
    PredictionMoved,
    WidthNote,
)
from moegrow.planning.router import Compensation
from moegrow.planning.router_notes import CompensationNote, FactorInScales


def describe(layout: Layout, growth: Growth, compensation: Compensation) -> tuple[AxisSummary, ...]:
    """One summary for each axis that has grown: numbers before and after, and notes."""
    found = []
    if growth.layers != tuple(range(layout.layers)) or any(growth.silent):
        found.append(
            AxisSummary(
                "depth", tuple(_depth_notes(layout, growth)),
                layers=(layout.layers, len(growth.layers)),
            )
        )  # fmt: skip
    if growth.experts != tuple(range(layout.experts)) or growth.top_k != layout.top_k:
        found.append(
            AxisSummary(
                "width", tuple(_width_notes(layout, growth, compensation)),
                experts=(layout.experts, len(growth.experts)),
                top_k=(layout.top_k, growth.top_k),
                preserves_function=compensation.exact,
            )
        )  # fmt: skip
    return tuple(found)


def with_factor(
    summaries: tuple[AxisSummary, ...], factor: FactorInScales
) -> tuple[AxisSummary, ...]:
    """The summaries, with how quantised weights are multiplied behind what else compensates."""
    return tuple(
        replace(one, notes=tuple(_behind(one.notes, factor))) if one.compensations else one
        for one in summaries
    )


def _behind(notes: tuple[Note, ...], factor: FactorInScales) -> Iterator[Note]:
    last = max(at for at, note in enumerate(notes) if isinstance(note, CompensationNote))
    yield from (*notes[: last + 1], factor, *notes[last + 1 :])


def _depth_notes(layout: Layout, growth: Growth) -> Iterator[DepthNote]:
    yield LayersMade(growth.layers, layout.layers)
    if silent := sum(growth.silent):
        yield IdentityLayers(silent)
    if lost := sorted(set(range(layout.layers)) - set(growth.layers)):
        yield LayersLeftOut(tuple(lost))
    if (once := layout.family.tensors.once) and len(set(growth.layers)) < len(growth.layers):
        yield KeptOnce(once)
    if sharing := sharing_copies(layout, growth):
        yield IndexersShared(len(sharing))
    if layout.prediction_layers:
        yield PredictionMoved(len(growth.layers))


def _width_notes(layout: Layout, growth: Growth, compensation: Compensation) -> Iterator[WidthNote]:
    weights = tuple(sorted({noise for noise in growth.weight_noise if noise}))
    router = tuple(sorted({noise for noise in growth.router_noise if noise}))
    if weights:
        yield NoiseAdded("weights", weights)
    if router:
        biased = layout.family.tensors.router_bias
        uniform = any(noise.kind == "uniform" for noise in router)
        yield NoiseAdded("biases" if uniform and biased else "rows", router)
    yield from compensation.notes
    if compensation.exact:
        yield FunctionPreserved(is_noisy=bool(weights or router))
    yield from map(FunctionLost, compensation.losses)
