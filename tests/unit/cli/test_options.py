"""Options in groups: every option of a group is one of the command that takes the group."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from moegrow.checkpoint.store import Reading
from moegrow.cli import grow
from moegrow.cli.options import Writing, spread


@dataclass(frozen=True)
class Drawing:
    seed: Annotated[int, typer.Option(help="The seed.")] = 0
    noise: float = 0.5


def draw(source: str, *, drawing: Drawing, quiet: bool = False) -> None:
    """Draw."""
    print(source, drawing, quiet)


def test_the_options_of_a_group_stand_in_its_place():
    parameters = inspect.signature(spread(draw)).parameters
    assert list(parameters) == ["source", "seed", "noise", "quiet"]
    assert parameters["seed"].default == 0
    assert parameters["seed"].annotation is Drawing.__annotations__["seed"]
    assert parameters["source"].default is inspect.Parameter.empty


def test_the_command_gets_its_group(capsys):
    spread(draw)(source="ckpt", seed=3, noise=0.1, quiet=True)
    assert capsys.readouterr().out == "ckpt Drawing(seed=3, noise=0.1) True\n"


def test_a_command_keeps_its_name_and_what_it_says_of_itself():
    assert (spread(draw).__name__, spread(draw).__doc__) == ("draw", "Draw.")


def test_two_options_of_one_name_are_seen_at_once():
    def twice(*, seed: int, drawing: Drawing) -> None: ...

    with pytest.raises(AssertionError, match="seed"):
        spread(twice)


@pytest.mark.parametrize("command", [grow.depth, grow.width, grow.apply])
def test_every_command_that_writes_has_every_option_of_writing(command):
    assert (
        Writing.__dataclass_fields__.keys() <= inspect.signature(spread(command)).parameters.keys()
    )


@pytest.mark.parametrize("command", [grow.depth, grow.width])
def test_every_command_that_reads_a_source_has_every_option_of_reading(command):
    assert (
        Reading.__dataclass_fields__.keys() <= inspect.signature(spread(command)).parameters.keys()
    )
