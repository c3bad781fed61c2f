"""Ranges of bytes from file to file, whatever the kernel says."""

import errno
import fcntl
import os
import struct

import pytest

from moegrow.files import byte_ranges
from moegrow.files.byte_ranges import BLOCK, copy_range, read_all, share_range, write_all

CONTENT = bytes(range(256)) * 500
BEFORE = b"before"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def target(tmp_path):
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, BEFORE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def copied(source, target, tmp_path):
    """Copy a range behind what the target already holds; gives what was added and the steps."""

    def copied(start, count, offset=6):
        steps = list(copy_range(source, start, count, target, offset))
        written = (tmp_path / "target").read_bytes()
        assert written.startswith(BEFORE)
        # Both files stay at the positions where they were.
        assert os.lseek(source, 0, os.SEEK_CUR) == 0
        assert os.lseek(target, 0, os.SEEK_CUR) == len(BEFORE)
        return written[offset:], steps

    return copied


def refuse(monkeypatch, answer):
    """Let the kernel's copy be answered by `answer(real, source, target, count, start, offset)`."""
    real = os.copy_file_range
    monkeypatch.setattr(
        os, "copy_file_range", lambda *arguments: answer(real, *arguments), raising=False
    )


def raising(number):
    def answer(*_):
        raise OSError(number, os.strerror(number))

    return answer


@pytest.mark.parametrize(
    ("start", "count"), [(0, 0), (0, 1), (7, 1000), (0, len(CONTENT)), (len(CONTENT), 0)]
)
def test_a_range_is_copied_to_its_place(copied, start, count):
    content, steps = copied(start, count)
    assert content == CONTENT[start : start + count]
    assert sum(steps) == count


def test_a_range_may_lie_behind_a_gap_that_others_fill(copied, tmp_path):
    assert copied(7, 1000, offset=5000)[0] == CONTENT[7:1007]
    assert (tmp_path / "target").read_bytes()[len(BEFORE) : 5000] == bytes(5000 - len(BEFORE))
    assert copied(0, 100, offset=500)[0][:100] == CONTENT[:100]
    assert (tmp_path / "target").read_bytes()[5000:] == CONTENT[7:1007]


REFUSALS = [
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF,
    errno.EPERM, errno.ETXTBSY,
]  # fmt: skip


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_refusal_of_the_kernel_copies_nothing(copied, monkeypatch, number):
    refuse(monkeypatch, raising(number))
    assert copied(7, 100_000) == (b"", [])


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_refusal_in_the_middle_leaves_what_was_copied_before(copied, monkeypatch, number):
    calls = []

    def answer(real, source, target, count, start, offset):
        calls.append((start, offset))
        if len(calls) > 2:
            raise OSError(number, "refused")
        return real(source, target, min(count, 1000), start, offset)

    refuse(monkeypatch, answer)
    assert copied(7, 100_000) == (CONTENT[7:2007], [1000, 1000])
    assert calls == [(7, 6), (1007, 1006), (2007, 2006)]


def test_short_counts_are_gone_on_from(copied, monkeypatch):
    refuse(monkeypatch, lambda real, s, t, count, *places: real(s, t, min(count, 333), *places))
    content, steps = copied(5, 10_000)
    assert content == CONTENT[5:10_005]
    assert steps == [333] * 30 + [10]


def test_a_kernel_that_copies_nothing_is_not_asked_for_ever(copied, monkeypatch):
    refuse(monkeypatch, lambda *arguments: 0)
    assert copied(5, 10_000) == (b"", [])


def test_a_platform_without_the_call_copies_nothing(copied, monkeypatch):
    monkeypatch.delattr(os, "copy_file_range")
    assert copied(5, 10_000) == (b"", [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_failure_is_no_refusal(copied, monkeypatch, number):
    refuse(monkeypatch, raising(number))
    with pytest.raises(OSError, match=r".*") as failed:
        copied(0, 10)
    assert failed.value.errno == number


@pytest.mark.parametrize("start", [0, len(CONTENT) - 5, len(CONTENT) + 5])
def test_a_source_that_ends_too_early_gives_what_it_has(copied, start):
    content, steps = copied(start, len(CONTENT) + 1)
    assert content == CONTENT[start:]
    assert sum(steps) == len(content)


def test_progress_is_shown_in_steps(copied, monkeypatch):
    monkeypatch.setattr(byte_ranges, "IN_KERNEL", 1000)
    assert copied(0, 2500)[1] == [1000, 1000, 500]


@pytest.mark.parametrize("most", [3, 1 << 20])
@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 1), (7, 1000), (len(CONTENT) - 9, 9)])
def test_a_view_is_filled_however_few_bytes_come_at_a_time(source, monkeypatch, start, count, most):
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda f, views, at: real(f, [views[0][:most]], at))
    content = bytearray(count)
    read_all(source, start, memoryview(content))
    assert content == CONTENT[start : start + count]


@pytest.mark.parametrize("start", [0, len(CONTENT) - 5, len(CONTENT) + 5])
def test_the_end_of_a_source_is_told_with_its_position(source, start):
    with pytest.raises(EOFError) as ended:
        read_all(source, start, memoryview(bytearray(len(CONTENT) + 1)))
    assert ended.value.args == (max(start, len(CONTENT)),)


def test_a_kernel_that_writes_a_part_is_asked_again(target, tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, view, offset: write(f, view[:3], offset))
    write_all(target, memoryview(b"0123456789"), 4)
    write_all(target, memoryview(b""), 4)
    assert (tmp_path / "target").read_bytes() == b"befo0123456789"


def test_a_failure_to_write_is_told(target, monkeypatch):
    monkeypatch.setattr(os, "pwrite", raising(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write_all(target, memoryview(b"x"), 0)


def test_what_is_asked_of_the_filesystem_is_its_range_and_its_place(source, target, monkeypatch):
    asked = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *arguments: asked.append(arguments))
    assert share_range(source, 3 * BLOCK, 2 * BLOCK, target, 7 * BLOCK)
    # FICLONERANGE of linux/fs.h: _IOW(0x94, 13, struct file_clone_range), 32 bytes.
    request = 1 << 30 | 32 << 16 | 0x94 << 8 | 13
    fields = struct.pack("=qQQQ", source, 3 * BLOCK, 2 * BLOCK, 7 * BLOCK)
    assert asked == [(target, request, fields)]


# ZFS answers EAGAIN for bytes that it has not yet written to the disk.
@pytest.mark.parametrize("number", [*REFUSALS, errno.EAGAIN], ids=errno.errorcode.get)
def test_a_filesystem_that_does_not_share_changes_nothing(
    source, target, tmp_path, monkeypatch, number
):
    monkeypatch.setattr(fcntl, "ioctl", raising(number))
    assert not share_range(source, 0, BLOCK, target, BLOCK)
    assert (tmp_path / "target").read_bytes() == BEFORE


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_failure_to_share_is_no_refusal(source, target, monkeypatch, number):
    monkeypatch.setattr(fcntl, "ioctl", raising(number))
    with pytest.raises(OSError, match=r".*") as failed:
        share_range(source, 0, BLOCK, target, BLOCK)
    assert failed.value.errno == number
