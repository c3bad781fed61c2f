"""The verbs of the command line as functions: what `import moegrow` offers."""

import os
import re
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from moegrow import grow, maps, planfile, report
from moegrow.catalogue import LARGEST_FAMILY
from moegrow.check import check_growth, check_noise, check_plan, check_result, check_source
from moegrow.checkpoint import open_checkpoint, user_path
from moegrow.compensation import group_size
from moegrow.errors import MoegrowError, UsageError
from moegrow.layout import Layout, read_layout
from moegrow.maps import Map
from moegrow.planfile import Lines
from moegrow.plans import Noise, Plan
from moegrow.strangers import read_text


class Opened(NamedTuple):
    """A plan with the layout of the checkpoint that it reads from."""

    plan: Plan
    layout: Layout


# A checkpoint's folder or file, a plan's file, its lines, a plan, or one whose source is open.
AnySource = str | os.PathLike[str] | Lines | Plan | Opened

MODES = ("interpose", "stack", "expand", "overlap")
PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2510.08008, Eq. 4
    "orthogonal": {"noise": 0.01, "top_k": "scale", "router": "noise", "order": "append"},
    # arXiv 2604.19835: exact copies, k unchanged, a uniform bias of 1e-3 on the copies' routing
    "upcycling": {"noise": 0.0, "top_k": "keep", "router": "uniform", "order": "append"},
}
UPCYCLING_BIAS = 1e-3

EDITED = {"axis": "hand", "says": ["the plan was edited: its lines alone say what is written"]}


def plan(source: AnySource, *, family: str | os.PathLike[str] | None = None) -> Plan:
    """The plan that copies `source` as it is, or the plan in the file `source`.

    `family` is a family file of your own, for a model that moegrow does not know. Raises
    MoegrowError where the source is no checkpoint of a known family, or has changed since the
    plan was made.
    """
    return load(source, family).plan


def load(source: AnySource, family: str | os.PathLike[str] | None = None) -> Opened:
    """The plan of a source (see `plan`) with the layout of the checkpoint that it reads from.

    A plan whose lines are not what its header says has a step that says so.
    """
    plan, layout = begin(source, family)
    return Opened(grow.spell_out(plan, layout), layout)


def begin(source: AnySource, family: str | os.PathLike[str] | None = None) -> Opened:
    """As `load`, for growing, which makes the outputs anew: a checkpoint's are left out."""
    if isinstance(source, Opened):
        return source
    text = "" if family is None else _family_text(user_path(family))
    if not isinstance(source, Plan | Lines):
        path = user_path(source)
        if not planfile.is_plan(path):
            layout = read_layout(open_checkpoint(path), family_text=text)
            return Opened(grow.outline(layout, text), layout)
        source = planfile.read_lines(path.resolve())
    header = source.header if isinstance(source, Lines) else source
    if text and text != header.family_text:
        raise UsageError("a plan brings its family along, so --family does not go with it")
    checkpoint = open_checkpoint(header.source.location)
    check_source(header, checkpoint)
    layout = read_layout(checkpoint, family_text=header.family_text)
    check_growth(header, layout)
    rendered = grow.render(header, layout, header.growth)
    if not isinstance(source, Lines):
        plan = source
    elif source.spell(rendered.outputs):
        plan = replace(header, outputs=rendered.outputs)
    else:
        plan = source.plan()
        check_plan(plan, checkpoint)
        check_result(plan, checkpoint)
    if rendered != plan and EDITED not in plan.steps:
        plan = replace(plan, steps=(*plan.steps, EDITED))
    return Opened(plan, layout)


def _family_text(path: Path) -> str:
    if not path.is_file():
        raise MoegrowError(f"--family {path} is not a file", "give the path of a family file")
    path = path.resolve()
    return read_text(path.parent, path.name, LARGEST_FAMILY)


