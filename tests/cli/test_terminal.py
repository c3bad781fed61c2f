"""The bar is there for a person at a terminal, and for nobody else."""

import os
import pty
import re
import subprocess
import threading

import pytest

COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3|4|9|10)[0-7](?:;[0-9;]*)?m")


@pytest.fixture
def watched(nursery, tmp_path):
    """Run a command on a terminal, but for what it prints; gives what it says there, and that."""

    def watched(*arguments, columns=100, **environment):
        command = [*nursery.command, *map(str, arguments)]
        return on_a_terminal(command, cwd=tmp_path, columns=columns, **environment)

    return watched


def on_a_terminal(command, *, cwd, columns, **environment):
    ours, theirs = pty.openpty()
    said = []

    def read():
        try:
            while block := os.read(ours, 65536):
                said.append(block)
        except OSError:
            pass  # so ends a terminal that nobody writes to any more

    reader = threading.Thread(target=read)
    reader.start()
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    env |= {"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL, cwd=cwd,
        env=env, text=True, check=True,
    )  # fmt: skip
    os.close(theirs)
    reader.join()
    os.close(ours)
    return b"".join(said).decode(), done.stdout


def test_a_person_sees_each_phase_with_bytes_speed_and_time(watched, checkpoint):
    said, printed = watched("width", checkpoint(), "-o", "grown", "--verify")
    assert printed == "grown\n"
    for phase in ("planning", "writing", "verifying"):
        assert phase in said
    assert re.search(r"[\d.]+/[\d.]+ [kMGT]B", said)
    assert re.search(r"--:--|\d+:\d\d", said)
    assert COLOUR.search(said)


def test_the_bar_is_gone_when_its_phase_is(watched, checkpoint):
    said, _ = watched("depth", checkpoint(), "-o", "grown")
    last = said.rpartition("writing")[2]
    assert "\x1b[2K" in last
    assert "wrote " in last


def test_a_log_file_gets_no_bar(run, checkpoint):
    said = run("width", checkpoint(), "-o", "grown", "--verify").stderr
    assert "wrote " in said
    assert "\x1b" not in said
    assert "writing" not in said


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(watched, checkpoint, environment):
    said, _ = watched("width", checkpoint(), "-o", "grown", **environment)
    assert "wrote " in said
    assert "\x1b[2K" not in said
    assert "planning" not in said
    assert "writing" not in said


def test_no_color_leaves_the_bar_and_takes_its_colours(watched, checkpoint):
    said, _ = watched("width", checkpoint(), "--experts", "6", "-o", "grown", NO_COLOR="1")
    assert "writing" in said
    assert "not preserved" in said
    assert not COLOUR.search(said)


def test_quiet_says_nothing_at_all(watched, checkpoint):
    said, printed = watched("width", checkpoint(), "-o", "grown", "-q")
    assert said == ""
    assert printed == "grown\n"


def test_a_plan_for_the_next_program_comes_without_a_bar(watched, checkpoint):
    said, _ = watched("width", checkpoint(), "--plan")
    assert said == ""


def test_a_narrow_terminal_keeps_the_bar_on_one_line(watched, checkpoint):
    said, _ = watched("width", checkpoint(), "-o", "grown", columns=60)
    bars = [line for line in re.split(r"[\r\n]", said) if "writing" in line]
    assert bars
    assert all(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) <= 60 for line in bars)
