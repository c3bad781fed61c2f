"""The model card of a grown checkpoint: what it was grown from, how, and by which command."""

from collections.abc import Iterator

from moegrow import __version__
from moegrow.errors import one_line
from moegrow.plans import Noise, Plan
from moegrow.recipe import Recipe, to_toml


def model_card(plan: Plan, name: str) -> str:
    """The text of README.md for the result of a plan that is written to a folder `name`."""
    base = one_line(plan.source.path.name)
    lines = [
        "---",
        "library_name: transformers",
        "tags:",
        "- mixture-of-experts",
        "- moegrow",
        "---",
        "",
        f"# {one_line(name)}",
        "",
        f"Grown from **{base}** with moegrow {__version__}, and not trained since.",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for step in plan.steps:
        for key in ("layers", "experts", "top_k"):
            if key in step:
                before, after = step[key]
                lines.append(f"| {key.replace('_', '-')} | {before} | {after} |")
    lines += ["", "## What was done", ""]
    for step in plan.steps:
        lines += [one_line(f"- {step['axis']}: {sentence}") for sentence in step["says"]]
    lines += ["", "## How to do it again", "", *_again(plan)]
    lines += ["", f"- base model: {base} (model type `{one_line(plan.family)}`)"]
    seeds = sorted({noise.seed for noise in _noises(plan)})
    lines.append(f"- seed: {', '.join(map(str, seeds)) if seeds else 'none, nothing was drawn'}")
    lines.append(f"- version: moegrow {__version__}")
    lines.append("- every tensor and where it came from: `moegrow-plan.jsonl`")
    return "\n".join(lines) + "\n"


def _again(plan: Plan) -> Iterator[str]:
    """The commands in the form in which they were given: piped, through files, or in Python."""
    shell: list[str] = []
    python: list[str] = []
    for command in plan.commands:
        if command.startswith("moegrow."):
            python.append(
                f"plan = {command.replace('(source', '(plan' if shell or python else '(source')}"
            )
        elif command.startswith("| ") and shell:
            shell[-1] += f" {command}"
        else:
            shell.append(f"$ {command}")
    if shell:
        yield from ("```console", *map(one_line, shell), "```")
    if python:
        yield from ("```python", *map(one_line, python), "moegrow.apply(plan, output)", "```")
    if plan.recipe:
        yield from ("", "The same as a recipe, for `moegrow run`:", "", "```toml")
        yield from (to_toml(Recipe(steps=plan.recipe)).rstrip("\n"), "```")


def _noises(plan: Plan) -> list[Noise]:
    growth = plan.growth
    return [noise for noise in growth.weight_noise + growth.router_noise if noise]
