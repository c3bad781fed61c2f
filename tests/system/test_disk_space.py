"""A result that does not fit is refused before it is begun; a disk that fills up loses nothing."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import alter
import disks
import pytest
import torch
from conftest import MOEGROW

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.write import disk_space, shards, work_dir

SETTINGS = {"hidden_size": 256, "moe_intermediate_size": 256, "intermediate_size": 256}
SIZE = "--max-shard-size", "500KB"
IMAGE = 24 << 20


@pytest.fixture(scope="module")
def source(checkpoint) -> Path:
    """A checkpoint of some 10 MB."""
    return checkpoint("qwen3_moe", dtype=torch.bfloat16, shard_size="2MB", **SETTINGS)


@pytest.fixture
def plan(source):
    return moegrow.width(source, noise=0.01)


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A real ext4 filesystem with room for a part of the result."""
    with disks.mounted(tmp_path, "ext4", size=IMAGE) as disk:
        yield disk


@pytest.fixture
def sharing(tmp_path) -> Iterator[Path]:
    """A real filesystem that shares blocks."""
    with disks.mounted(tmp_path, "xfs", size=320 << 20) as disk:
        yield disk


def fill_up(disk: Path, leave: int) -> Path:
    """A file that takes all room but `leave` bytes."""
    blocks = disk_space.free(disk) - leave
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, blocks)
    return disk / "filler"


def one_message(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """The message and the hint of a command that failed, and that nothing else was said."""
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error, hint


def test_what_does_not_fit_is_refused_with_need_and_free_before_the_first_byte(
    small, source, plan, run
):
    filler = fill_up(small, 5_000_000)
    error, hint = one_message(run("width", source, "-o", small / "grown", "-q", code=1))
    assert "5.0 MB free" in error
    need = sum(shard.nbytes for shard in shards.split(plan, open_checkpoint(source)))
    assert f"the result needs {need / 1e6:.1f} MB" in error
    assert "make room" in hint
    assert {path.name for path in small.iterdir()} == {"filler", "lost+found"}
    filler.unlink()
    run("width", source, "-o", small / "grown", "-q")
    assert moegrow.verify(small / "grown").ok


@pytest.mark.parametrize("flags", [[], ["--no-reflink"]])
def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_finished(
    small, source, run, tmp_path, monkeypatch, flags
):
    """Something else takes the room meanwhile: the check before the start cannot see that."""
    command = ["width", source, *SIZE, *flags, "-q", "-o", "grown"]
    run(*command, cwd=tmp_path)
    expected = alter.contents(tmp_path / "grown")
    filler = fill_up(small, 6_000_000)
    script = (
        "import moegrow.write.disk_space; moegrow.write.disk_space.free = lambda folder: None; "
    )
    script += "from moegrow.cli.main import main; main()"
    done = subprocess.run(
        [*MOEGROW[:1], "-c", script, *map(str, command)],
        cwd=small, capture_output=True, text=True, check=False,
    )  # fmt: skip
    error, hint = one_message(done)
    assert "No space left on device" in error
    working = small / "grown.partial"
    assert not [*working.rglob("*.tmp")]
    kept = work_dir.kept_of(small / "grown")
    assert 0 < kept < len(expected)
    assert f"{kept} finished shards kept; go on with: moegrow width" in hint
    # It is refused as long as there is no room, and loses nothing by that.
    error, _ = one_message(run(*command, "--resume", code=1, cwd=small))
    assert "the result needs" in error
    assert work_dir.kept_of(small / "grown") == kept
    filler.unlink()
    run(*command, "--resume", cwd=small)
    assert alter.contents(small / "grown") == alter.contents(tmp_path / "grown")


def test_what_can_be_shared_takes_no_room(sharing, source, run):
    there = sharing / "source"
    shutil.copytree(source, there)
    fill_up(sharing, 4_000_000)
    error, _ = one_message(
        run("depth", there, "--no-reflink", "-q", "-o", sharing / "grown", code=1)
    )
    assert "and the result needs" in error
    error, _ = one_message(run("width", there, "-q", "-o", sharing / "grown", code=1))
    assert "that can be shared with the source" in error
    run("depth", there, "-q", "-o", sharing / "grown")
    assert moegrow.verify(sharing / "grown").ok


def test_nothing_is_refused_where_the_filesystem_does_not_tell(source, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free", lambda folder: None)
    moegrow.apply(plan, tmp_path / "grown")
    assert moegrow.verify(tmp_path / "grown").ok


def test_a_filesystem_that_tells_nothing_is_known_by_its_zeros(tmp_path, monkeypatch):
    assert disk_space.free(tmp_path) > 0
    nothing = os.statvfs_result([4096, 4096] + [0] * 8)
    monkeypatch.setattr(os, "statvfs", lambda path: nothing)
    assert disk_space.free(tmp_path) is None


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_on_the_size_of_files_is_told_before_the_first_byte(source, tmp_path):
    command = [*MOEGROW, "width", source, "-q", "-o", "grown"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited(1_000_000)
    )
    error, hint = one_message(done)
    assert "no file may be larger than 1.0 MB here and model-0" in error
    assert "ulimit -f unlimited" in hint
    assert not list(tmp_path.iterdir())
    subprocess.run(
        [*command, "--max-shard-size", "500KB"], cwd=tmp_path, check=True,
        preexec_fn=limited(1_000_000), capture_output=True,
    )  # fmt: skip
    assert moegrow.verify(tmp_path / "grown").ok


@pytest.mark.parametrize("flags", [[], ["--no-reflink"]])
def test_a_limit_that_comes_in_the_middle_is_one_message_too(source, tmp_path, flags):
    """SIGXFSZ ends other programs; here the write fails."""
    script = (
        "import moegrow.write.disk_space, resource\n"
        "moegrow.write.disk_space._check_file_size = lambda left: None\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from moegrow.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [*MOEGROW[:1], "-c", script, "width", source, *SIZE, *flags, "-q", "-o", "grown"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    error, _ = one_message(done)
    assert "File too large" in error
    assert not [*tmp_path.rglob("*.tmp")]


def test_a_read_only_filesystem_is_one_message(small, source, run):
    subprocess.run(["mount", "-o", "remount,ro", small], check=True, capture_output=True)
    error, hint = one_message(run("width", source, "-q", "-o", small / "grown", code=1))
    assert "Read-only file system" in error
    assert "-o" in hint
