"""The summary of a plan is coloured by what its notes are, also where it was printed in between."""

import io

import pytest
from rich.console import Console

import moegrow
from moegrow.cli import summaries
from moegrow.planning.open_source import load
from moegrow.planning.plan_lines import to_lines

YELLOW = "\x1b[33m"


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """The lines of a plan's summary, as a terminal with colours gets them."""

    def shown(plan):
        file = io.StringIO()
        person = Console(
            file=file, force_terminal=True, color_system="standard", width=1000, highlight=False
        )
        monkeypatch.setattr(summaries, "_person", lambda: person)
        summaries.summary(*load(plan), tmp_path / "grown")
        return file.getvalue().splitlines()

    return shown


@pytest.mark.parametrize(("top_k", "coloured"), [("scale", 0), ("keep", 1)])
@pytest.mark.parametrize("is_printed", [False, True])
def test_a_lost_function_alone_is_yellow(shown, checkpoint, tmp_path, top_k, coloured, is_printed):
    plan = moegrow.width(moegrow.depth(checkpoint()), top_k=top_k)
    if is_printed:
        (tmp_path / "plan.jsonl").write_text("".join(f"{line}\n" for line in to_lines(plan)))
        plan = tmp_path / "plan.jsonl"
    lines = shown(plan)
    assert sum(line.startswith(f"{YELLOW}width: ") for line in lines) == coloured
    assert sum(YELLOW in line for line in lines) == coloured
    assert any(line.startswith("depth: ") for line in lines)
