"""List sizes that a checkpoint can grow to, with the commands for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from moegrow.analysis.seams import deep_options, first_taken
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.options import typed
from moegrow.planning import grow, model_size, serving, serving_layers
from moegrow.planning.model_size import ModelSize
from moegrow.planning.open_source import Opened
from moegrow.planning.plan import Plan
from moegrow.steps import Convert, Width

_WIDE = Width(experts="2x", noise=0.01)
# Quantised weights lose most of the noise, so those that get it are written in bf16.
_DECODED = (Convert(), Convert(experts_dtype="bf16"), Convert(dtype="bf16"))


@dataclass(frozen=True)
class Target:
    """A size to grow to, by a command. Where that is `refused`, there are no numbers.

    `tokens` cost the grown model as much to train on as the source has cost. `instead` says why
    the command is another than for most models.
    """

    name: str
    command: str
    numbers: ModelSize | None
    tokens: int | None = None
    warnings: tuple[str, ...] = ()
    refused: str = ""
    instead: str = ""


class _Made(NamedTuple):
    """A command with its plan; `problem` is why a plainer one is refused, or where there is no
    plan, why this one is. `decoded` are those of its options that say what is decoded."""

    command: str
    plan: Plan | None
    problem: str
    decoded: tuple[Convert, ...] = _DECODED


def targets(opened: Opened, now: ModelSize, sunk: int | None, *, stack: bool) -> Iterator[Target]:
    """What the recipes make of the checkpoint: deeper, wider, both, and wider at the same cost.

    `stack`: whether to stack layers rather than interpose them. Where the model does not take the
    one, it is the other. `sunk` is what its training cost, in FLOPs, where known.
    """
    deep, wide = _deepened(opened, stack=stack), _widened(opened, _WIDE)
    both = deep
    if deep.plan:
        both = _widened(opened._replace(plan=deep.plan), _WIDE, wide.decoded)
    both = both._replace(
        command=f"{deep.command} --plan | {wide.command}",
        problem="" if both.plan else both.problem,
    )
    yield Target("as it is", "", now, on_tokens(sunk, now))
    for name, made in (
        ("depth 2x", deep), ("width 2x", wide), ("both 2x", both),
        ("upcycling", _widened(opened, Width(preset="upcycling"))),
    ):  # fmt: skip
        if made.plan is None:
            yield Target(name, made.command, None, refused=made.problem)
            continue
        after = model_size.grown_numbers(made.plan, opened.layout)
        yield Target(
            name, made.command, after, on_tokens(sunk, after), _served(made.plan, opened.layout),
            instead=made.problem,
        )  # fmt: skip


def on_tokens(sunk: int | None, numbers: ModelSize) -> int | None:
    """On how many tokens a model trains at the cost of `sunk` FLOPs."""
    return None if sunk is None else sunk // (6 * numbers.active_parameters)


def _deepened(opened: Opened, *, stack: bool) -> _Made:
    ways = deep_options(opened.layout)
    step, plan, refused = first_taken(opened, chain(*(reversed(ways) if stack else ways)))
    problem = refused.headline if refused else ""
    if plan and (found := serving_layers.suiting(plan, opened.layout)):
        problem = next(serving_layers.warnings(plan, opened.layout))
        step = replace(found[0], times=None)
        plan = grow.grown(opened, step.spelled_out()).plan
    return _Made(f"moegrow depth {typed(step)}", plan, problem)


def _served(plan: Plan, layout: Layout) -> tuple[str, ...]:
    return (*serving.warnings(plan, layout), *serving_layers.warnings(plan, layout))


def _widened(opened: Opened, step: Width, ways: tuple[Convert, ...] = _DECODED) -> _Made:
    """The command with the first of some ways to decode with which it is not refused."""
    problem = ""
    for decoded in ways:
        try:
            plan = grow.stored(opened, decoded, step).plan
        except MoegrowError as error:
            problem = problem or error.headline
        else:
            command = f"moegrow width {typed(step, decoded)}"
            return _Made(command, plan, problem, (decoded,))
    return _Made(f"moegrow width {typed(step)}", None, problem)
