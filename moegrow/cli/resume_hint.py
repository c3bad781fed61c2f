"""The command that continues a run that was stopped or failed."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from moegrow.checkpoint.side_files import PLAN
from moegrow.errors import InterruptedRun, MoegrowError, UnfinishedError
from moegrow.planning.noted_command import Form, read_command
from moegrow.write.work_dir import RESULT, kept_of, partial_of

# Options that go along from a command behind a pipe; a token is never shown.
_KEPT = ("--force", "--digests", "--no-reflink", "--download", "--private")


@contextmanager
def going_on(target: Path, command: str | None) -> Iterator[None]:
    """Name the command that goes on with one that is stopped, or that fails.

    It is None where that is the very same one.
    """
    was_there = target.exists()
    try:
        yield
    except (KeyboardInterrupt, UnfinishedError) as error:
        if target.exists() and not was_there:
            # In the moment between its name and the end of the run.
            told = f"interrupted, and {target} is complete"
            raise InterruptedRun(told, f"moegrow verify {shlex.quote(str(target))}") from None
        kept = kept_of(target)
        go_on = "run the command again"
        if kept:
            shards = f"{kept} finished shard{'s' * (kept != 1)}"
            go_on = f"{shards} kept; " + (
                f"go on with: {resume_command(target, command)}" if command else go_on
            )
        if isinstance(error, UnfinishedError):
            raise MoegrowError(error.said, error.advice + f"; {go_on}") from None
        raise InterruptedRun("interrupted; nothing was published", go_on) from None


def resume_command(target: Path, command: str) -> str:
    """What to type to go on with a command, which may be the end of a pipe (`| moegrow …`).

    What was piped in is gone: the plan that it was lies in the working folder.
    """
    if read_command(command).form is not Form.PIPED:
        return f"{command} --resume"
    words = ["moegrow", "apply", str(partial_of(target) / RESULT / PLAN), "-o", str(target)]
    words += [word for word in sys.argv[1:] if word in _KEPT]
    words += [*_given("--max-shard-size"), *_given("--push")]
    return shlex.join([*words, "--resume"])


def _given(option: str) -> list[str]:
    """An option of this command with its value, as it was typed, or nothing."""
    for word, behind in pairwise([*sys.argv[1:], ""]):
        if word == option:
            return [word, behind]
        if word.startswith(f"{option}="):
            return [word]
    return []
