"""Tables of measurements, in Markdown."""

import statistics
from collections.abc import Sequence
from typing import Protocol

import processes

from moegrow.display import size


class Timed(Protocol):
    """A run of something, and how long it took."""

    @property
    def seconds(self) -> float: ...


def head(*titles: str) -> list[str]:
    """The lines that a table begins with."""
    return [row(*titles), row(*("---" for _ in titles)).replace(" ", "")]


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spread(measured: Sequence[Timed]) -> str:
    """The median of the seconds, with the least and the most."""
    seconds = [run.seconds for run in measured]
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def peak(nbytes: int) -> str:
    """A peak of memory; what is below the least that can be measured is not known."""
    least = processes.smallest_peak()
    return size(nbytes) if nbytes > least else f"< {size(least)}"
