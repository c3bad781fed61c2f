"""Steps: one definition of every option, for Python, the command line and recipes."""

import inspect
from dataclasses import dataclass, fields
from typing import Annotated, get_args

import pytest

import moegrow
from moegrow.cli import grow
from moegrow.cli.options import spread
from moegrow.errors import UsageError
from moegrow.options import Option, described, part, said, typed
from moegrow.planning import depth_modes, width_presets
from moegrow.recipes.recipe import read_step
from moegrow.steps import KINDS, Convert, Depth, Mode, PresetName, Width, to_table


@pytest.mark.parametrize(
    ("kind", "verb", "method", "command"),
    [
        (Depth, moegrow.depth, moegrow.Model.deepen, grow.depth),
        (Width, moegrow.width, moegrow.Model.widen, grow.width),
        (Convert, moegrow.convert, moegrow.Model.convert, grow.convert),
    ],
)
def test_every_option_is_one_of_its_verb_and_its_command(kind, verb, method, command):
    names = [field.name for field in fields(kind)]
    for taker in (verb, method):
        assert [name for name in inspect.signature(taker).parameters if name in names] == names
    assert [
        name for name in inspect.signature(spread(command)).parameters if name in names
    ] == names
    for name, entry in described(kind).items():
        assert f"\n{name}: {entry.option.help}" in verb.__doc__
        assert f"\n{name}: {entry.option.help}" in method.__doc__


def test_an_option_is_added_by_its_definition_alone(monkeypatch):
    """A new field is known to recipes and the command line, and is noted where it is given."""

    @dataclass(frozen=True, kw_only=True)
    class Deeper(Depth):
        skip: Annotated[int | None, Option("Skip the first N.", metavar="N")] = None

    def deeper(*, step: Deeper) -> None: ...

    monkeypatch.setitem(KINDS, "depth", Deeper)
    step = read_step({"grow": "depth", "skip": 3}, "it")
    assert to_table(step) == {"grow": "depth", "skip": 3}
    assert typed(step) == "--skip 3"
    parameter = inspect.signature(spread(deeper)).parameters["skip"]
    (option,) = parameter.annotation.__metadata__
    assert (option.help, option.metavar) == ("Skip the first N.", "N")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: Depth(mode="stak"), "mode='stak' is not known", "did you mean stack?"),
        (lambda: Width(order="behind"), "order='behind' is not known", "append, interleave"),
        (lambda: Convert(dtype="bf15"), "dtype='bf15' is not known", "did you mean bf16?"),
        (lambda: Width(noise=-0.1), "noise=-0.1 makes no sense", "from 0 up, such as 0.01"),
        (lambda: Width(noise=float("nan")), "noise=nan makes no sense", "from 0 up"),
        (lambda: Width(noise=1e6), "noise=1000000.0 makes no sense", "from 0 up"),
        (lambda: Width(seed=2**63), f"seed={2**63} is out of range", "from 0 up"),
    ],
)
def test_a_value_that_makes_no_step_is_refused(make, message, hint):
    with pytest.raises(UsageError) as refused:
        make()
    assert refused.value.message == message
    assert hint in refused.value.hint


def test_what_is_said_is_what_is_not_the_default():
    assert said(Depth(keep_first=0, group=1)) == {}
    assert said(Width(seed=0, noise=0, allow_nonfinite=True)) == {
        "noise": 0, "seed": 0, "allow_nonfinite": True,
    }  # fmt: skip


def test_defaults_are_filled_in_where_a_call_gives_nothing():
    assert part(Width(seed=3), Width) == Width(experts="2x", seed=3, preset="orthogonal")


@pytest.mark.parametrize(
    ("step", "spelled"),
    [
        (Depth(), Depth(mode="interpose", times="2x")),
        (Depth(to=5), Depth(mode="interpose", to=5)),
        (Depth(mode="stack", times=3), Depth(mode="stack", times=3)),
        (Depth(mode="expand", every=2), Depth(mode="expand", every=2)),
        (Depth(layers="0,0"), Depth(layers="0,0")),
    ],
)
def test_mode_and_size_of_a_depth_step_are_spelled_out(step, spelled):
    assert step.spelled_out() == spelled


GIVEN = {"times": 2, "to": 8, "keep_first": 1, "keep_last": 1, "group": 2, "every": 2, "drop": 1}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_an_option_goes_with_the_modes_that_its_definition_names(mode, name):
    needed = {"expand": {"every": 2}, "overlap": {"drop": 1}}.get(mode, {})
    step = Depth(mode=mode, **(needed | {name: GIVEN[name]}))
    if mode in described(Depth)[name].option.modes:
        assert len(depth_modes.layer_map(4, step)) > 4
    else:
        with pytest.raises(UsageError, match=f"^{name} does not go with mode='{mode}'$"):
            depth_modes.layer_map(4, step)


def test_every_preset_is_there_and_what_is_given_overrides_it():
    assert width_presets.PRESETS.keys() == set(get_args(PresetName))
    chosen = width_presets.chosen(Width(preset="upcycling", noise=0.5, order="interleave"))
    assert (chosen.noise, chosen.top_k, chosen.router) == (0.5, "keep", "uniform")
    assert chosen.order == "interleave"
    assert width_presets.chosen(Width(top_k=0)).top_k == 0
