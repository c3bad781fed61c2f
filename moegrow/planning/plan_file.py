"""Parse an untrusted plan from JSON lines, strictly."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, TextIO

from moegrow.checkpoint.shard_index import MOST_TENSORS
from moegrow.checkpoint.store import CONFIG, names_weights
from moegrow.errors import MoegrowError, Parameter
from moegrow.files import json_edit, untrusted
from moegrow.files.untrusted import opened
from moegrow.planning.header_record import header_of
from moegrow.planning.output_record import output_of
from moegrow.planning.plan import Output, Plan
from moegrow.planning.plan_lines import output_line

# Characters of a plan and of one of its lines: a million tensors of some hundred each, one that is
# put together from all experts that there may be, and a header with the config.
LARGEST_PLAN, LONGEST_TENSOR, LONGEST_LINE = 512 << 20, 16 << 20, 32 << 20

MOST_IN_MEMORY = 64 << 20  # bytes of a plan's lines

MOST_EMPTY = 1000  # lines
TOGETHER = 1000  # lines that are compared at once

# The versions that are read; the highest goes up when an older reader would misunderstand a plan,
# and each plan says the lowest in which it can be written.
FORMATS = (1, 2, 3, 4)


class PlanTexts:
    """Lines that are gone through more than once; so many that memory is short lie in a file."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._file = SpooledTemporaryFile(MOST_IN_MEMORY)  # noqa: SIM115
        self._count = 0
        for line in lines:
            # Halves of characters, which an edited plan may have, come back as they were.
            self._file.write(line.encode("utf-8", "surrogatepass"))
            if not line.endswith("\n"):
                self._file.write(b"\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def are(self, lines: Iterator[str]) -> bool:
        """Whether the lines are these, of which there are as many, mark by mark."""
        self._file.seek(0)
        while part := [*islice(lines, TOGETHER)]:
            expected = ("\n".join(part) + "\n").encode("utf-8", "surrogatepass")
            if self._file.read(len(expected)) != expected:
                return False
        return True

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for line in self._file:
            yield line[:-1].decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Lines:
    """A plan as it came in: its header is understood, the lines of its tensors are not yet.

    `header` is the plan without outputs, `promised` what it says of their number, and `texts`
    are the lines behind it, without line ends.
    """

    header: Plan
    promised: Any
    texts: PlanTexts

    def spell(self, outputs: tuple[Output, ...]) -> bool:
        """Whether the lines are those of these outputs, mark by mark; nothing is parsed."""
        is_count = len(self.texts) == len(outputs) == self.promised
        return is_count and self.texts.are(map(output_line, outputs))

    def plan(self) -> Plan:
        """The plan that the lines spell out.

        Raises MoegrowError, with the number of the line, where they are not of this format or
        where some are missing. Whether the plan fits its source is for check.py to say.
        """
        outputs = tuple(
            output_of(text, number) for number, text in enumerate(self.texts, 2) if text.strip()
        )
        if len(outputs) != self.promised:
            raise MoegrowError(
                f"the plan promises {self.promised} tensors and spells out {len(outputs)}",
                "it was cut short: make it again with " + Parameter("moegrow.plan()"),
            )
        return replace(self.header, outputs=outputs)


def from_lines(lines: Iterable[str]) -> Plan:
    """The plan that the lines of its file spell out."""
    return take_lines(lines).plan()


def take_lines(lines: Iterable[str]) -> Lines:
    """The lines of a plan; raises MoegrowError where the first is no header of this format."""
    rest = iter(lines)
    header = json_edit.loads(next(rest, ""), "line 1 of the plan", is_shallow=True)
    version = header.get("moegrow_plan")
    if type(version) is not int or version not in FORMATS:
        raise MoegrowError(
            f"this is not a plan that moegrow can read: moegrow_plan is {version!r}, not"
            f" {', '.join(map(str, FORMATS[:-1]))} or {FORMATS[-1]}",
        )
    plan, promised = header_of(header)
    if type(promised) is not int or not 0 <= promised <= MOST_TENSORS:
        raise MoegrowError(f"the plan promises {promised!r} tensors, which makes no sense")
    return Lines(plan, promised, PlanTexts(_texts(rest, promised)))


def _texts(lines: Iterator[str], promised: int) -> Iterator[str]:
    """The lines behind the header: those promised, and perhaps some that are empty."""
    found = empty = 0
    for line in lines:
        if len(line) > LONGEST_TENSOR:
            raise MoegrowError(
                f"line {found + empty + 2} of the plan has {len(line)} characters, and the most of"
                f" a tensor is {LONGEST_TENSOR}"
            )
        is_empty = line.isspace() or not line
        found, empty = found + (not is_empty), empty + is_empty
        if found > promised or empty > MOST_EMPTY:
            raise MoegrowError(
                f"the plan promises {promised} tensors and spells out more",
                "make it again with " + Parameter("moegrow.plan()"),
            )
        yield line


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a plan in an open file, which may be a stranger's and have no end."""
    return untrusted.lines(file, "the plan", longest=LONGEST_LINE, most=LARGEST_PLAN)


def read_lines(path: Path) -> Lines:
    """The lines of the plan in a file, which may not be a link."""
    with opened(path.parent, path.name) as file:
        return take_lines(lines_of(TextIOWrapper(file, encoding="utf-8", errors="replace")))


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    return read_lines(path).plan()


def is_plan(path: Path) -> bool:
    """Whether a file begins as a plan does; nothing is parsed."""
    if not path.is_file() or path.name == CONFIG or names_weights(path.name):
        return False
    with path.open("rb") as file:
        return file.read(1) == b"{"
