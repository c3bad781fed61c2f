"""What is written past the page cache is what would have been written through it."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moegrow.files.byte_ranges import BLOCK
from moegrow.write import direct_io
from moegrow.write.direct_io import BOUNCE, WIDEST, open_direct, placed, room, write

OFFSETS = st.integers(0, 3 * BLOCK) | st.sampled_from([0, BLOCK, 8 * BLOCK])
SIZES = st.integers(0, 5 * BLOCK) | st.sampled_from([BOUNCE, BOUNCE + 3 * BLOCK + 5])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A file, opened twice, and what is asked of the disk."""
    path = tmp_path_factory.mktemp("disk") / "file"
    target = os.open(path, os.O_RDWR | os.O_CREAT)
    past = os.open(path, os.O_WRONLY)
    yield path, target, past
    os.close(target)
    os.close(past)


@given(OFFSETS, SIZES, st.integers(0, BLOCK), st.integers(0, 2**32))
def test_the_disk_is_given_whole_blocks_from_where_blocks_begin(opened, offset, size, at, seed):
    path, target, past = opened
    os.ftruncate(target, 0)
    view = room(size + BLOCK)[at : at + size]
    view[:] = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    asked = []
    real = os.pwrite

    def pwrite(descriptor, part, position):
        if descriptor == past:
            address = np.frombuffer(part, np.uint8).ctypes.data
            asked.append((position % BLOCK, len(part) % BLOCK, address % BLOCK, len(part)))
        return real(descriptor, part, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        write(past, target, view, offset, room(BOUNCE))
    assert path.read_bytes() == b"\0" * (offset if size else 0) + view.tobytes()
    assert all(found[:3] == (0, 0, 0) for found in asked)
    # Nothing but the ends goes the other way.
    assert sum(found[3] for found in asked) > size - 2 * BLOCK


@given(st.integers(0, 1 << 40), st.integers(1, 9999))
def test_bytes_that_are_computed_lie_as_they_will_in_the_file(offset, size):
    found = placed(room(size), size, offset)
    assert found.size == size
    assert found.ctypes.data % WIDEST == 0
    if offset % WIDEST == 0:
        assert (found.ctypes.data - offset) % BLOCK == 0


def test_what_the_disk_does_not_take_is_written_the_usual_way(opened, monkeypatch):
    path, target, past = opened
    os.ftruncate(target, 0)
    view = room(4 * BLOCK)[: 4 * BLOCK]
    view[:] = np.arange(view.size) % 251
    real = os.pwrite

    def pwrite(descriptor, part, position):
        return real(descriptor, part[:BLOCK] if descriptor == past else part, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(past, target, view, 0, room(BOUNCE))
    assert path.read_bytes() == view.tobytes()


def test_small_files_and_those_far_away_go_the_usual_way(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    assert open_direct(path, direct_io.SMALLEST - 1) is None
    monkeypatch.setattr(os, "major", lambda device: 0)
    assert open_direct(path, direct_io.SMALLEST) is None


def test_a_filesystem_that_refuses_is_written_to_the_usual_way(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "major", lambda device: 8)

    def refuse(*_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "open", refuse)
    assert open_direct(path, direct_io.SMALLEST) is None
