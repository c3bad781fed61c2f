"""Files in a result that somebody else put there since it was written."""

import os
from collections.abc import Iterator
from pathlib import Path

from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CARD, CONFIG, INDEX
from moegrow.errors import MoegrowError
from moegrow.write.digests import read_digests


def first_addition(result: Path) -> str | None:
    """The name of a file in a result that its digests do not name, or None.

    Training that goes on in the folder of a result leaves checkpoints there, and notes are kept
    beside weights. Hidden files are not meant. Without readable digests nothing is known.
    """
    try:
        digests = read_digests(result / DIGESTS)
    except (MoegrowError, OSError):
        return None
    known = {CARD, CONFIG, INDEX, DIGESTS, PLAN, *digests.files}
    known |= {entry.name for entry in digests.entries}
    return next((name for name in _names(result) if name not in known), None)


def _names(folder: Path) -> Iterator[str]:
    """The names of all files in a folder and below it, without hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()
