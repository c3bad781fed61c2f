"""The model card of a grown checkpoint: what it was grown from, how, and by which command."""

from moegrow import __version__
from moegrow.errors import one_line
from moegrow.plans import Noise, Plan


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
    lines += ["", "## How to do it again", "", "```console"]
    lines.append(one_line(f"$ {' | '.join(plan.commands)}"))
    lines += ["```", "", f"- base model: {base} (model type `{one_line(plan.family)}`)"]
    seeds = sorted({noise.seed for noise in _noises(plan)})
    lines.append(f"- seed: {', '.join(map(str, seeds)) if seeds else 'none, nothing was drawn'}")
    lines.append(f"- version: moegrow {__version__}")
    lines.append("- every tensor and where it came from: `moegrow-plan.jsonl`")
    return "\n".join(lines) + "\n"


def _noises(plan: Plan) -> list[Noise]:
    growth = plan.growth
    return [noise for noise in growth.weight_noise + growth.router_noise if noise]
