"""The Python functions `depth`, `width`, `convert` and `run`."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar, assert_never, get_type_hints

from moegrow import maps
from moegrow.checkpoint.store import Reading
from moegrow.dtypes import OPTIONS
from moegrow.errors import Parameter, UsageError
from moegrow.growth import Noise
from moegrow.options import Option, described, part, said
from moegrow.planning import build, depth_modes, width_presets
from moegrow.planning.open_source import AnySource, Opened, begin, check_kept, check_unedited
from moegrow.planning.plan import Plan, Storage
from moegrow.planning.quantised_noise import check_ways
from moegrow.recipes import cookbook
from moegrow.recipes.recipe import Recipe
from moegrow.steps import Convert, Depth, Step, Width

P = ParamSpec("P")
C = TypeVar("C", bound="_Call")


# A verb takes the fields of its call, in this order: its step, dtypes, how the source is read.
@dataclass(frozen=True)
class _Call(Reading):
    source: AnySource
    command: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class _Depth(_Call, Convert, Depth):
    pass


@dataclass(frozen=True)
class _Width(_Call, Convert, Width):
    pass


@dataclass(frozen=True)
class _Convert(_Call, Convert):
    pass


@dataclass(frozen=True)
class _Run(_Call):
    recipe: str | os.PathLike[str] | Recipe
    seed: Annotated[int | None, Option("The seed of all steps.")] = field(
        default=None, kw_only=True
    )


def _verb(call: Callable[P, C]) -> Callable[[Callable[[C], Plan]], Callable[P, Plan]]:
    """Turns a function of a call into one that takes what the call is made of."""
    assert isinstance(call, type)
    hints, options = get_type_hints(call), described(call)
    parameters = [
        given.replace(annotation=hints[name], default=options[name].option.default)
        if options[name].option.default is not None
        else given.replace(annotation=hints[name])
        for name, given in inspect.signature(call).parameters.items()
    ]
    helps = [f"{name}: {entry.option.help}" for name, entry in options.items() if entry.option.help]
    text = "\n".join(["", "", *helps, "command: Noted in the plan as what made it."])

    def verb(function: Callable[[C], Plan]) -> Callable[P, Plan]:
        @wraps(function)
        def called(*arguments: P.args, **options: P.kwargs) -> Plan:
            # None says of every option that it is not given.
            given = {name: value for name, value in options.items() if value is not None}
            return function(call(*arguments, **given))

        called.__doc__ = inspect.cleandoc(function.__doc__ or "") + text
        signature = inspect.Signature(parameters, return_annotation=Plan)
        called.__signature__ = signature  # type: ignore[attr-defined]
        return called

    return verb


@_verb(_Depth)
def depth(call: _Depth) -> Plan:
    """The plan of `source` with more layers; nothing is written."""
    return _planned(call, part(call, Depth).spelled_out())


@_verb(_Width)
def width(call: _Width) -> Plan:
    """The plan of `source` with more experts; nothing is written.

    What is not given comes from `preset`.
    """
    return _planned(call, part(call, Width))


@_verb(_Convert)
def convert(call: _Convert) -> Plan:
    """The plan of `source` with its weights in another dtype; nothing is written.

    Values are rounded to nearest even. Weights that are finer than the model's others stay.
    """
    return _planned(call, part(call, Convert))


@_verb(_Run)
def run(call: _Run) -> Plan:
    """The plan of `source` after every step of a recipe; nothing is written.

    recipe: a file, the name of one that ships with moegrow (`moegrow recipes` lists them), or
    one that was read. The plan is that of the same calls of `depth`, `width` and `convert`.
    """
    given = call.recipe if isinstance(call.recipe, Recipe) else str(call.recipe)
    recipe = call.recipe if isinstance(call.recipe, Recipe) else cookbook.open_recipe(call.recipe)
    family = recipe.family if call.family is None else call.family
    old = begin(call.source, family, call.access)
    new = grown(old, *(seeded(step, recipe, call.seed) for step in recipe.steps))
    text = _spelled(recipe=given, seed=call.seed, revision=call.revision)
    return new.plan.noted(call.command or f"moegrow.run(source, {text})")


def seeded(step: Step, recipe: Recipe, seed: int | None) -> Step:
    """A step with the seed that counts: the one asked for, its own, or that of its recipe."""
    if not isinstance(step, Width):
        return step
    return replace(step, seed=next(s for s in (seed, step.seed, recipe.seed, 0) if s is not None))


def grown(old: Opened, *steps: Step) -> Opened:
    """The plan of an open source after some more steps, which are noted in it."""
    for step in steps:
        check_unedited(old.plan)
        new = _step(old, step)
        check_kept(new, old.layout)
        done = old.plan.recipe
        new = replace(new, recipe=None if done is None else (*done, step))
        old = old._replace(plan=new)
    return old


def stored(old: Opened, storing: Convert, *steps: Step) -> Opened:
    """As `grown`, first with the weights in the dtypes asked for; they alone must ask for one."""
    if not steps and not said(storing):
        raise UsageError("convert needs to know what to write", "add " + Parameter("dtype", "bf16"))
    return grown(old, *([storing] if said(storing) else []), *steps)


def _planned(call: _Depth | _Width | _Convert, step: Step) -> Plan:
    """The plan of a call, which is noted in it as Python has it, unless a command is given."""
    storing = part(call, Convert)
    old = begin(call.source, call.family, call.access)
    new = stored(old, storing, *([] if isinstance(step, Convert) else [step])).plan
    family = None if call.family is None else str(call.family)
    options = said(step) | said(storing)
    text = _spelled(**options, family=family, revision=call.revision)
    return new.noted(call.command or f"moegrow.{step.grow}(source{', ' if text else ''}{text})")


def _spelled(**arguments: object) -> str:
    given = (Parameter(name, value) for name, value in arguments.items() if value is not None)
    return ", ".join(map(str, given))


def _step(old: Opened, step: Step) -> Plan:
    match step:
        case Depth():
            return _deepened(old, step)
        case Width():
            return _widened(old, step)
        case Convert(dtype=dtype, experts_dtype=experts):
            stored = (OPTIONS[name] if name else "" for name in (dtype, experts))
            return build.store(old.plan, old.layout, Storage(*stored))
        case _:
            assert_never(step)


def _deepened(old: Opened, step: Depth) -> Plan:
    layer_map = depth_modes.layer_map(len(old.plan.growth.layers), step)
    new_layers = step.new_layers or ("identity" if step.mode == "expand" else "copy")
    return build.deepen(old.plan, old.layout, layer_map, identity=new_layers == "identity")


def _widened(old: Opened, step: Width) -> Plan:
    plan, layout = old
    chosen = width_presets.chosen(step)
    kind, count = layout.family.router.kind, len(plan.growth.experts)
    experts = "2x" if step.experts is None else str(step.experts)
    wanted = width_presets.expert_count(experts, count, kind)
    maps.check_size(wanted, "experts")
    drawn = Noise(
        "finite" if step.allow_nonfinite else "normal", chosen.noise, step.seed or 0,
        step.rounding or "nearest",
    )  # fmt: skip
    asked = "keep" if kind == "skip" and chosen.top_k == "scale" else chosen.top_k
    new = build.widen(
        plan,
        layout,
        width_presets.expert_map(layout, count, wanted, chosen.order),
        top_k=width_presets.top_k(asked, plan.growth.top_k, wanted, count),
        weight_noise=drawn if drawn.amount else None,
        router_noise=width_presets.router_noise(chosen.router, drawn),
    )
    check_ways(new, layout)
    return new
