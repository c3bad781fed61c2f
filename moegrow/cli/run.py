"""The commands `run` and `recipes`."""

from dataclasses import asdict, replace
from typing import Annotated

import typer

from moegrow.checkpoint.store import Reading
from moegrow.cli.finish import finish
from moegrow.cli.grow import begin
from moegrow.cli.options import JsonOption, Planning, Source, Writing
from moegrow.cli.terminal import command_line, phase, print_json, print_lines, read_source
from moegrow.errors import printable
from moegrow.recipes import cookbook
from moegrow.steps import to_table


def recipe_names(incomplete: str) -> list[str]:
    """The recipes that ship whose names begin so; where there are none, the shell offers files."""
    return [name for name in cookbook.texts() if name.startswith(incomplete)] if incomplete else []


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's file (.toml), or the name of one that ships.",
            autocompletion=recipe_names,
        ),
    ],
    source: Source = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=False, help="The seed of all steps."),
    ] = None,
    *,
    reading: Reading,
    planning: Planning,
    writing: Writing,
) -> None:
    """Grow a checkpoint by a recipe."""
    from moegrow.planning import grow

    written = cookbook.open_recipe(recipe)
    if reading.family is None:
        reading = replace(reading, family=written.family)
    # A path that the recipe names is one, also where it reads "-".
    named = source is None and written.source is not None
    read = written.source if named else read_source(source)
    command = command_line(written.source if named else source, read)
    with phase("planning", quiet=writing.quiet or planning.plan):
        old = begin(read, reading)
        grown = grow.run(old, written, seed=seed, command=command)
    if writing.output is None and not planning.plan:
        writing = replace(writing, output=written.output)
    if writing.max_shard_size is None:
        writing = replace(writing, max_shard_size=written.max_shard_size)
    finish(grown, old.layout, writing, planning, command=command, reading=reading)


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Print this recipe, to read or to change it.", autocompletion=recipe_names
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that ship with moegrow."""
    names = list(cookbook.shipped()) if name is None else [name]
    found = {each: cookbook.open_recipe(each) for each in names}
    if as_json:
        print_json(
            {
                each: asdict(recipe) | {"steps": [to_table(step) for step in recipe.steps]}
                for each, recipe in found.items()
            }
        )
    elif name is not None:
        print(printable(cookbook.texts()[name]), end="")
    else:
        print_lines(f"{each:<17} {recipe.about} ({recipe.paper})" for each, recipe in found.items())
