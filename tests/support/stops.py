"""Stop a moegrow process at a named moment, in which a test then kills it or lets it go on."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

STOP = "MOEGROW_TESTS_STOP"  # in the environment of a process: a moment, or "moment:count"


def moments() -> dict[str, tuple[Any, str]]:
    """The moments, each as the function behind whose call it is.

    "publishing" is before the call: all shards have their names, and nothing stands beside them.
    """
    from moegrow.write import run_job
    from moegrow.write.shard_files import Targets
    from moegrow.write.work_dir import Partial

    return {
        "begun": (Partial, "begin"),  # the plan and what the run began with are there
        "writing": (Targets, "wrote"),  # some bytes of a shard are
        "noted": (Partial, "note"),  # a shard has its entry, and is about to get its name
        "publishing": (run_job, "complete"),
    }


def install(wish: str) -> None:
    """Let this process stop at a moment, the first time or the `count`-th."""
    moment, _, count = wish.partition(":")
    home, name = moments()[moment]
    real: Callable[..., Any] = getattr(home, name)
    left, lock = [int(count or 1)], threading.Lock()

    def stop() -> None:
        with lock:
            left[0] -= 1
            is_now = left[0] == 0
        if is_now:
            os.kill(os.getpid(), signal.SIGSTOP)

    def stopping(*arguments: Any, **options: Any) -> Any:
        if moment == "publishing":
            stop()
        done = real(*arguments, **options)
        if moment != "publishing":
            stop()
        return done

    setattr(home, name, stopping)
