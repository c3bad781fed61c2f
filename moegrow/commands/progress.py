"""The bar that a person watches while bytes are written or compared."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def is_watched(*, quiet: bool) -> bool:
    """Whether somebody watches: standard error is a terminal that can move its cursor."""
    moves = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return not quiet and moves and sys.stderr.isatty()


@contextmanager
def phase(what: str, total: int | None = None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for one phase of a command, gone when it ends; gives what is called with more bytes.

    Without `total` it only says what goes on. There is no bar where nobody watches.
    """
    if not is_watched(quiet=quiet):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn]
    if total is None:
        columns = [SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()]
    else:
        columns = [
            TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(),
            TransferSpeedColumn(), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]  # fmt: skip
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True, expand=total is not None) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
