"""Lists and reads of object stores that take too long, and lists without end, are given up."""

import asyncio
import itertools
import threading

import pytest

from moegrow.checkpoint import object_store, store_limits
from moegrow.checkpoint.listing import RemoteFile
from moegrow.checkpoint.store import ANYONE
from moegrow.errors import MoegrowError

fsspec_asyn = pytest.importorskip("fsspec.asyn", reason="fsspec is not installed")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

ROOT, LOCATION = "bucket/model", "s3://bucket/model"


def told(name, size=1):
    return {"name": f"{ROOT}/{name}", "type": "file", "size": size, "ETag": f"tag of {name}"}


class Driver(fsspec_asyn.AsyncFileSystem):
    """A driver that lists what a test says, page by page, and notes that it was stopped."""

    cachable = False

    def __init__(self, pages):
        super().__init__()
        self.pages, self.stopped = pages, threading.Event()

    async def _walk(self, path, **options):
        try:
            async for page in self.pages():
                yield path, {}, {info["name"]: info for info in page}
        finally:
            self.stopped.set()

    async def _cat_file(self, path, start=None, end=None, **options):
        try:
            async for page in self.pages():
                return page
        finally:
            self.stopped.set()


class Blocking(MemoryFileSystem):
    """A driver without coroutines, and a walk that waits until the test lets it go on."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()

    def walk(self, path, **options):
        self.go_on.wait()
        yield path, {}, {}

    def cat_file(self, path, start=None, end=None, **options):
        self.go_on.wait()
        return b""


async def nothing():
    await asyncio.Event().wait()
    yield []


async def endless():
    number = 0
    while True:
        number += 1
        yield [told(f"{number}.txt")]
        await asyncio.sleep(0)


@pytest.fixture
def impatient(monkeypatch):
    """Limits that a test does not have to wait for."""
    monkeypatch.setattr(store_limits, "QUIET", 0.1)
    monkeypatch.setattr(store_limits, "SLOWEST", 1e6)
    monkeypatch.setattr(store_limits, "TICK", 0.01)


@pytest.fixture
def found(monkeypatch):
    """Open a checkpoint in a store that has this driver."""

    def found(driver):
        monkeypatch.setattr("fsspec.core.url_to_fs", lambda address: (driver, ROOT))
        return object_store.find(LOCATION, ANYONE)[0]

    return found


def test_files_are_listed_with_size_and_version_and_nothing_beside_them(found):
    async def pages():
        yield [told("config.json", 7), told("marker/", 0), {"name": ROOT, "type": "directory"}]
        yield [{**told("x"), "name": "bucket/other/x"}, told("sub/a.txt", 9)]

    store = found(Driver(pages))
    assert store._files == {
        "config.json": RemoteFile(7, version="tag of config.json"),
        "sub/a.txt": RemoteFile(9, version="tag of sub/a.txt"),
    }


def test_a_list_that_never_ends_is_stopped(found, impatient):
    async def pages():
        yield [told("config.json")]
        await asyncio.Event().wait()

    driver = Driver(pages)
    with pytest.raises(MoegrowError, match=r"1 names came, and no further one in 0 s") as error:
        found(driver)
    assert LOCATION in error.value.message
    assert "s3fs" in error.value.hint
    assert driver.stopped.wait(30)


def test_a_list_that_drips_has_a_limit_for_the_whole(found, monkeypatch):
    monkeypatch.setattr(store_limits, "LONGEST", 0.1)
    monkeypatch.setattr(store_limits, "TICK", 0.01)
    driver = Driver(endless)
    with pytest.raises(MoegrowError, match=r"names came in 0 s, and more are to come"):
        found(driver)
    assert driver.stopped.wait(30)


def test_pages_without_names_are_no_progress(found, impatient):
    async def pages():
        while True:
            yield []
            await asyncio.sleep(0)

    with pytest.raises(MoegrowError, match="0 names came, and no further one"):
        found(Driver(pages))


@pytest.mark.parametrize(
    ("limit", "most", "says"),
    [
        ("MOST_ENTRIES", 1000, "lists more than 1000 names, which no checkpoint has"),
        ("MOST_NAME_BYTES", 5000, "lists more than 5000 bytes of names, which no checkpoint has"),
    ],
)
def test_a_list_with_too_many_names_is_stopped(found, monkeypatch, limit, most, says):
    monkeypatch.setattr(store_limits, limit, most)
    with pytest.raises(MoegrowError, match=says) as error:
        found(Driver(endless))
    assert error.value.hint == "give the folder of one checkpoint"


def test_as_many_names_as_are_allowed_are_listed(found, monkeypatch):
    monkeypatch.setattr(store_limits, "MOST_ENTRIES", 3)

    async def pages():
        yield [told("a"), told("b"), told("c")]

    assert found(Driver(pages)).top() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "size", "says"), [("../x", 1, "no name of a file"), ("x", -1, "which no file has")]
)
def test_what_no_file_has_is_refused_as_it_comes(found, name, size, says):
    async def pages():
        yield [told(name, size)]
        yield [told("never asked for")]
        raise AssertionError

    with pytest.raises(MoegrowError, match=says):
        found(Driver(pages))


def test_a_read_that_never_ends_is_stopped_and_tried_again(impatient, monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_WAIT", 0.0)
    driver = Driver(nothing)
    store = object_store.ObjectStore(LOCATION, ROOT, {"x": RemoteFile(8)}, driver)
    with pytest.raises(MoegrowError, match=r"is read too slowly: 8 bytes did not come in 0 s"):
        store.read_into("x", 0, memoryview(bytearray(8)))
    assert driver.stopped.wait(30)


def test_a_read_that_comes_the_second_time_is_whole(impatient, monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_WAIT", 0.0)
    tries = []

    async def pages():
        tries.append(len(tries))
        if len(tries) == 1:
            await asyncio.Event().wait()
        yield b"12345678"

    view = bytearray(8)
    store = object_store.ObjectStore(LOCATION, ROOT, {"x": RemoteFile(8)}, Driver(pages))
    store.read_into("x", 0, memoryview(view))
    assert (bytes(view), len(tries)) == (b"12345678", 2)


def test_more_time_is_given_to_more_bytes(monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(store_limits, "TICK", 0.0)
    monkeypatch.setattr(store_limits, "monotonic", lambda: float(next(seconds)))
    for count in (10_000, 1_000_000):
        before = next(seconds)
        with pytest.raises(store_limits.LateError):
            store_limits.read_part(Driver(nothing), "x", 0, count)
        limit = store_limits.QUIET + count / store_limits.SLOWEST
        assert next(seconds) - before == pytest.approx(limit, abs=4)


def test_a_driver_that_blocks_is_left_alone(found, impatient):
    driver = Blocking()
    try:
        with pytest.raises(MoegrowError, match="0 names came, and no further one"):
            found(driver)
        with pytest.raises(store_limits.LateError):
            store_limits.read_part(driver, "x", 0, 8)
    finally:
        driver.go_on.set()


def test_a_driver_without_coroutines_is_listed_and_read(found):
    driver = MemoryFileSystem(skip_instance_cache=True)
    driver.store = {}
    driver.pipe_file(f"/{ROOT}/config.json", b"{}")
    driver.pipe_file(f"/{ROOT}/sub/deep/a.txt", b"12345678")
    kept = store_limits.listed(driver, f"/{ROOT}", LOCATION, lambda name, info: info["size"])
    assert kept == {"config.json": 2, "sub/deep/a.txt": 8}
    assert store_limits.read_part(driver, f"/{ROOT}/sub/deep/a.txt", 2, 5) == b"345"


def test_what_a_driver_raises_comes_through():
    async def pages():
        raise PermissionError
        yield

    with pytest.raises(PermissionError):
        store_limits.listed(Driver(pages), ROOT, LOCATION, lambda name, info: None)
    driver = MemoryFileSystem(skip_instance_cache=True)
    with pytest.raises(FileNotFoundError):
        store_limits.read_part(driver, "/nowhere", 0, 1)
