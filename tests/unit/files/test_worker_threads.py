"""A wait ends when the work that it is for is not wanted any more."""

import threading
import time

import pytest

from moegrow.files import worker_threads


def test_threads_that_wait_give_up_where_the_block_fails():
    ended = []

    def work(number):
        try:
            worker_threads.wait(600)
        finally:
            ended.append(number)

    begun = []

    def interrupted():
        with worker_threads.pool(3) as pool:
            begun.extend(pool.submit(work, number) for number in range(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(ended) == [0, 1, 2]
    assert all(isinstance(it.exception(), InterruptedError) for it in begun)


def test_threads_that_wait_give_up_when_they_are_told():
    stop = threading.Event()
    with worker_threads.pool(1, stop) as pool:
        begun = pool.submit(worker_threads.wait, 600)
        stop.set()
    assert isinstance(begun.exception(), InterruptedError)


def test_a_wait_takes_its_time_otherwise(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    worker_threads.wait(7)
    with worker_threads.pool(1) as pool:
        assert list(pool.map(worker_threads.wait, [0, 0])) == [None, None]
    assert waited == [7]
