"""What was done along each axis, as plain values for the plan and sentences for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from moegrow import maps
from moegrow.families.layout import Layout
from moegrow.growth import Growth, Noise
from moegrow.maps import Map
from moegrow.model_config.indexers import sharing_copies
from moegrow.planning.router import Compensation


def describe(
    layout: Layout, growth: Growth, compensation: Compensation
) -> tuple[Mapping[str, Any], ...]:
    """One entry for each axis that has grown: numbers before and after, and what was done."""
    steps: list[Mapping[str, Any]] = []
    if growth.layers != tuple(range(layout.layers)) or any(growth.silent):
        steps.append(
            {
                "axis": "depth",
                "layers": [layout.layers, len(growth.layers)],
                "says": list(_depth_sentences(layout, growth)),
            }
        )
    if growth.experts != tuple(range(layout.experts)) or growth.top_k != layout.top_k:
        steps.append(
            {
                "axis": "width",
                "experts": [layout.experts, len(growth.experts)],
                "top_k": [layout.top_k, growth.top_k],
                "preserves_function": compensation.exact,
                "compensated": list(compensation.notes),
                "says": list(_width_sentences(layout, growth, compensation)),
            }
        )
    return tuple(steps)


def noted(steps: tuple[Mapping[str, Any], ...], told: str) -> tuple[Mapping[str, Any], ...]:
    """The steps, with one more thing that compensates, said behind the others."""
    return tuple(_noted(step, told) if step.get("compensated") else step for step in steps)


def _noted(step: Mapping[str, Any], told: str) -> Mapping[str, Any]:
    compensated, says = step["compensated"], step["says"]
    place = says.index(compensated[-1]) + 1
    return {
        **step,
        "compensated": [*compensated, told],
        "says": [*says[:place], told, *says[place:]],
    }


def _depth_sentences(layout: Layout, growth: Growth) -> Iterator[str]:
    silent = sum(growth.silent)
    yield f"new layers from old: {_spell(growth.layers, layout.layers)}"
    if silent:
        yield f"{silent} of them begin as the identity: their output projections are zero"
    if lost := sorted(set(range(layout.layers)) - set(growth.layers)):
        yield f"left out: layers {','.join(map(str, lost))}"
    if (once := layout.family.tensors.once) and len(set(growth.layers)) < len(growth.layers):
        yield f"only the first copy of a layer keeps {' and '.join(once)}"
    if sharing := sharing_copies(layout, growth):
        count = len(sharing)
        yield f"{count} copies share the indexer of their original and have none of their own"
    if layout.prediction_layers:
        first = len(growth.layers)
        yield f"multi-token prediction moved behind the last layer, to {first}"


def _width_sentences(layout: Layout, growth: Growth, compensation: Compensation) -> Iterator[str]:
    weights = sorted({noise for noise in growth.weight_noise if noise})
    router = sorted({noise for noise in growth.router_noise if noise})
    if weights:
        yield f"copied experts: {' and '.join(map(_noise, weights))}"
    if router:
        biased = layout.family.tensors.router_bias
        uniform = any(noise.kind == "uniform" for noise in router)
        where = "biases of copied experts" if uniform and biased else "rows of copied experts"
        yield f"router {where}: {' and '.join(map(_noise, router))}"
    yield from compensation.notes
    if compensation.exact:
        noisy = weights or router
        yield "the function is preserved" + (", but for the noise" if noisy else "")
    for loss in compensation.losses:
        yield f"the function is not preserved: {loss}"


def _noise(noise: Noise) -> str:
    drawn = ", rounded up or down by a draw" if noise.is_rounded_by_draw else ""
    return _kind(noise) + drawn


def _kind(noise: Noise) -> str:
    if noise.kind == "normal":
        return f"normal noise of {noise.amount:g} sigma, seed {noise.seed}"
    if noise.kind == "finite":
        return (
            f"normal noise of {noise.amount:g} sigma, seed {noise.seed}, around finite values;"
            " NaN and infinity stay as they are"
        )
    return f"uniform noise within {noise.amount:g}, seed {noise.seed}"


def _spell(numbers: Map, layers: int) -> str:
    """A map of `layers` layers for people: by its name, or as the list that `layers` reads.

    >>> _spell((0, 0, 1, 1), 2)
    'every layer 2 times in place'
    >>> _spell((0, 1, 0, 1), 2)
    'the whole block 2 times'
    >>> _spell((0, 1, 0, 1, 2, 3, 2, 3), 4)
    'every group of 2 layers 2 times in place'
    >>> _spell((0, 0, 1, 2, 3, 3), 4)
    '0,0-3,3'
    """
    total = len(numbers)
    if total % layers == 0 and numbers == maps.interpose(layers, to=total):
        return f"every layer {total // layers} times in place"
    if total % layers == 0 and numbers == maps.stack(layers, to=total):
        return f"the whole block {total // layers} times"
    for size in range(2, layers):
        whole = total % layers == layers % size == 0
        if whole and numbers == maps.interpose(layers, to=total, group=size):
            return f"every group of {size} layers {total // layers} times in place"
    return maps.spell(numbers)
