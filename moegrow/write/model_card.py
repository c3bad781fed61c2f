"""Write the model card of a result: its source, what was done, and the command."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moegrow import __version__
from moegrow.checkpoint.card_metadata import MOST, Carried, front_matter, read_metadata
from moegrow.checkpoint.hub import is_name
from moegrow.checkpoint.store import CARD, Store, read_range, scheme
from moegrow.errors import one_line
from moegrow.growth import Noise
from moegrow.planning.noted_command import Form, read_command
from moegrow.planning.plan import Plan
from moegrow.recipes.recipe import Recipe, to_toml

LONGEST = 20_000  # characters of a line that others have written


def model_card(plan: Plan, name: str, carried: Carried, files: Iterable[str] = ()) -> str:
    """The text of README.md for the result of a plan that is written to a folder `name`.

    `carried` is what goes on of the source's card, and `files` are those that the result has from
    its source, to which a link to the licence may lead.
    """
    base = base_model(plan)
    source = _plain(base or plan.source.name)
    lines = [
        front_matter(_metadata(plan, base, carried, set(files))).rstrip(),
        "",
        f"# {_plain(name)}",
        "",
        f"Grown from **{source}** with moegrow {__version__}, and not trained since.",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for step in plan.steps:
        for key, (before, after) in step.numbers.items():
            lines.append(f"| {key.replace('_', '-')} | {before} | {after} |")
    lines += ["", "## What was done", ""]
    lines += [
        f"- {_plain(step.axis)}: {_plain(str(note))}" for step in plan.steps for note in step.notes
    ]
    lines += ["", "## How to do it again", "", *_again(plan), ""]
    lines.append(f"- base model: {source} (model type {_plain(plan.family)})")
    if commit := _repository(plan)[1]:
        lines.append(f"- base model's commit: `{commit}`")
    seeds = sorted({noise.seed for noise in _noises(plan)})
    lines.append(f"- seed: {', '.join(map(str, seeds)) if seeds else 'none, nothing was drawn'}")
    lines.append(f"- version: moegrow {__version__}")
    lines.append("- every tensor and where it came from: `moegrow-plan.jsonl`")
    if not carried.is_whole:
        lines.append(
            "- the base model's card has metadata that could not be read: see there for its licence"
        )
    return "\n".join(lines) + "\n"


def _again(plan: Plan) -> Iterator[str]:
    """The commands in the form in which they were given: piped, through files, or in Python."""
    shell: list[str] = []
    python: list[str] = []
    for command in map(read_command, plan.commands):
        match command.form:
            case Form.PYTHON:
                source = "(plan" if shell or python else "(source"
                python.append(f"plan = {command.text.replace('(source', source)}")
            case Form.PIPED if shell:
                shell[-1] += f" {command.text}"
            case Form.PIPED | Form.SHELL:
                shell.append(f"$ {command.text}")
    if shell:
        yield from _fenced("console", shell)
    if python:
        yield from _fenced("python", [*python, "moegrow.apply(plan, output)"])
    if plan.recipe:
        yield from ("", "The same as a recipe, for `moegrow run`:", "")
        yield from _fenced("toml", to_toml(Recipe(steps=plan.recipe)).splitlines())


def carried_from(store: Store) -> Carried:
    """What goes on of the card of a source, where it has one."""
    if not store.has(CARD):
        return Carried()
    store.check(CARD)
    text = read_range(store, CARD, 0, min(store.size(CARD), MOST))
    return read_metadata(text.decode("utf-8", "replace"))


def base_model(plan: Plan) -> str:
    """The name on the Hub of what a plan grows from, or "" where none is known."""
    return _repository(plan)[0]


def _repository(plan: Plan) -> tuple[str, str]:
    """The repository and the commit that a plan reads, also from the cache of the Hub."""
    if scheme(plan.source.path) == "hf":
        name, _, commit = plan.source.path.removeprefix("hf://").partition("@")
        return name, commit.partition("/")[0]
    parts = Path(plan.source.path).parts
    if len(parts) > 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        name = parts[-3].removeprefix("models--").replace("--", "/")
        return (name, parts[-1]) if is_name(name) else ("", "")
    return "", ""


def _metadata(plan: Plan, base: str, carried: Carried, files: set[str]) -> dict[str, Any]:
    """What the card says to machines.

    The Hub knows a base model's adapters, merges, fine-tunes and quantised forms; a grown model is
    none of these, so no relation is claimed.
    """
    values: dict[str, Any] = {"base_model": base} if base else {}
    values |= carried.values
    link = values.get("license_link")
    if link and "://" not in link and link not in files:
        name, commit = _repository(plan)
        values["license_link"] = f"https://huggingface.co/{name}/blob/{commit}/{link}"
        if not base:
            del values["license_link"]
    axes = [f"grown-in-{step.axis}" for step in plan.steps if step.axis in ("depth", "width")]
    tags = ["mixture-of-experts", "moegrow", *axes]
    return {**values, "library_name": "transformers", "tags": tags}


def _plain(text: str) -> str:
    """A text that others have written, on one line, with nothing in it that Markdown reads."""
    words = " ".join(text.split())[:LONGEST]
    shown = "".join(mark for mark in words if mark.isprintable())
    return re.sub(r"([\\`*\[\]<>|~&]|\b_|_\b)", r"\\\1", shown)


def _fenced(language: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines as a block of code that nothing in them ends."""
    shown = [one_line(line)[:LONGEST] for line in lines]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}{language}", *shown, fence)


def _noises(plan: Plan) -> list[Noise]:
    growth = plan.growth
    return [noise for noise in growth.weight_noise + growth.router_noise if noise]
