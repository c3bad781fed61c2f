"""A write job: a plan, a target, the part of the shards to write, and how to write them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from moegrow import __version__, maps
from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.errors import Parameter, Text, UsageError
from moegrow.planning.check import Witness
from moegrow.planning.plan import Plan
from moegrow.write.shards import Shard
from moegrow.write.work_dir import MOST_PARTS, Begun

Progress = Callable[[int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """Every `count`-th shard from the `number`-th on, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def shards(self, total: int) -> range:
        """The numbers of its shards, counted from 0, of a result that has `total`.

        >>> list(Part(3, 4).shards(10))
        [2, 6]
        """
        return range(self.number - 1, total, self.count)


WHOLE = Part(1, 1)


class Role(Enum):
    """How a process works on a result: alone, together with others, or only at its end."""

    ALONE = "alone"  # it holds the working folder alone from the first byte to the last
    TOGETHER = "together"  # others may hold the folder and write parts at the same time
    PUBLISH = "publish"  # it writes no shard, and publishes what others have written


@dataclass(frozen=True, kw_only=True)
class WriteJob:
    """The writing of a plan, from the moment on that its source has been looked at.

    `seen` is what the files of the source were at that moment, and `max_shard_size` is in bytes.
    Finished shards of an earlier run are kept with `resume`, and always where several processes
    work together.
    """

    plan: Plan
    target: Path
    checkpoint: Checkpoint
    seen: Witness
    shards: tuple[Shard, ...]
    part: Part = WHOLE
    role: Role = Role.ALONE
    max_shard_size: int
    digests: bool
    force: bool
    resume: bool
    threads: int
    reflink: bool
    progress: Progress
    say: Say

    @property
    def numbers(self) -> range:
        """The numbers of the shards that this process is to write, counted from 0."""
        return self.part.shards(len(self.shards))

    @property
    def goes_on(self) -> bool:
        """Whether what an earlier run, or another process, has finished is kept."""
        return self.resume or self.role is not Role.ALONE

    @property
    def begun(self) -> Begun:
        """What another run must share with this one to go on with it, beside the plan."""
        parts = self.part.count if self.role is Role.TOGETHER else None
        return Begun(
            moegrow=__version__, max_shard_size=self.max_shard_size, digests=self.digests,
            source=dict(self.seen), parts=parts,
        )  # fmt: skip


def read_part(wish: str | tuple[int, int]) -> Part:
    """The part that "3/16" or (3, 16) means; raises UsageError where that is none."""
    if isinstance(wish, str):
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", wish)
        numbers = tuple(map(int, found.groups())) if found else ()
    else:
        numbers = tuple(wish)
        wish = "/".join(map(str, wish))
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= MOST_PARTS:
        raise UsageError(
            Parameter("part", wish) + " is no part",
            f"write K/N, with K from 1 to N, and N up to {MOST_PARTS}, such as 3/16",
        )
    return Part(*numbers)


def lacking(missing: tuple[int, ...], total: int, count: int | None) -> tuple[str, Text]:
    """How many of `total` shards are missing, and the parts of `count` that write them.

    >>> what, how = lacking((2, 6, 7), 10, 4)
    >>> print(what, how, sep="; ")
    3 of 10 shards are missing: 3,7-8; write them with part='K/4' for K = 3-4
    """
    which = maps.spell([number + 1 for number in missing])
    what = f"{len(missing)} of {total} shards are missing: {which}"
    if count is None:
        every = Parameter("part", "K/N") + " for all K"
        return what, Parameter("resume", True) + " writes them, or " + every
    parts = sorted({number % count + 1 for number in missing})
    if len(parts) == 1:
        return what, "write them with " + Parameter("part", f"{parts[0]}/{count}")
    some = Parameter("part", f"K/{count}") + f" for K = {maps.spell(parts)}"
    return what, "write them with " + some
