"""Below the command line no text spells a flag: messages hold parameters as values."""

import ast
import re
from collections.abc import Iterator
from doctest import DocTestParser
from pathlib import Path

import moegrow

HOME = Path(moegrow.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]|(?<!\S)-o\b")

# Fragments of texts by the files that hold them.
ALLOWED = {
    # The spellings themselves.
    "options.py": ("--logits", "--plan", "--push", "-o", "--shards", "--prompt"),
    # Command lines to type in a shell.
    "kernels/changes.py": ("moegrow inspect --values",),
    "analysis/run_layerwise.py": ("moegrow inspect --values",),
    "analysis/seams.py": ("moegrow norms --seams --sample",),
    "analysis/growth_targets.py": ("--plan | ",),
    "checkpoint/hub.py": ("--download",),
    # A word of the commands that a plan notes.
    "planning/noted_command.py": ("--plan",),
    # Notices of a plan, which the terminal, JSON documents and the report show alike.
    "planning/addressed_layers.py": ("--keep-first ", "--layers that begin with"),
    # A sentence on the progress of a run, and one of the page that `moegrow report` writes.
    "write/run_job.py": ("removed, as --force asks",),
    "analysis/html_report.py": ("--verify measures it",),
    # Names of colours in a style sheet.
    "analysis/drawings.py": ("--panel", "--text", "--muted"),
}


def texts(path: Path) -> Iterator[str]:
    """The string literals of a file, docstrings too, without their examples."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = DocTestParser().parse(node.value)
            yield "".join(part for part in parts if isinstance(part, str))


FILES = {
    str(path.relative_to(HOME)): "\n".join(texts(path))
    for path in HOME.rglob("*.py")
    if path.parent.name != "cli"
}


def test_no_text_below_the_command_line_spells_a_flag():
    found = {}
    for name, text in FILES.items():
        for fragment in sorted(ALLOWED.get(name, ()), key=len, reverse=True):
            text = text.replace(fragment, "")
        if lines := [line for line in text.splitlines() if FLAG.search(line)]:
            found[name] = lines
    assert found == {}


def test_what_is_allowed_is_there():
    gone = [
        (name, fragment)
        for name, fragments in ALLOWED.items()
        for fragment in fragments
        if fragment not in FILES[name]
    ]
    assert gone == []
