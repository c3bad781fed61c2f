"""Worker threads that stop waiting as soon as their work is cancelled."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_thread = threading.local()


@contextmanager
def pool(threads: int | None, stop: threading.Event | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads to work with; where the block fails, or `stop` is set, those that wait give up.

    So a run ends at once when it is interrupted, however long a server asks to wait.
    """
    ended = stop or threading.Event()
    with ThreadPoolExecutor(threads, initializer=_begin, initargs=(ended,)) as executor:
        try:
            yield executor
        except BaseException:
            ended.set()
            raise


def wait(seconds: float) -> None:
    """Wait; raises InterruptedError in a thread whose work is not wanted any more."""
    ended: threading.Event | None = getattr(_thread, "ended", None)
    if ended is None:
        time.sleep(seconds)
    elif ended.wait(seconds):
        raise InterruptedError("stopped while waiting to try again")


def check() -> None:
    """Raise InterruptedError in a thread whose work is not wanted any more."""
    ended: threading.Event | None = getattr(_thread, "ended", None)
    if ended is not None and ended.is_set():
        raise InterruptedError("stopped while waiting for other threads")


def _begin(ended: threading.Event) -> None:
    _thread.ended = ended
