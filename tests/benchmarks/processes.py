"""Run commands as a person would, joined by pipes, and measure what they took."""

import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

Pipeline = Sequence[Sequence[object]]


class Measured(NamedTuple):
    """One run: wall time and the processes' own time in seconds, their peak memory in bytes."""

    seconds: float
    own: float
    peaks: tuple[int, ...]


class Failed(Exception):
    """A command did not end well: which, and what it said last."""


def run(pipeline: Pipeline, printed: Path) -> Measured:
    """Run commands joined by pipes; what the last one prints goes to the file `printed`.

    Raises Failed where one fails.
    """
    said = printed.with_name(printed.name + ".stderr")
    began = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    before: IO[bytes] | None = None
    with printed.open("wb") as last, said.open("wb") as errors:
        for number, command in enumerate(pipeline):
            is_last = number == len(pipeline) - 1
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=before or subprocess.DEVNULL,
                stdout=last if is_last else subprocess.PIPE,
                stderr=errors,
            )
            if before:
                before.close()  # so that only the next process holds it
            before = process.stdout
            processes.append(process)
        used = [_wait(process) for process in processes]
    for process, command in zip(processes, pipeline, strict=True):
        if process.returncode:
            words = " ".join(map(str, command))
            last_lines = said.read_text(errors="replace").splitlines()[-1:]
            raise Failed(": ".join([f"exit {process.returncode} of {words}", *last_lines]))
    return Measured(
        time.perf_counter() - began,
        sum(usage.ru_utime + usage.ru_stime for usage in used),
        tuple(usage.ru_maxrss * 1024 for usage in used),
    )


def smallest_peak() -> int:
    """What no peak is measured below: the memory of this process, which its children begin in."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait(process: "subprocess.Popen[bytes]") -> resource.struct_rusage:
    """What a process, with those that it waited for, has used when it ends."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage
