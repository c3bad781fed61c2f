"""Fixtures: the command as a person runs it, and checkpoints that are built once a session."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import forks

Begin = Callable[..., forks.Begun]
Run = Callable[..., forks.Ended]
MOEGROW = [sys.executable, "-m", "moegrow"]


@pytest.fixture(scope="session")
def nursery() -> Iterator[forks.Nursery]:
    """Where all moegrow processes of a session come from."""
    with forks.Nursery() as nursery:
        yield nursery


@pytest.fixture
def begin(nursery: forks.Nursery, tmp_path: Path) -> Begin:
    """Begin moegrow in an empty folder; gives the process."""

    def begin(*arguments: object, stdin: str = "", cwd: Path | None = None) -> forks.Begun:
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
    """A tiny checkpoint of a model type, built by transformers the first time it is asked for."""
    import tiny

    built: dict[str, Path] = {}

    def checkpoint(model_type: str = "qwen3_moe", **settings: Any) -> Path:
        key = repr((model_type, sorted(settings.items())))
        if key not in built:
            folder = tmp_path_factory.mktemp(model_type) / model_type
            built[key] = tiny.build(model_type, folder, **settings)
        return built[key]

    return checkpoint


@pytest.fixture(scope="session")
def big(checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint so big that a kill falls somewhere in the writing of what grows of it."""
    import torch

    sizes = dict.fromkeys(("hidden_size", "moe_intermediate_size", "intermediate_size"), 64)
    return checkpoint("qwen3_moe", dtype=torch.bfloat16, shard_size="100KB", **sizes)
