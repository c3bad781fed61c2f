"""Fixtures: the command as a person runs it, and checkpoints that are built once a session."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# The tests themselves keep all cores busy; threads of torch that wait for each other do so as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import forks
import stops

# A shell starts what runs in its background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

Begin = Callable[..., forks.Begun]
Run = Callable[..., forks.Ended]
MOEGROW = [sys.executable, "-m", "moegrow"]


@pytest.fixture(scope="session")
def nursery() -> Iterator[forks.Nursery]:
    """Where all moegrow processes of a session come from."""
    with forks.Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def nursery_with_torch() -> Iterator[forks.Nursery]:
    """The same for commands that run models: these libraries take seconds to import."""
    with forks.Nursery("torch", "transformers", "accelerate") as nursery:
        yield nursery


@pytest.fixture
def begin(nursery: forks.Nursery, tmp_path: Path) -> Begin:
    """Begin moegrow in an empty folder; gives the process.

    With `stop` it stops at a moment that tests/support/stops.py names.
    """

    def begin(
        *arguments: object, stdin: str | IO[bytes] = "", cwd: Path | None = None, stop: str = ""
    ) -> forks.Begun:
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                patch.setenv(stops.STOP, stop)
            return nursery.begin(*arguments, stdin=stdin, folder=cwd or tmp_path)

    return begin


@pytest.fixture
def run(begin: Begin) -> Run:
    """Run moegrow in an empty folder; fails the test where the exit code is not `code`."""

    def run(
        *arguments: object, code: int | None = 0, stdin: str = "", cwd: Path | None = None
    ) -> forks.Ended:
        done = begin(*arguments, stdin=stdin, cwd=cwd).end()
        assert code in (None, done.returncode), (
            f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny checkpoint of a model type, built by transformers the first time it is asked for.

    It is the same for all who test at once, so nobody changes it: `alter.copy` gives a copy.
    """
    import tiny

    mine = tmp_path_factory.getbasetemp()
    everybodys = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "checkpoints"

    def checkpoint(model_type: str = "qwen3_moe", **settings: Any) -> Path:
        key = repr((model_type, sorted(settings.items())))
        place = everybodys / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not place.exists():
            built = tiny.build(
                model_type, tmp_path_factory.mktemp("built") / model_type, **settings
            )
            everybodys.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another was quicker
                built.parent.rename(place)
        return place / model_type

    return checkpoint


@pytest.fixture(scope="session")
def made(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A checkpoint in a format of tests/support/quantised.py, made the first time it is asked for.

    It is of the model type that the format is shown on, or of the one that is given.
    """
    import quantised

    @cache
    def made(name: str, model_type: str = "", **settings: Any) -> Path:
        source = (
            checkpoint(model_type, **settings) if model_type else quantised.plain(checkpoint, name)
        )
        return quantised.quantised(source, tmp_path_factory.mktemp("quantised"), name)

    return made


@pytest.fixture(scope="session")
def big(checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint so big that a kill falls somewhere in the writing of what grows of it."""
    import torch

    sizes = dict.fromkeys(("hidden_size", "moe_intermediate_size", "intermediate_size"), 64)
    return checkpoint("qwen3_moe", dtype=torch.bfloat16, shard_size="100KB", **sizes)


HOLD = """
import sys
from pathlib import Path
from moegrow.write.work_dir_lock import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Another process that holds the working folder of `grown` until it is told to go, or killed.

    It runs the program `before` first.
    """
    begun: list[subprocess.Popen[str]] = []

    def holder(how: str = "alone", before: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", before + HOLD, tmp_path / "grown", how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield holder
    for process in begun:
        process.kill()
        process.communicate()
