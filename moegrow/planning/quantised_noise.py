"""Refuse noise that quantised weights would lose, and show each alternative."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from moegrow.checkpoint.header import TensorSpec
from moegrow.display import size
from moegrow.dtypes import PLAIN, WRITTEN
from moegrow.errors import ListedError, Message, MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.growth import Noise
from moegrow.options import as_flag
from moegrow.planning.build import render
from moegrow.planning.check import check_noise
from moegrow.planning.noise_forecast import Forecast, on_floats, on_weight
from moegrow.planning.noise_stats import SWALLOWED
from moegrow.planning.op import noise_of
from moegrow.planning.plan import Output, Plan, Storage
from moegrow.quant.formats import Quantised, Weight

BY_DRAW, NONE = Parameter("rounding", "stochastic"), Parameter("noise", 0)
DECODED = Parameter("dtype", "bf16")  # the whole model

TOO_MUCH = 1.1  # times the noise asked for from which on it is worth a warning


class Asked(NamedTuple):
    """Noise that is asked for: on what is stored so, and to be rounded so."""

    stored: str
    amount: float
    by_draw: bool


class Alternative(NamedTuple):
    """A way out: the option, bytes of the result, or None where it leads nowhere, and what it
    does, or why it does not. The best of several `is_best` where it leads somewhere."""

    option: Parameter
    nbytes: int | None
    effect: str
    is_best: bool = False


def check_ways(plan: Plan, layout: Layout) -> None:
    """Raise MoegrowError where noise is asked of what cannot take it.

    Of quantised weights, with the ways out, and what each of them would make of this checkpoint.
    """
    growth = plan.growth
    noised = (
        [output for output in plan.outputs if _is_noised(output)]
        if any(growth.weight_noise) or any(growth.router_noise)
        else []
    )
    quantised = layout.quantised if noised else Quantised()
    refused = [output for output in noised if _is_refused(output, quantised)]
    if refused:
        lost = foretold(replace(plan, outputs=tuple(refused)), layout)
        asked, found = max(lost.items(), key=lambda item: item[0].amount)
        ways = [*_decoded(plan, layout, asked), _drawn(plan, layout, asked), _equal(plan)]
        raise ListedError(_headline(asked, found), _lines(ways), _hint(ways), "; instead:")
    for output in noised:
        _check_decoded(output, quantised)
    check_noise(plan)


def _hint(ways: list[Alternative]) -> Message:
    open_ways = [way for way in ways if way.nbytes is not None]
    best = next((way for way in open_ways if way.is_best), open_ways[0])
    return (
        f"add {'one of these, such as ' if open_ways[1:] else ''}"
        + best.option
        + "; the figures are foretold for normal weights, from the format and its scales,"
        " and no weight was read"
    )


def _is_quantised(plan: Plan) -> bool:
    """Whether any tensor with noise is stored as something else than plain floats."""
    return any(map(_is_noised, plan.outputs))


def _is_noised(output: Output) -> bool:
    """Whether a tensor with noise is stored as something else than plain floats."""
    return output.dtype not in PLAIN and any(noise_of(piece.op) for piece in output.pieces)


def _is_refused(output: Output, quantised: Quantised) -> bool:
    """Whether it is a quantised weight that can take noise, but not by rounding to nearest."""
    weight = quantised.weights.get(output.pieces[0].source)
    if weight is None or weight.problem:
        return False
    noises = [noise_of(piece.op) for piece in output.pieces]
    return any(noise and not noise.is_rounded_by_draw for noise in noises)


def _check_decoded(output: Output, quantised: Quantised) -> None:
    """Raise MoegrowError unless the numbers that noise is to be added to can be had."""
    weight = quantised.weights.get(output.pieces[0].source)
    if weight is None or weight.problem:
        why = f" ({weight.problem})" if weight else ""
        raise MoegrowError(
            f"{output.name} is stored as {output.dtype} in a way that moegrow does not decode{why},"
            " so noise cannot be added to its numbers",
            "use " + NONE + " for exact copies",
        )


def _headline(asked: Asked, found: Forecast) -> str:
    how = "mostly lost" if found.share_unchanged > SWALLOWED else "partly lost"
    return (
        f"noise of {asked.amount:g} sigma on experts in {asked.stored} is {how} in rounding to"
        f" nearest: {_effect(found)}"
    )


def _lines(ways: list[Alternative]) -> Iterator[Message]:
    sizes = ["" if way.nbytes is None else size(way.nbytes) for way in ways]
    # The columns are those of a terminal.
    widths = [len(as_flag(way.option)) for way in ways]
    widest, most = max(widths), max(map(len, sizes))
    for way, width, told in zip(ways, widths, sizes, strict=True):
        gap = " " * (widest - width)
        yield "  " + way.option + f"{gap}  {told:>{most}}  {way.effect}"


def _effect(found: Forecast) -> str:
    return (
        f"{100 * found.share_unchanged:.1f} % of the values stay as they are, and the noise"
        f" realised is {found.ratio:.2f} times that asked for"
    )


def _decoded(plan: Plan, layout: Layout, asked: Asked) -> Iterator[Alternative]:
    """The way of writing the weights decoded: the experts alone, or where that cannot be, all."""
    found = on_floats("BF16", asked.amount)
    problem = ""
    for option, storage in (
        (Parameter("experts_dtype", "bf16"), plan.storage._replace(experts="BF16")),
        (DECODED, Storage("BF16")),
    ):
        try:
            other = render(replace(plan, storage=storage), layout, plan.growth)
            check_noise(other)
        except MoegrowError as error:
            problem = problem or error.headline
            continue
        what = "the experts" if storage.experts else "the whole model"
        yield Alternative(option, other.nbytes, f"{what} decoded: {_effect(found)}")
        return
    yield Alternative(DECODED, None, f"not here: {problem}")


def _drawn(plan: Plan, layout: Layout, asked: Asked) -> Alternative:
    """The way of rounding by a draw."""
    growth = plan.growth
    by_draw = replace(
        growth,
        weight_noise=_by_draw(growth.weight_noise),
        router_noise=_by_draw(growth.router_noise),
    )
    other = render(plan, layout, by_draw)
    try:
        check_noise(other)
    except MoegrowError as error:
        return Alternative(BY_DRAW, None, f"not here: {error.headline}")
    found = foretold(other, layout)[asked._replace(by_draw=True)]
    return Alternative(
        BY_DRAW,
        other.nbytes,
        f"format and scales kept, and the noise on average: {_effect(found)}, since rounding adds"
        f" {_own(found) * asked.amount:.2g} sigma of its own",
        is_best=True,
    )


def _by_draw(noises: tuple[Noise | None, ...]) -> tuple[Noise | None, ...]:
    return tuple(noise and noise._replace(rounding="stochastic") for noise in noises)


def _own(found: Forecast) -> float:
    """The noise that rounding adds, beside that asked for."""
    return math.sqrt(max(found.ratio**2 - 1, 0.0))


def _equal(plan: Plan) -> Alternative:
    effect = "equal copies: 100 % of the values stay as they are, and there is no noise"
    return Alternative(NONE, plan.nbytes, effect)


# A tensor and the quantised weight that it is, or None for plain floats.
_Kind = tuple[TensorSpec, Weight] | None


def foretold(plan: Plan, layout: Layout) -> Mapping[Asked, Forecast]:
    """What will become of the noise that is relative to σ, for each way in which it is stored."""
    tensors = layout.checkpoint.tensors
    quantised = layout.quantised if _is_quantised(plan) else Quantised()
    kinds: dict[Asked, Counter[_Kind]] = {}
    known: dict[tuple[object, ...], TensorSpec] = {}
    for output in plan.outputs:
        for piece in output.pieces:
            noise = noise_of(piece.op)
            if noise is None or noise.kind == "uniform":
                continue
            weight = None if output.dtype in WRITTEN else quantised.weights.get(piece.source)
            stored = weight.format if weight else output.dtype
            asked = Asked(stored, noise.amount, noise.is_rounded_by_draw)
            kind = None
            if weight and not weight.problem:
                # Weights of the same shapes stand for each other.
                spec, settings = tensors[piece.source], weight.decoding.settings
                parts = [tensors[name] for _, name in weight.decoding.companions]
                shapes = [(part.dtype, part.shape) for part in parts]
                key = (spec.dtype, spec.shape, settings, weight.is_symmetric, *shapes)
                first = known.setdefault(key, spec)
                kind = first, quantised.weights[first.name]
            elif output.dtype not in PLAIN:
                continue
            kinds.setdefault(asked, Counter())[kind] += 1
    return {
        asked: _mean(
            (_of(kind, asked, tensors), number) for kind, number in kinds[asked].items()
        )
        for asked in sorted(kinds)
    }  # fmt: skip


def _of(kind: _Kind, asked: Asked, tensors: Mapping[str, TensorSpec]) -> Forecast:
    if kind is None:
        return on_floats(asked.stored, asked.amount, by_draw=asked.by_draw)
    spec, weight = kind
    return on_weight(
        spec, weight.decoding, tensors, asked.amount,
        by_draw=asked.by_draw, is_symmetric=weight.is_symmetric,
    )  # fmt: skip


def _mean(found: Iterator[tuple[Forecast, int]]) -> Forecast:
    """What becomes of all, from what becomes of each and how many there are of it."""
    each = list(found)
    count = sum(number for _, number in each)
    share = math.fsum(one.share_unchanged * number for one, number in each) / count
    square = math.fsum(one.ratio**2 * number for one, number in each) / count
    growth = math.fsum(one.growth * number for one, number in each) / count
    return Forecast(share, math.sqrt(square), growth)


def warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence for each way of storing in which most of the noise will be lost, or to which
    rounding by draw adds much noise of its own."""
    for asked, found in foretold(plan, layout).items():
        if not asked.by_draw and found.share_unchanged > SWALLOWED:
            yield (
                f"noise of {asked.amount:g} sigma is mostly lost in {asked.stored}:"
                f" {found.share_unchanged:.0%} of the values will stay as they are"
            )
        if asked.by_draw and found.ratio > TOO_MUCH:
            yield (
                f"rounding by a draw in {asked.stored} adds noise of its own,"
                f" {_own(found) * asked.amount:.2g} sigma: {found.ratio:.2f} times the"
                f" {asked.amount:g} sigma asked for will be realised, in"
                f" {100 * (1 - found.share_unchanged):.1f} % of the values"
            )
