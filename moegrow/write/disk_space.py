"""Check before the first byte whether a result fits on its disk."""

import os
import resource
from collections.abc import Collection
from pathlib import Path

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.display import size
from moegrow.errors import Parameter, UnfinishedError
from moegrow.files.atomic import temporary
from moegrow.files.byte_ranges import BLOCK, share_range
from moegrow.kernels.reader import SourceReader
from moegrow.write.schedule import moves
from moegrow.write.shards import Shard


def check_space(
    shards: tuple[Shard, ...],
    folder: Path,
    checkpoint: Checkpoint,
    *,
    done: Collection[int] = (),
    reflink: bool = True,
) -> None:
    """Raise UnfinishedError where the shards that are not done do not fit into `folder`.

    What the filesystem can share takes no room; whether it does is tried out with one block. What
    cannot be known is not counted, so a disk may fill up all the same.
    """
    left = [shard for number, shard in enumerate(shards) if number not in done]
    _check_file_size(left)
    room, need = free(folder), sum(shard.nbytes for shard in left)
    if room is None or need <= room:
        return
    shared = _shareable(shards, folder, checkpoint, done) if reflink else 0
    if need - shared <= room:
        return
    rest = f", and {size(shared)} that can be shared with the source" if shared else ""
    raise UnfinishedError(
        f"{folder.parent.parent} has {size(room)} free and the result needs"
        f" {size(need - shared)}{rest}",
        "make room there, or give another " + Parameter("output"),
    )


def free(folder: Path) -> int | None:
    """Bytes that this process may still write to the filesystem of `folder`, None if unknown."""
    found = os.statvfs(folder)
    if not found.f_blocks:
        return None  # some network filesystems say nothing
    # What is kept back for root is there for root.
    return (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize


def _check_file_size(left: Collection[Shard]) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(left, key=lambda shard: shard.nbytes, default=None)
    if limit != resource.RLIM_INFINITY and largest and largest.nbytes > limit:
        raise UnfinishedError(
            f"no file may be larger than {size(limit)} here and {largest.name} needs"
            f" {size(largest.nbytes)}",
            "raise the limit: ulimit -f unlimited; or give a smaller "
            + Parameter("max_shard_size"),
        )


def _shareable(
    shards: tuple[Shard, ...], folder: Path, checkpoint: Checkpoint, done: Collection[int]
) -> int:
    """Bytes of whole blocks that the filesystem of `folder` can share with the source."""
    shares: dict[int, bool] = {}
    total = 0
    with SourceReader(checkpoint) as source:
        for copy in moves(shards, checkpoint, without=done).copies:
            start, stop = -(-copy.start // BLOCK) * BLOCK, copy.stop // BLOCK * BLOCK
            if copy.start % BLOCK != copy.offset % BLOCK or start >= stop:
                continue
            old = source.file(copy.file)
            if old is None:
                continue  # far away: every byte of it takes room here
            device = os.fstat(old).st_dev
            if device not in shares:
                shares[device] = _shares(old, start, folder)
            total += (stop - start) * shares[device]
    return total


def _shares(source: int, start: int, folder: Path) -> bool:
    """Whether a file in `folder` can share a block of an open one; if unknown, it is said to."""
    trial = temporary(folder / "trial")
    try:
        with trial.open("xb") as new:
            return share_range(source, start, BLOCK, new.fileno(), 0)
    except OSError:
        return True
    finally:
        trial.unlink(missing_ok=True)
