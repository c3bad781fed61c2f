"""The tables of docs/serving.md, in Markdown, from what the engines' scripts have printed.

    python tests/engines/table.py tests/engines/results

A test holds that the page has them.
"""

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import EQUAL, runs

AGREES = 1e-3  # nats between two programs that compute the same in float32
CASES = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())
OPERATIONS = {
    "source": {"title": "The source, against transformers", "command": "", "expects": ""}
} | CASES["operations"]

Rows = dict[tuple[str, str, str], dict[str, Any]]  # by engine, operation and model


def read(results: Path) -> tuple[list[list[dict[str, Any]]], Rows]:
    """All runs, and their lines by what they speak of."""
    found = [run for path in sorted(results.glob("*.jsonl")) for run in runs(path)]
    rows = {
        (head["engine"], line["operation"], line["model"]): line
        for head, *lines in found
        for line in lines
    }
    return found, rows


def markdown(results: Path) -> str:
    """All tables, and the messages of what was refused."""
    found, rows = read(results)
    engines = list(dict.fromkeys(head["engine"] for head, *_ in found))
    parts = [
        table(
            ("engine", "run on", "versions", "models"),
            [
                (
                    head["engine"],
                    head["date"],
                    _versions(head["versions"]) + _made(head),
                    ", ".join(f"`{name}`" for name in dict.fromkeys(row["model"] for row in lines)),
                )
                for head, *lines in found
            ],
        )
    ]
    for operation, told in OPERATIONS.items():
        body = [
            (f"`{model}`", *(cell(rows, engine, operation, model) for engine in engines))
            for model in CASES["models"]
            if any((engine, operation, model) in rows for engine in engines)
        ]
        shown = told["command"].format(periods="PERIODS")
        command = f"\n`moegrow {shown}`\n" if shown else ""
        if operation == "periods":
            body = [(row[0], f"`{_periods(row[0])}`", *row[1:]) for row in body]
        titles = ("model", *(["periods"] if operation == "periods" else []), *engines)
        parts.append(f"### {told['title']}\n{command}\n{table(titles, body)}")
    return "\n\n".join([*parts, "### Messages\n\n" + "\n".join(messages(rows))]) + "\n"


def table(titles: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *body]
    return "\n".join(
        "|---" * len(titles) + "|" if line[0] == "---" else f"| {' | '.join(line)} |"
        for line in lines
    )


def cell(rows: Rows, engine: str, operation: str, model: str) -> str:
    """What became of one checkpoint in one engine; faults of the source are not the result's."""
    row = rows.get((engine, operation, model))
    source = rows.get((engine, "source", model))
    if row is None or source is None:
        return "not run"
    if row["outcome"] == "not grown":
        return "refused by moegrow"
    if source["outcome"] != "ran":
        return "not taken" if operation == "source" else "–"
    if row["outcome"] != "ran":
        return f"**{row['outcome']}**"
    if row["expects"] == "source":
        if row["nats"] <= EQUAL:
            return "equal"
        is_rounding = row["nats"] <= min(source["nats"], AGREES)
        return f"{row['nats']:.2g}" if is_rounding else f"**off by {row['nats']:.2g}**"
    if operation != "source" and source["nats"] > AGREES:
        return "as its source"
    return "agrees" if row["nats"] <= AGREES else f"differs by {row['nats']:.2g}"


def messages(rows: Rows) -> Iterator[str]:
    """A line for each message, with what was refused by it; of a source that is not taken, once."""
    found: dict[tuple[str, str], list[str]] = {}
    for (engine, operation, model), row in rows.items():
        source = rows[engine, "source", model]
        if row["outcome"] == "refused" and (operation == "source" or source["outcome"] == "ran"):
            title = "the source" if operation == "source" else OPERATIONS[operation]["title"]
            found.setdefault((engine, row["message"]), []).append(f"`{model}` ({title})")
    for (engine, message), where in found.items():
        quoted = message.replace("`", "'")
        yield f"- {engine}, {', '.join(where)}: `{quoted}`"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _made(head: dict[str, Any]) -> str:
    """The versions that the models were made with, where the run has kept them."""
    return f"; made with {_versions(head['made with'])}" if "made with" in head else ""


def _periods(model: str) -> str:
    return CASES["models"][model.strip("`")]["periods"]


if __name__ == "__main__":
    print(markdown(Path(sys.argv[1])), end="")