def depth(
    source: AnySource,
    *,
    mode: str = "interpose",
    times: str | int | None = None,
    to: int | None = None,
    keep_first: int = 0,
    keep_last: int = 0,
    group: int = 1,
    every: int | None = None,
    drop: int | None = None,
    layers: str | None = None,
    new_layers: str | None = None,
    family: str | os.PathLike[str] | None = None,
    command: str = "",
) -> Plan:
    """The plan of `source` with more layers; nothing is written.

    mode: "interpose" repeats layers in place, "stack" the whole block (both `times` as many
    layers, 2 unless given, or `to` layers), "expand" adds one after `every` layers, "overlap"
    joins the model without its last and without its first `drop` layers. `layers` is a free map
    such as "0,0,1-3" instead. new_layers: "copy", or "identity" for repeated layers that begin
    as the identity (the rule for "expand"). family: a family file of your own. `command` is
    noted in the plan as what made it.
    """
    old, layout = begin(source, family)
    _check_unedited(old)
    given = {"times": times, "to": to, "every": every, "drop": drop, "layers": layers}
    given |= {"keep-first": keep_first or None, "keep-last": keep_last or None}
    given |= {"group": None if group == 1 else group}
    noted = {"new_layers": new_layers, "family": family and str(family)}
    command = command or _call("depth", mode=mode, **given, **noted)
    layer_map = _layer_map(mode, len(old.growth.layers), given)
    if new_layers not in (None, "copy", "identity"):
        raise UsageError(f"--new-layers {new_layers} is not known", "use copy or identity")
    identity = new_layers == "identity" or (new_layers is None and _expands(mode, layers))
    return _noted(grow.deepen(old, layout, layer_map, identity=identity), command)


def width(
    source: AnySource,
    *,
    experts: str | int = "2x",
    noise: float | None = None,
    seed: int = 0,
    top_k: str | int | None = None,
    order: str | None = None,
    router: str | None = None,
    preset: str = "orthogonal",
    allow_nonfinite: bool = False,
    family: str | os.PathLike[str] | None = None,
    command: str = "",
) -> Plan:
    """The plan of `source` with more experts; nothing is written.

    experts: a factor ("2x") or a number. noise: σ of the Gaussian noise on copies, relative to
    that of what is copied (0.01). top_k: "scale" (grows with the experts), "keep" or a number.
    order: "append" copies behind the originals or "interleave" beside them. router: "noise" or
    "copy" for the copies' router rows. allow_nonfinite: take σ of the finite values where others
    are NaN or infinite, which then stay as they are. What is not given comes from `preset`.
    family: a family file of your own.
    """
    old, layout = begin(source, family)
    _check_unedited(old)
    command = command or _call(
        "width", experts=experts, noise=noise, seed=seed, top_k=top_k, order=order, router=router,
        preset=preset, allow_nonfinite=allow_nonfinite or None, family=family and str(family),
    )  # fmt: skip
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset} is not known", f"use {' or '.join(PRESETS)}")
    chosen = PRESETS[preset]
    noise = chosen["noise"] if noise is None else noise
    router = chosen["router"] if router is None else router
    order = chosen["order"] if order is None else order
    if order not in ("append", "interleave"):
        raise UsageError(f"--order {order} is not known", "use append or interleave")
    if not 0 <= noise < 1e6:
        raise UsageError(f"--noise {noise} makes no sense", "use a number from 0 up, such as 0.01")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed} is out of range", "use a number from 0 up")
    count = len(old.growth.experts)
    kind = layout.family.router.kind
    wanted = _expert_count(str(experts), count, kind)
    maps.check_size(wanted, "experts")
    drawn = "finite" if allow_nonfinite else "normal"
    asked = chosen["top_k"] if top_k is None else top_k
    if kind == "skip" and asked == "scale":
        asked = "keep"
    new = grow.widen(
        old,
        layout,
        _expert_map(layout, count, wanted, order),
        top_k=_top_k(asked, old.growth.top_k, wanted, count),
        weight_noise=Noise(drawn, noise, seed) if noise else None,
        router_noise=_router_noise(router, Noise(drawn, noise, seed)),
    )
    check_noise(new)
    return _noted(new, command)


