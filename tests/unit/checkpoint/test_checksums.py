"""Bytes that come in pieces and in any order are held against the SHA-256 of all of them."""

import hashlib
import random
import threading
import time

import pytest

from moegrow.checkpoint import checksums
from moegrow.checkpoint.checksums import Ordered
from moegrow.checkpoint.listing import Listed, RemoteFile
from moegrow.errors import UnfinishedError
from moegrow.files import worker_threads

SIZE, HEAD = 10_000, 100  # of a file and of its header
DATA = random.Random(0).randbytes(SIZE)


def place(*names):
    entry = RemoteFile(SIZE, hashlib.sha256(DATA).hexdigest())
    return Listed("hf://org/name@1", dict.fromkeys(names, entry))


def ordered(*names):
    return Ordered(place(*names), {name: (HEAD, hashlib.sha256(DATA[:HEAD])) for name in names})


def pieces(seed=0, size=700):
    """The ranges of a file behind its header, in pieces of some lengths."""
    chance, start, found = random.Random(seed), HEAD, []
    while start < SIZE:
        stop = min(SIZE, start + chance.randint(1, size))
        found.append((start, stop))
        start = stop
    return found


def give(sums, name, start, stop, data=DATA):
    sums.take(name, start, memoryview(data[start:stop]))


def give_all(sums, name, parts, data=DATA):
    for start, stop in parts:
        give(sums, name, start, stop, data)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wrong", [HEAD, HEAD + 1, SIZE // 2, SIZE - 1])
def test_one_wrong_bit_is_found_in_whatever_order_the_bytes_come(seed, wrong):
    data = bytearray(DATA)
    data[wrong] ^= 1
    parts = pieces(seed)
    random.Random(seed).shuffle(parts)
    right, other = ordered("a"), ordered("a")
    for start, stop in parts:
        give(right, "a", start, stop)
    assert right.finish() == []
    with pytest.raises(UnfinishedError) as told:
        give_all(other, "a", parts, data)
    assert told.value.file == "a"
    for part in (data, DATA):
        assert hashlib.sha256(part).hexdigest() in told.value.message


def test_a_header_that_was_read_with_a_wrong_bit_is_found_as_well():
    head = bytearray(DATA[:HEAD])
    head[5] ^= 1
    sums = Ordered(place("a"), {"a": (HEAD, hashlib.sha256(head))})
    with pytest.raises(UnfinishedError):
        give(sums, "a", HEAD, SIZE)


def test_bytes_may_overlap_and_come_twice():
    sums = ordered("a")
    for start, stop in ((5000, 9000), (4000, 6000), (HEAD, 4500), (200, 300), (8000, SIZE)):
        give(sums, "a", start, stop)
    assert sums.finish() == []


def test_a_file_that_is_not_read_whole_is_named():
    sums = ordered("a", "b", "c")
    give(sums, "c", 300, 400)
    sums.expect(
        {"a": [(HEAD, SIZE)], "b": [(HEAD, 500), (501, SIZE)], "c": [(HEAD, 300), (400, SIZE)]}
    )
    for name in "abc":
        for start, stop in ((HEAD, 300), (300, 400), (400, SIZE)):
            give(sums, name, start, stop)
    assert sums.finish() == ["b"]


def test_what_comes_too_early_is_kept_only_so_far(monkeypatch):
    monkeypatch.setattr(checksums, "BUFFERED", 1000)
    sums = ordered("a", "b")
    give(sums, "a", 200, 1200)
    give(sums, "b", 200, 201)
    assert sums.finish() == ["a", "b"]
    assert sums._held == 0


@pytest.mark.parametrize("seed", range(3))
def test_threads_wait_for_bytes_before_theirs_where_there_is_no_room(monkeypatch, seed):
    """Nobody waits for ever, and no more than the room there is is taken."""
    monkeypatch.setattr(checksums, "BUFFERED", 2000)
    names = ["a", "b", "c"]
    sums = ordered(*names)
    sums.expect({name: pieces(seed) for name in names})
    tasks = iter([(name, *part) for part in pieces(seed) for name in names])
    lock, most = threading.Lock(), [0]

    def work(number):
        chance = random.Random(number)
        while True:
            with lock:
                task = next(tasks, None)
                most[0] = max(most[0], sums._held)
            if task is None:
                return
            time.sleep(chance.random() / 500)
            give(sums, *task)

    with worker_threads.pool(6) as pool:
        list(pool.map(work, range(6)))
    assert sums.finish() == []
    assert 0 < most[0] <= 2000


def test_a_thread_that_waits_ends_with_the_run(monkeypatch):
    monkeypatch.setattr(checksums, "BUFFERED", 10)
    sums = ordered("a")
    sums.expect({"a": [(HEAD, SIZE)]})
    stop = threading.Event()
    with worker_threads.pool(1, stop) as pool:
        waits = pool.submit(give, sums, "a", 5000, 6000)
        time.sleep(0.3)
        assert not waits.done()
        stop.set()
        assert isinstance(waits.exception(timeout=20), InterruptedError)
