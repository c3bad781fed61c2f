"""What lies in a working folder is gone on with or cleaned away, whoever put it there."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

import alter
import pytest

import moegrow
from moegrow.checkpoint.side_files import PLAN
from moegrow.errors import MoegrowError
from moegrow.write import work_dir
from moegrow.write.work_dir import BEGUN, JOURNAL, LOCK, REPLACED, RESULT, partial_of
from moegrow.write.work_dir_lock import locked

HOLE = 1 << 30  # bytes of a file that takes no room on the disk
MEMORY = 500_000_000  # bytes that a command may take

CUT_OFF = """
import os, sys
from pathlib import Path
import moegrow
real, when = Path.rename, sys.argv[1]
def rename(self, to):
    real(self, to)
    # Just before, or just after, the result of the working folder gets its name.
    if to.name == "replaced" and when == "before" or self.name == "result" and when == "after":
        os._exit(9)
Path.rename = rename
moegrow.apply(moegrow.width(sys.argv[2]), sys.argv[3], force=True)
"""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "grown"


@pytest.fixture
def source(checkpoint):
    return checkpoint()


@pytest.fixture
def plan(source):
    return moegrow.width(source)


@pytest.fixture
def begun(plan, target, tmp_path):
    """A working folder in which all shards are finished, and somebody's files elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")

    def cut_off(*arguments):
        raise OSError(5, "cut off")

    with pytest.MonkeyPatch.context() as patch, suppress(MoegrowError):
        patch.setattr("moegrow.write.publish._write_beside", cut_off)
        moegrow.apply(plan, target)
    assert (partial_of(target) / BEGUN).exists()
    return partial_of(target)


def test_what_a_run_without_finished_shards_left_is_cleaned_away(plan, target):
    folder = partial_of(target)
    (folder / work_dir.RESULT / "sub").mkdir(parents=True)
    for name in (LOCK, "stale.txt", "result/model-00001-of-00009.safetensors.1-2.tmp"):
        (folder / name).write_text("x")
    moegrow.apply(plan, target)
    assert moegrow.verify(target).ok
    assert not folder.exists()


def test_a_folder_that_is_being_removed_is_known_as_moegrows_to_the_end(target, monkeypatch):
    with locked(target) as working:
        working.result.mkdir()
        (working.folder / "x").write_text("x")
        monkeypatch.setattr(work_dir.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError))
        with suppress(OSError):
            working.remove()
    assert (partial_of(target) / LOCK).exists()
    monkeypatch.undo()
    with locked(target) as working:
        working.remove()
    assert not partial_of(target).exists()


# What somebody else may have prepared


@pytest.mark.parametrize("name", [RESULT, JOURNAL, REPLACED, LOCK, BEGUN, "owner"])
@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_a_link_in_a_working_folder_is_refused_and_leads_nowhere(
    begun, plan, target, tmp_path, name, kind
):
    path, elsewhere = begun / name, tmp_path / "elsewhere"
    if name in (RESULT, JOURNAL):
        shutil.rmtree(elsewhere)
        path.rename(elsewhere)  # a working folder that could be gone on with, but for the link
        (elsewhere / "precious").write_text("x")
    else:
        path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(elsewhere if name in (RESULT, JOURNAL, REPLACED) else elsewhere / "new")
    before = alter.contents(elsewhere)
    for flags in ({}, {"force": True}, {"resume": True}, {"part": "1/1"}, {"finish": True}):
        with pytest.raises(MoegrowError, match=f"{path} is a {kind}") as refused:
            moegrow.apply(plan, target, **flags)
        assert f"mv {begun} elsewhere" in refused.value.hint
    assert alter.contents(elsewhere) == before
    assert not target.exists()


def put_link(path, elsewhere):
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


def put_fifo(path, elsewhere):
    path.unlink()
    os.mkfifo(path)


def put_folder(path, elsewhere):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("put", [put_link, put_fifo, put_folder])
@pytest.mark.parametrize("what", ["shard", "entry"])
def test_what_is_no_file_under_the_name_of_a_shard_is_written_again(
    begun, plan, target, tmp_path, put, what
):
    shard = sorted((begun / RESULT).glob("*.safetensors"))[0]
    put(shard if what == "shard" else begun / JOURNAL / f"{shard.name}.json", tmp_path / "other")
    written = moegrow.apply(plan, target, resume=True)
    assert written.kept < written.files
    assert moegrow.verify(target).ok
    assert not any(path.is_symlink() for path in target.iterdir())


@pytest.mark.parametrize("what", [BEGUN, "entry", PLAN])
def test_a_hole_of_a_gibibyte_takes_neither_time_nor_memory(begun, run, source, what):
    entry = next((begun / JOURNAL).iterdir())
    os.truncate({BEGUN: begun / BEGUN, "entry": entry, PLAN: begun / RESULT / PLAN}[what], HOLE)
    done = run("width", source, "-o", "grown", "--resume", code=None)
    assert done.returncode == (0 if what == "entry" else 1)
    assert done.peak is None or done.peak < MEMORY
    assert "Traceback" not in done.stderr


# Replacing an older result


def test_a_result_that_has_the_name_of_a_working_place_is_left_alone(source, target):
    for beside in ("replaced", "old", "tmp"):
        moegrow.apply(moegrow.depth(source), target.with_name(f"grown.{beside}"))
    before = alter.contents(target.parent)
    moegrow.apply(moegrow.depth(source), target)
    moegrow.apply(moegrow.width(source), target, force=True)
    now = alter.contents(target.parent)
    assert before.items() <= now.items()
    assert moegrow.verify(target).ok


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replacement_that_is_killed_loses_neither_result(source, target, when):
    old = moegrow.depth(source)
    moegrow.apply(old, target)
    expected = alter.contents(target)
    killed = [sys.executable, "-c", CUT_OFF, when, source, target]
    assert subprocess.run(killed, check=False).returncode == 9
    with pytest.raises(MoegrowError, match="exists already") as refused:
        moegrow.apply(old, target)
    if when == "before":
        assert alter.contents(target) == expected
    else:
        assert f"rm -r {partial_of(target)}" in refused.value.hint
    moegrow.apply(moegrow.width(source), target, resume=True, force=True)
    assert moegrow.verify(target).ok
    assert alter.contents(target) != expected
    assert [path.name for path in target.parent.iterdir()] == ["grown"]


def test_what_was_moved_aside_is_never_removed_for_what_somebody_else_put_there(
    begun, plan, target
):
    (begun / REPLACED).mkdir()
    (begun / REPLACED / "precious").write_text("x")
    moegrow.apply(plan, target.with_name("other"))
    target.with_name("other").rename(target)
    with pytest.raises(MoegrowError, match="something else stands there now") as refused:
        moegrow.apply(plan, target, force=True)
    assert f"mv {begun / REPLACED}" in refused.value.hint
    assert (begun / REPLACED / "precious").exists()
