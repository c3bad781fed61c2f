"""The modes of depth: from the options of one to a layer map."""

from typing import Any

from moegrow import maps
from moegrow.errors import UsageError, choose
from moegrow.maps import Map
from moegrow.recipes.recipe import Step

MODES = ("interpose", "stack", "expand", "overlap")

_FLAGS = {
    "interpose": {"times", "to", "keep-first", "keep-last", "group"},
    "stack": {"times", "to", "keep-first", "keep-last"},
    "expand": {"every", "keep-first", "keep-last"},
    "overlap": {"drop"},
}


def layer_map(count: int, step: Step) -> Map:
    """The layer map that a step asks for; flags that its mode does not know are refused."""
    flags = {key.replace("_", "-"): value for key, value in step.items()}
    for key in ("grow", "new-layers"):
        flags.pop(key, None)
    if "layers" in flags:
        if len(flags) > 1:
            other = next(key for key in flags if key != "layers")
            raise UsageError(
                f"--layers is the whole map: --{other} does not go with it",
                f"leave out --layers or --{other}",
            )
        return maps.free(flags["layers"], count)
    mode = flags.pop("mode", MODES[0])
    if mode not in MODES:
        raise UsageError(f"--mode {mode} is not known", choose(mode, MODES))
    for key in flags:
        if key not in _FLAGS[mode]:
            fitting = " or ".join(name for name in MODES if key in _FLAGS[name])
            raise UsageError(f"--{key} does not go with --mode {mode}", f"it is for {fitting}")
    edges = {key.replace("-", "_"): flags.pop(key) for key in list(flags) if "keep" in key}
    if mode == "expand":
        if "every" not in flags:
            raise UsageError("--mode expand needs --every", "LLaMA-Pro used --every 4")
        return maps.expand(count, every=flags["every"], **edges)
    if mode == "overlap":
        if "drop" not in flags:
            raise UsageError("--mode overlap needs --drop", "SOLAR used --drop 8")
        return maps.overlap(count, drop=flags["drop"])
    to = _layer_count(count, sum(edges.values()), flags)
    maps.check_size(to, "layers")
    if mode == "stack":
        return maps.stack(count, to=to, **edges)
    return maps.interpose(count, to=to, group=flags.get("group", 1), **edges)


def _layer_count(count: int, kept: int, flags: dict[str, Any]) -> int:
    """How many layers the result has, by --to or --times."""
    if "to" in flags and "times" in flags:
        raise UsageError("--to and --times both say how deep the result is", "give one of them")
    if "to" in flags:
        return int(flags["to"])
    repeated = count - kept
    wanted = maps.factor(str(flags.get("times", "2x")), "--times") * repeated
    if wanted.denominator != 1:
        raise UsageError(
            f"--times {flags['times']} of {repeated} layers is not a whole number",
            f"use --to {kept + round(wanted)}",
        )
    return kept + int(wanted)
