"""The verbs that grow, as functions: arguments to maps and plans."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from moegrow import maps
from moegrow.checkpoint.store import Access
from moegrow.errors import UsageError, choose
from moegrow.growth import ROUNDINGS, Noise
from moegrow.planning import build, depth_modes, width_presets
from moegrow.planning.open_source import AnySource, Opened, begin, check_kept, check_unedited
from moegrow.planning.plan import Plan, Storage
from moegrow.planning.quantised_noise import check_ways
from moegrow.recipes import cookbook
from moegrow.recipes.recipe import Recipe, Step

NEW_LAYERS = ("copy", "identity")
ORDERS = ("append", "interleave")
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


def depth(
    source: AnySource,
    *,
    mode: str | None = None,
    times: str | int | None = None,
    to: int | None = None,
    keep_first: int | None = None,
    keep_last: int | None = None,
    group: int | None = None,
    every: int | None = None,
    drop: int | None = None,
    layers: str | None = None,
    new_layers: str | None = None,
    dtype: str | None = None,
    experts_dtype: str | None = None,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    command: str = "",
) -> Plan:
    """The plan of `source` with more layers; nothing is written.

    mode: "interpose" (the rule) repeats layers in place, in groups of `group`, "stack" the whole
    block (both `times` as many layers, 2 unless given, or `to` layers), "expand" adds one after
    `every` layers, "overlap" joins the model without its last and without its first `drop`
    layers. `keep_first` and `keep_last` layers stay single. `layers` is a free map such as
    "0,0,1-3" instead. new_layers: "copy", or "identity" for repeated layers that begin as the
    identity (the rule for "expand"). dtype, experts_dtype: what weights are written as, as for
    `convert`. family: a family file of your own. revision, token: for a repository of the Hub.
    `command` is noted in the plan as what made it.
    """
    # Spelled out, so that a recipe says what a later version might choose otherwise.
    if mode is None and layers is None:
        mode = depth_modes.MODES[0]
    if mode in ("interpose", "stack") and layers is None and times is None and to is None:
        times = "2x"
    step = _step(
        "depth", mode=mode, times=times, to=to, keep_first=keep_first or None,
        keep_last=keep_last or None, group=None if group == 1 else group, every=every, drop=drop,
        layers=layers, new_layers=new_layers,
    )  # fmt: skip
    old = _stored(begin(source, family, Access(token, revision, links_to)), dtype, experts_dtype)
    called = _called(step, dtype=dtype, experts_dtype=experts_dtype)
    return _grown(old, step).noted(command or _call(called, family, revision))


def convert(
    source: AnySource,
    *,
    dtype: str | None = None,
    experts_dtype: str | None = None,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    command: str = "",
) -> Plan:
    """The plan of `source` with its weights in another dtype; nothing is written.

    dtype: "bf16", "fp16" or "fp32" for all weights. Quantised ones are decoded; all are rounded to
    nearest even, but for those that are finer than the model's others, which stay. experts_dtype:
    the same for routed experts alone, or instead of `dtype` for them. family: a family file of
    your own. revision, token: for a repository of the Hub.
    """
    if dtype is None and experts_dtype is None:
        raise UsageError("convert needs to know what to write", "add --dtype bf16")
    old = _stored(begin(source, family, Access(token, revision, links_to)), dtype, experts_dtype)
    step = _step("convert", dtype=dtype, experts_dtype=experts_dtype)
    return old.plan.noted(command or _call(step, family, revision))


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
    rounding: str | None = None,
    allow_nonfinite: bool = False,
    dtype: str | None = None,
    experts_dtype: str | None = None,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    command: str = "",
) -> Plan:
    """The plan of `source` with more experts; nothing is written.

    experts: a factor ("2x") or a number. noise: σ of the Gaussian noise on copies, relative to
    that of what is copied (0.01). top_k: "scale" (grows with the experts), "keep" or a number.
    order: "append" copies behind the originals or "interleave" beside them. router: "noise" or
    "copy" for the copies' router rows. rounding: "nearest", or "stochastic": values with noise are
    rounded up or down as a draw decides, so that none of it is lost on average, and quantised
    weights keep their format. allow_nonfinite: take σ of the finite values where others are NaN or
    infinite, which then stay as they are. What is not given comes from `preset`.
    dtype, experts_dtype: what weights are written as, as for `convert`. family: a family file of
    your own. revision, token: for a repository of the Hub.
    """
    step = _step(
        "width", experts=experts, noise=noise, seed=seed, top_k=top_k, order=order, router=router,
        preset=preset, rounding=rounding, allow_nonfinite=allow_nonfinite or None,
    )  # fmt: skip
    old = _stored(begin(source, family, Access(token, revision, links_to)), dtype, experts_dtype)
    called = _called(step, dtype=dtype, experts_dtype=experts_dtype)
    return _grown(old, step).noted(command or _call(called, family, revision))


def run(
    source: AnySource,
    recipe: str | os.PathLike[str] | Recipe,
    *,
    seed: int | None = None,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    command: str = "",
) -> Plan:
    """The plan of `source` after every step of a recipe; nothing is written.

    recipe: a file, the name of one that ships with moegrow (`moegrow recipes` lists them), or
    one that was read. seed: for all steps, instead of those that the recipe says. family: a
    family file of your own. revision, token: for a repository of the Hub. The plan is that of the
    same calls of `depth` and `width`.
    """
    read = recipe if isinstance(recipe, Recipe) else cookbook.open_recipe(recipe)
    chosen = read.family if family is None else family
    old = begin(source, chosen, Access(token, revision, links_to))
    for step in read.steps:
        old = old._replace(plan=_grown(old, seeded(step, read, seed)))
    called = _spelled(
        recipe=recipe if isinstance(recipe, Recipe) else str(recipe), seed=seed, revision=revision
    )
    return old.plan.noted(command or f"moegrow.run(source, {called})")


def seeded(step: Step, recipe: Recipe, seed: int | None) -> Step:
    """A step with the seed that counts: the one asked for, its own, or that of its recipe."""
    if step["grow"] != "width":
        return step
    own = step.get("seed", recipe.seed)
    return {**step, "seed": (own or 0) if seed is None else seed}


def _step(grow: str, **options: Any) -> Step:
    return {"grow": grow, **{key: value for key, value in options.items() if value is not None}}


def _called(step: Step, **options: Any) -> Step:
    """A step with options of its call that are no part of it."""
    return {**step, **{key: value for key, value in options.items() if value is not None}}


def _stored(old: Opened, dtype: str | None, experts_dtype: str | None) -> Opened:
    """The source with its weights in the dtypes asked for, if any are."""
    if dtype is None and experts_dtype is None:
        return old
    step = _step("convert", dtype=dtype, experts_dtype=experts_dtype)
    return old._replace(plan=_grown(old, step))


_GROWING: Mapping[str, Callable[[Opened, Step], Plan]]


def _grown(old: Opened, step: Step) -> Plan:
    """The plan after one more step, which is noted in it."""
    check_unedited(old.plan)
    new = _GROWING[step["grow"]](old, step)
    check_kept(new, old.layout)
    done = old.plan.recipe
    return replace(new, recipe=None if done is None else (*done, step))


def _deepened(old: Opened, step: Step) -> Plan:
    layer_map = depth_modes.layer_map(len(old.plan.growth.layers), step)
    expands = step.get("mode") == "expand"
    new_layers = step.get("new_layers", "identity" if expands else "copy")
    if new_layers not in NEW_LAYERS:
        raise UsageError(f"--new-layers {new_layers} is not known", choose(new_layers, NEW_LAYERS))
    return build.deepen(old.plan, old.layout, layer_map, identity=new_layers == "identity")


def _widened(old: Opened, step: Step) -> Plan:
    plan, layout = old
    preset = step.get("preset", "orthogonal")
    if preset not in width_presets.PRESETS:
        raise UsageError(f"--preset {preset} is not known", choose(preset, width_presets.PRESETS))
    chosen = {**width_presets.PRESETS[preset], **step}
    noise, seed, order = chosen["noise"], chosen.get("seed", 0), chosen["order"]
    if order not in ORDERS:
        raise UsageError(f"--order {order} is not known", choose(order, ORDERS))
    if not 0 <= noise < 1e6:
        raise UsageError(f"--noise {noise} makes no sense", "use a number from 0 up, such as 0.01")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed} is out of range", "use a number from 0 up")
    # The jitter of upcycling is a preset's alone: no option spells it.
    router = step.get("router")
    if router is not None and router not in width_presets.ROUTERS:
        raise UsageError(f"--router {router} is not known", choose(router, width_presets.ROUTERS))
    rounding = step.get("rounding", "nearest")
    if rounding not in ROUNDINGS:
        raise UsageError(f"--rounding {rounding} is not known", choose(rounding, ROUNDINGS))
    count = len(plan.growth.experts)
    kind = layout.family.router.kind
    experts = str(step.get("experts", "2x"))
    wanted = width_presets.expert_count(experts, count, kind)
    maps.check_size(wanted, "experts")
    drawn = Noise("finite" if step.get("allow_nonfinite") else "normal", noise, seed, rounding)
    asked = chosen["top_k"]
    if kind == "skip" and asked == "scale":
        asked = "keep"
    new = build.widen(
        plan,
        layout,
        width_presets.expert_map(layout, count, wanted, order),
        top_k=width_presets.top_k(asked, plan.growth.top_k, wanted, count),
        weight_noise=drawn if noise else None,
        router_noise=width_presets.router_noise(chosen["router"], drawn),
    )
    check_ways(new, layout)
    return new


def _converted(old: Opened, step: Step) -> Plan:
    found = {}
    for key, option in (("dtype", "--dtype"), ("experts_dtype", "--experts-dtype")):
        name = step.get(key)
        if name is not None and name not in DTYPES:
            raise UsageError(f"{option} {name} is not known", choose(name, DTYPES))
        found[key] = DTYPES[name] if name else ""
    storage = Storage(found["dtype"], found["experts_dtype"])
    return build.store(old.plan, old.layout, storage)


_GROWING = {"depth": _deepened, "width": _widened, "convert": _converted}


def _call(step: Step, family: str | os.PathLike[str] | None, revision: str | None) -> str:
    """The Python call that a plan notes where no command line made it."""
    options = {key: value for key, value in step.items() if key != "grow"}
    own = None if family is None else str(family)
    spelled = _spelled(**options, family=own, revision=revision)
    return f"moegrow.{step['grow']}(source{', ' if spelled else ''}{spelled})"


def _spelled(**arguments: Any) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
