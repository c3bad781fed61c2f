"""The working folder belongs to one run at a time, and to none that has ended."""

import errno
import fcntl
import os
import signal

import alter
import pytest

import moegrow
from moegrow.errors import MoegrowError
from moegrow.write import run_job, work_dir_lock
from moegrow.write.work_dir import LOCK, OWNER, Partial, partial_of
from moegrow.write.work_dir_lock import locked


@pytest.fixture
def target(tmp_path):
    return tmp_path / "grown"


@pytest.fixture
def plan(checkpoint):
    return moegrow.width(checkpoint())


def test_a_second_run_is_refused_until_the_first_is_dead(holder, plan, target):
    first = holder()
    before = alter.contents(target.parent)
    for flags in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(MoegrowError, match="another moegrow is writing"):
            moegrow.apply(plan, target, **flags)
    assert alter.contents(target.parent) == before
    first.send_signal(signal.SIGKILL)
    first.wait()
    moegrow.apply(plan, target)
    assert moegrow.verify(target).ok


def test_several_may_hold_it_together_and_then_nobody_alone(holder, target):
    first = holder("shared")
    with locked(target, shared=True):
        pass
    with pytest.raises(MoegrowError, match="another moegrow"), locked(target):
        pass
    first.kill()
    first.wait()
    with locked(target), pytest.raises(MoegrowError, match="another"), locked(target, shared=True):
        pass


def test_a_place_where_no_folder_can_be_made_is_refused_at_once(run, checkpoint):
    """There mkdir says that the name is not found, as if another run had just removed it."""
    refused = run("depth", checkpoint(), "-o", "/proc/grown", code=1)
    assert "/proc/grown.partial: no folder can be made there" in refused.stderr


NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_there_are_no_locks_a_file_says_who_writes(plan, target, monkeypatch, number):
    """As on Lustre without -o flock, and on some network filesystems."""

    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(target) as working:
        assert (working.folder / OWNER).read_text().endswith(f" {os.getpid()}")
        with pytest.raises(MoegrowError, match=f"process {os.getpid()} on .* is writing") as told:
            moegrow.apply(plan, target)
        assert f"rm {working.folder / OWNER}" in told.value.hint
        assert (working.folder / OWNER).exists()
    assert not (partial_of(target) / OWNER).exists()
    moegrow.apply(plan, target)
    assert moegrow.verify(target).ok


def test_where_there_are_no_locks_a_dead_process_of_this_machine_holds_nothing(
    holder, plan, target, monkeypatch
):
    refuse = "import fcntl, errno\ndef flock(*a): raise OSError(errno.ENOSYS, 'no')\n"
    first = holder(before=refuse + "fcntl.flock = flock\n")
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no")))
    with pytest.raises(MoegrowError, match=f"process {first.pid} on"):
        moegrow.apply(plan, target)
    first.kill()
    first.wait()
    moegrow.apply(plan, target)
    assert moegrow.verify(target).ok


def test_where_there_are_no_locks_another_machine_is_believed(plan, target, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no")))
    with locked(target) as working:
        (working.folder / OWNER).write_text("elsewhere 1")
        with pytest.raises(MoegrowError, match="process 1 on elsewhere"):
            moegrow.apply(plan, target)


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_not_taken_for_one(target, monkeypatch):
    real, calls = fcntl.flock, []

    def flock(descriptor, how):
        if not calls:  # the run that held it publishes and removes the folder just now
            Partial(partial_of(target)).remove()
        calls.append(how)
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(target) as working:
        assert (working.folder / LOCK).stat().st_ino
    assert len(calls) == 2


def test_what_another_run_published_meanwhile_is_not_replaced(plan, target, monkeypatch):
    """Both found no output; the other was quicker."""
    real = work_dir_lock.locked

    def late(where):
        monkeypatch.setattr(run_job, "locked", real)
        moegrow.apply(plan, target)
        return real(where)

    monkeypatch.setattr(run_job, "locked", late)
    with pytest.raises(MoegrowError, match="exists already"):
        moegrow.apply(plan, target)
    assert moegrow.verify(target).ok


def test_a_folder_that_moegrow_did_not_make_is_left_alone(plan, target):
    partial_of(target).mkdir()
    (partial_of(target) / "precious").write_text("x")
    for flags in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(MoegrowError, match="moegrow did not make it"):
            moegrow.apply(plan, target, **flags)
    assert (partial_of(target) / "precious").read_text() == "x"


@pytest.mark.parametrize("text", ["", "x" * 5000, "\0" * 100, "elsewhere"])
def test_where_there_are_no_locks_a_file_that_names_nobody_is_named(
    plan, target, monkeypatch, text
):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no")))
    with locked(target) as working:
        (working.folder / OWNER).write_text(text)
        with pytest.raises(MoegrowError, match=OWNER):
            moegrow.apply(plan, target)
