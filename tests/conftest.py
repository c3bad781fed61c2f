"""Fixtures: the command as a person runs it, and checkpoints that are built once a session."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

Run = Callable[..., subprocess.CompletedProcess[str]]
MOEGROW = [sys.executable, "-m", "moegrow"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run moegrow in an empty folder; fails the test where the exit code is not `code`."""

    def run(
        *arguments: object, code: int | None = 0, stdin: str = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*MOEGROW, *map(str, arguments)],
            input=stdin, capture_output=True, text=True, cwd=cwd or tmp_path, check=False,
        )  # fmt: skip
        assert code in (None, done.returncode), (
            f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr
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
