"""Compute the layer map of a depth step."""

from typing import assert_never

from moegrow import maps
from moegrow.errors import Parameter, UsageError
from moegrow.maps import Map
from moegrow.options import described, said
from moegrow.steps import Depth


def layer_map(count: int, step: Depth) -> Map:
    """The layer map that a step asks for; options that its mode does not know are refused."""
    given = [name for name in said(step) if name not in ("layers", "new_layers")]
    if step.layers is not None:
        if given:
            other = Parameter(given[0])
            raise UsageError(
                Parameter("layers") + " is the whole map: " + other + " does not go with it",
                "leave out " + Parameter("layers") + " or " + other,
            )
        return maps.free(step.layers, count)
    mode = step.mode or "interpose"
    for name in given:
        modes = described(Depth)[name].option.modes
        if modes and mode not in modes:
            raise UsageError(
                Parameter(name) + " does not go with " + Parameter("mode", mode),
                f"it is for {' or '.join(modes)}",
            )
    first, last = step.keep_first, step.keep_last
    match mode:
        case "expand":
            if step.every is None:
                raise _missing(mode, "every", "LLaMA-Pro", 4)
            return maps.expand(count, every=step.every, keep_first=first, keep_last=last)
        case "overlap":
            if step.drop is None:
                raise _missing(mode, "drop", "SOLAR", 8)
            return maps.overlap(count, drop=step.drop)
        case "stack":
            return maps.stack(count, to=_size(count, step), keep_first=first, keep_last=last)
        case "interpose":
            to = _size(count, step)
            return maps.interpose(count, to=to, keep_first=first, keep_last=last, group=step.group)
        case _:
            assert_never(mode)


def _missing(mode: str, name: str, who: str, value: int) -> UsageError:
    return UsageError(
        Parameter("mode", mode) + " needs " + Parameter(name),
        f"{who} used " + Parameter(name, value),
    )


def _size(count: int, step: Depth) -> int:
    """How many layers the result has, by `to` or `times`."""
    if step.to is not None:
        if step.times is not None:
            both = Parameter("to") + " and " + Parameter("times")
            raise UsageError(both + " both say how deep the result is", "give one of them")
        to = step.to
    else:
        kept = step.keep_first + step.keep_last
        repeated = count - kept
        times = "2x" if step.times is None else step.times
        wanted = maps.factor(str(times), "times") * repeated
        if wanted.denominator != 1:
            raise UsageError(
                Parameter("times", times) + f" of {repeated} layers is not a whole number",
                "use " + Parameter("to", kept + round(wanted)),
            )
        to = kept + int(wanted)
    maps.check_size(to, "layers")
    return to