def inspect(
    source: AnySource, *, family: str | os.PathLike[str] | None = None, values: bool = False
) -> dict[str, Any]:
    """What a checkpoint is, or what a plan makes: family, layers, experts, parameters, bytes.

    With `values`, all weights are read, a plan's source's, and under "values" stand the tensors
    that hold NaN or infinity, one value alone, or none.
    """
    opened = load(source, family)
    facts = report.inspection(*opened)
    if values:
        from moegrow.values import find_values

        facts["values"] = asdict(find_values(opened.layout.checkpoint))
    return facts


def _check_unedited(old: Plan) -> None:
    """Growing renders a plan anew from its header, so its lines must be what the header says."""
    if EDITED in old.steps:
        raise MoegrowError(
            "the plan's lines are not what its header says: it was edited",
            "grow first and edit the result; moegrow apply writes an edited plan as it stands",
        )


def _noted(new: Plan, command: str) -> Plan:
    return replace(new, commands=(*new.commands, command))


def _call(verb: str, **arguments: Any) -> str:
    """The Python call that a plan notes where no command line made it."""
    given = [
        f"{key.replace('-', '_')}={value!r}"
        for key, value in arguments.items()
        if value is not None
    ]
    return f"moegrow.{verb}(source, {', '.join(given)})"


_FLAGS = {
    "interpose": {"times", "to", "keep-first", "keep-last", "group"},
    "stack": {"times", "to", "keep-first", "keep-last"},
    "expand": {"every", "keep-first", "keep-last"},
    "overlap": {"drop"},
}


def _expands(mode: str, layers: str | None) -> bool:
    return mode == "expand" and layers is None


def _layer_map(mode: str, count: int, given: dict[str, Any]) -> Map:
    """The layer map that the flags ask for; flags that the mode does not know are refused."""
    flags = {key: value for key, value in given.items() if value is not None}
    if "layers" in flags:
        if len(flags) > 1:
            other = next(key for key in flags if key != "layers")
            raise UsageError(f"--layers is the whole map: --{other} does not go with it")
        return maps.free(flags["layers"], count)
    if mode not in MODES:
        raise UsageError(f"--mode {mode} is not known", f"use one of {', '.join(MODES)}")
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


def _expert_map(layout: Layout, count: int, wanted: int, order: str) -> Map:
    """The map from `count` experts to those wanted, in the way that the family's router takes."""
    kind = layout.family.router.kind
    if kind == "grid":
        return maps.grid(count, to=wanted, order=order)
    if kind == "skip":
        return maps.with_skip(count, to=wanted)
    return maps.copies(count, to=wanted, order=order, group=group_size(layout))


def _expert_count(text: str, count: int, kind: str) -> int:
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        wanted = Fraction(int(text))
    else:
        # A class that skips is copied with the experts and turns into experts, but for one.
        skip = int(kind == "skip")
        wanted = maps.factor(text, "--experts") * (count + skip) - skip
    if wanted.denominator != 1:
        raise UsageError(
            f"--experts {text} of {count} experts is not a whole number",
            f"use --experts {round(wanted)}",
        )
    if wanted < count:
        raise UsageError(
            f"--experts {text} is fewer than the {count} experts there are",
            f"use --experts 2x for {2 * count}",
        )
    return int(wanted)


def _top_k(text: str | int, top_k: int, experts: int, old_experts: int) -> int:
    """The new top-k; growing in step with the experts, it is rounded where it must be."""
    if text == "keep":
        return top_k
    if text == "scale":
        return max(1, round(Fraction(top_k * experts, old_experts)))
    if not re.fullmatch(r"[0-9]{1,9}", str(text)):
        raise UsageError(f"--top-k {text} is not known", "use scale, keep or a number")
    if not 1 <= int(text) <= experts:
        raise UsageError(
            f"--top-k {text} does not fit {experts} experts", f"use a number from 1 to {experts}"
        )
    return int(text)


def _router_noise(router: str, noise: Noise) -> Noise | None:
    if router == "uniform":
        return Noise("uniform", UPCYCLING_BIAS, noise.seed)
    if router == "noise":
        return noise if noise.amount else None
    if router == "copy":
        return None
    raise UsageError(f"--router {router} is not known", "use noise or copy")
