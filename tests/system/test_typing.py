"""A caller's script is checked by mypy: slips in the options of the verbs are errors."""

import os
import re
import subprocess
import sys

import pytest
from repository import ROOT

WRONG = """\
import moegrow

moegrow.depth("ckpt", mode="stak")
moegrow.width("ckpt", nois=0.1)
moegrow.width("ckpt", noise="much")
moegrow.open("ckpt").deepen(mode="stak")
moegrow.open("ckpt").widen(nois=0.1)
moegrow.Depth(mode="stak")
"""
RIGHT = """\
from pathlib import Path

import moegrow

plan: moegrow.Plan = moegrow.depth(Path("ckpt"), mode="stack", times=3, dtype="bf16")
plan = moegrow.width(source=plan, noise=0, top_k="keep", links_to=["/data"], command="mine")
plan = moegrow.convert(plan, dtype="fp16", family="mine.toml", revision="main")
recipe = moegrow.Recipe(steps=(moegrow.Depth(mode="expand", every=4), moegrow.Width(seed=3)))
plan = moegrow.run(plan, recipe, seed=4)
model: moegrow.Model = moegrow.open("ckpt").deepen(to=12).widen(noise=0.01).convert(dtype="bf16")
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """The errors that mypy --strict finds, by the script and the line."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, text in (("wrong.py", WRONG), ("right.py", RIGHT)):
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
         "--follow-imports=silent", f"--cache-dir={folder}", "wrong.py", "right.py"],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"MYPYPATH": str(ROOT)},
    )  # fmt: skip
    found = re.findall(r"^(\S+):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert len(found) == done.stdout.count("error:"), done.stdout + done.stderr
    return {(file, int(line)): text for file, line, text in found}


def test_slips_are_errors_in_their_lines(errors):
    says = {
        3: 'Argument "mode" .*"Literal[\'stak\']"; expected "Literal[\'interpose\', \'stack\',',
        4: 'Unexpected keyword argument "nois"',
        5: 'Argument "noise" .*"str"; expected "float | int | None"',
        6: 'Argument "mode"', 7: 'Unexpected keyword argument "nois"', 8: 'Argument "mode"',
    }  # fmt: skip
    assert {line for file, line in errors if file == "wrong.py"} == says.keys()
    for line, text in says.items():
        pattern = re.sub(r"([\[\]|])", r"\\\1", text)
        assert re.search(pattern, errors["wrong.py", line])


def test_a_script_without_slips_has_no_error(errors):
    assert not [line for file, line in errors if file == "right.py"]
