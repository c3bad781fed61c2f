"""The verbs of the command line as functions: what `import moegrow` offers."""

import os
from dataclasses import replace
from typing import Any

from moegrow import grow, maps, modes, presets, report
from moegrow.check import check_noise
from moegrow.errors import UsageError
from moegrow.opened import AnySource, begin, check_unedited, load
from moegrow.origin import Access
from moegrow.plans import Noise, Plan


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
    revision: str | None = None,
    token: str | None = None,
    command: str = "",
) -> Plan:
    """The plan of `source` with more layers; nothing is written.

    mode: "interpose" repeats layers in place, "stack" the whole block (both `times` as many
    layers, 2 unless given, or `to` layers), "expand" adds one after `every` layers, "overlap"
    joins the model without its last and without its first `drop` layers. `layers` is a free map
    such as "0,0,1-3" instead. new_layers: "copy", or "identity" for repeated layers that begin
    as the identity (the rule for "expand"). family: a family file of your own. revision,
    token: for a repository of the Hub. `command` is noted in the plan as what made it.
    """
    old, layout = begin(source, family, Access(token, revision))
    check_unedited(old)
    given = {"times": times, "to": to, "every": every, "drop": drop, "layers": layers}
    given |= {"keep-first": keep_first or None, "keep-last": keep_last or None}
    given |= {"group": None if group == 1 else group}
    noted = {"new_layers": new_layers, "family": family and str(family), "revision": revision}
    command = command or _call("depth", mode=mode, **given, **noted)
    layer_map = modes.layer_map(mode, len(old.growth.layers), given)
    if new_layers not in (None, "copy", "identity"):
        raise UsageError(f"--new-layers {new_layers} is not known", "use copy or identity")
    identity = new_layers == "identity" or (new_layers is None and modes.expands(mode, layers))
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
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    command: str = "",
) -> Plan:
    """The plan of `source` with more experts; nothing is written.

    experts: a factor ("2x") or a number. noise: σ of the Gaussian noise on copies, relative to
    that of what is copied (0.01). top_k: "scale" (grows with the experts), "keep" or a number.
    order: "append" copies behind the originals or "interleave" beside them. router: "noise" or
    "copy" for the copies' router rows. What is not given comes from `preset`. family: a family
    file of your own. revision, token: for a repository of the Hub.
    """
    old, layout = begin(source, family, Access(token, revision))
    check_unedited(old)
    command = command or _call(
        "width", experts=experts, noise=noise, seed=seed, top_k=top_k, order=order, router=router,
        preset=preset, family=family and str(family), revision=revision,
    )  # fmt: skip
    if preset not in presets.PRESETS:
        raise UsageError(f"--preset {preset} is not known", f"use {' or '.join(presets.PRESETS)}")
    chosen = presets.PRESETS[preset]
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
    wanted = presets.expert_count(str(experts), count, kind)
    maps.check_size(wanted, "experts")
    asked = chosen["top_k"] if top_k is None else top_k
    if kind == "skip" and asked == "scale":
        asked = "keep"
    new = grow.widen(
        old,
        layout,
        presets.expert_map(layout, count, wanted, order),
        top_k=presets.top_k(asked, old.growth.top_k, wanted, count),
        weight_noise=Noise("normal", noise, seed) if noise else None,
        router_noise=presets.router_noise(router, noise, seed),
    )
    check_noise(new)
    return _noted(new, command)


def inspect(
    source: AnySource,
    *,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """What a checkpoint is, or what a plan makes: family, layers, experts, parameters, bytes."""
    return report.inspection(*load(source, family, Access(token, revision)))


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
