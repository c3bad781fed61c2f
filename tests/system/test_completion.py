"""Completion as the shells ask for it: commands, options, values, names of recipes, and paths."""

import functools
import os
import pty
import select
import shlex
import shutil
import subprocess
import time

import pytest
from conftest import MOEGROW


@pytest.fixture
def program(nursery, tmp_path):
    """A folder with a program called moegrow, as a shell finds it."""
    (tmp_path / "bin").mkdir()
    file = tmp_path / "bin" / "moegrow"
    file.write_text(f'#!/bin/sh\nexec {shlex.join(nursery.command)} "$@"\n')
    file.chmod(0o755)
    return file.parent


def environment(program):
    return os.environ | {"PATH": f"{program}:{os.environ['PATH']}", "HOME": str(program)}


def bash(program, *words):
    """What bash offers for the last of some words, by the function that it calls on tab."""
    shown = shown_for("bash")
    script = (
        f"{shown}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f"COMP_CWORD={len(words) - 1}\n_moegrow_completion moegrow\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True,
        env=environment(program),
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@functools.cache
def shown_for(shell):
    """The code that a shell is given to complete, which is for any program called moegrow."""
    done = subprocess.run(
        [*MOEGROW, "--show-completion", shell], capture_output=True, text=True, check=True,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["wi"], ["width"]),
        (["rec"], ["recipes"]),
        (["depth", "--mode", ""], ["interpose", "stack", "expand", "overlap"]),
        (["depth", "--mode", "e"], ["expand"]),
        (["depth", "--new-layers", ""], ["copy", "identity"]),
        (["width", "--preset", ""], ["orthogonal", "upcycling"]),
        (["width", "--order", "i"], ["interleave"]),
        (["width", "--top-k", ""], ["scale", "keep"]),
        (["width", "--max-sh"], ["--max-shard-size"]),
        (["run", "so"], ["solar"]),
        (["run", "orthogonal-"], ["orthogonal-depth", "orthogonal-width"]),
        (["recipes", "ll"], ["llama-pro"]),
        (["depth", ""], []),
        (["run", "solar", ""], []),
    ],
)
def test_bash_is_offered_what_fits(program, words, offered):
    assert bash(program, "moegrow", *words) == offered


def test_bash_completes_what_is_not_moegrows_as_paths(program, tmp_path):
    """On a real terminal: a word is typed, tab is hit, and the line is looked at."""
    (tmp_path / "ckpt-of-mine").mkdir()
    (tmp_path / "setup").write_text(shown_for("bash"))
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment(program))
    said = b""

    def until(word, send):
        nonlocal said
        os.write(terminal, send)
        end = time.monotonic() + 60
        while word not in said:
            assert time.monotonic() < end, said
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 65536)

    try:
        until(b"ready-7", b"source setup; echo ready-$((3+4))\n")
        said = b""
        until(b"ckpt-of-mine/", b"moegrow depth --mode stack ckpt-\t")
    finally:
        os.write(terminal, b"\x03exit\n")
        os.close(terminal)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("shell", "settings", "offered"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "moegrow depth --mode s"}, "stack"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "moegrow run sol"}, "solar"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "moegrow depth ck"}, "_files"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "moegrow depth --mode s"}, "stack"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "moegrow run sol"}, "solar"),
    ],
)
def test_zsh_and_fish_are_offered_what_fits(program, shell, settings, offered):
    asked = {"_MOEGROW_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        ["moegrow"], capture_output=True, text=True, check=False,
        env=environment(program) | asked | settings,
    )  # fmt: skip
    assert offered in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_is_accepted_by_it(program, shell):
    code = shown_for(shell)
    assert "_MOEGROW_COMPLETE" in code
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=code, text=True, check=True)


def test_completion_is_installed_for_a_shell(program):
    subprocess.run(
        [*MOEGROW, "--install-completion", "bash"], capture_output=True, check=True,
        env=environment(program) | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert "complete" in (program / ".bash_completions" / "moegrow.sh").read_text()
    assert "moegrow.sh" in (program / ".bashrc").read_text()
