"""Ranges of bytes from file to file, whatever the kernel says."""

import errno
import os

import pytest

from moegrow import ranges
from moegrow.ranges import copy_range, write_all

CONTENT = bytes(range(256)) * 500


@pytest.fixture
def copied(tmp_path):
    """Copy a range behind what the target already holds; gives what was added and the steps."""

    def copied(start, count):
        (tmp_path / "source").write_bytes(CONTENT)
        target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        source = os.open(tmp_path / "source", os.O_RDONLY)
        try:
            os.write(target, b"before")
            steps = list(copy_range(source, start, count, target))
        finally:
            os.close(source)
            os.close(target)
        written = (tmp_path / "target").read_bytes()
        assert written.startswith(b"before")
        return written.removeprefix(b"before"), steps

    return copied


def refuse(monkeypatch, answer):
    """Let the kernel's copy be answered by `answer(source, target, count, start)`."""
    real = os.copy_file_range
    monkeypatch.setattr(
        os, "copy_file_range", lambda *arguments: answer(real, *arguments), raising=False
    )


def raising(number):
    def answer(real, *arguments):
        raise OSError(number, os.strerror(number))

    return answer


@pytest.mark.parametrize(
    ("start", "count"), [(0, 0), (0, 1), (7, 1000), (0, len(CONTENT)), (len(CONTENT), 0)]
)
def test_a_range_is_appended(copied, start, count):
    content, steps = copied(start, count)
    assert content == CONTENT[start : start + count]
    assert sum(steps) == count


REFUSALS = [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_refusal_of_the_kernel_is_made_up_for_by_hand(copied, monkeypatch, number):
    refuse(monkeypatch, raising(number))
    assert copied(7, 100_000)[0] == CONTENT[7:100_007]


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_refusal_in_the_middle_goes_on_by_hand_from_there(copied, monkeypatch, number):
    calls = []

    def answer(real, source, target, count, start):
        calls.append(start)
        if len(calls) > 2:
            raise OSError(number, "refused")
        return real(source, target, min(count, 1000), start)

    refuse(monkeypatch, answer)
    assert copied(7, 100_000)[0] == CONTENT[7:100_007]
    assert calls == [7, 1007, 2007]


def test_short_counts_are_gone_on_from(copied, monkeypatch):
    refuse(monkeypatch, lambda real, s, t, count, start: real(s, t, min(count, 333), start))
    content, steps = copied(5, 10_000)
    assert content == CONTENT[5:10_005]
    assert steps == [333] * 30 + [10]


def test_a_kernel_that_copies_nothing_is_made_up_for_by_hand(copied, monkeypatch):
    refuse(monkeypatch, lambda *arguments: 0)
    assert copied(5, 10_000)[0] == CONTENT[5:10_005]


def test_a_platform_without_the_call_copies_by_hand(copied, monkeypatch):
    monkeypatch.delattr(os, "copy_file_range")
    assert copied(5, 10_000)[0] == CONTENT[5:10_005]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failure_is_no_refusal(copied, monkeypatch, number):
    refuse(monkeypatch, raising(number))
    with pytest.raises(OSError, match=r".*") as failed:
        copied(0, 10)
    assert failed.value.errno == number


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize("start", [0, len(CONTENT) - 5, len(CONTENT) + 5])
def test_a_source_that_ends_too_early_is_an_error(copied, monkeypatch, in_kernel, start):
    if not in_kernel:
        refuse(monkeypatch, raising(errno.EXDEV))
    with pytest.raises(EOFError):
        copied(start, len(CONTENT) + 1)


def test_progress_is_shown_in_steps(copied, monkeypatch):
    monkeypatch.setattr(ranges, "IN_KERNEL", 1000)
    monkeypatch.setattr(ranges, "BY_HAND", 700)
    assert copied(0, 2500)[1] == [1000, 1000, 500]
    refuse(monkeypatch, raising(errno.EXDEV))
    content, steps = copied(3, 1500)
    assert (content, steps) == (CONTENT[3:1503], [700, 700, 100])


def test_a_kernel_that_writes_a_part_is_asked_again(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda target, block: write(target, block[:3]))
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    write_all(target, b"0123456789")
    write_all(target, b"")
    os.close(target)
    assert (tmp_path / "target").read_bytes() == b"0123456789"
