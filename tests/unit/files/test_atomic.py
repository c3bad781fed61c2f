"""A file has its name when it is whole and on the disk, and not before."""

import os

import pytest

from moegrow.files.atomic import TEMPORARY, durable, sync, temporary


def test_a_file_has_its_name_only_when_it_is_whole_and_synced(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "x", [], os.fsync

    def note(descriptor):
        assert not path.exists()
        assert os.fstat(descriptor).st_size == 5
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with durable(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert len(synced) == 1
    monkeypatch.undo()
    sync(tmp_path)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"before")

    def fail():
        with durable(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_no_two_temporary_names_are_alike(tmp_path):
    names = {temporary(tmp_path / "x").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("x.") and name.endswith(TEMPORARY) for name in names)
