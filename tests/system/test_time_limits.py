"""Answers that come too slowly to end, or have no end, wherever in them that is."""

import socketserver
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest

from moegrow.checkpoint import time_limits
from moegrow.checkpoint.time_limits import PROGRAM, SLOWEST, WINDOW, Pace, SlowError, _Reading
from moegrow.errors import MoegrowError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


def test_what_comes_is_looked_at_once_in_a_window():
    steady, slow = Pace(), Pace()
    for _ in range(1000):
        steady.add(1.0, SLOWEST)
    for _ in range(int(WINDOW) - 1):
        slow.add(1.0, 1)
    with pytest.raises(SlowError, match="30 bytes in 30 s"):
        slow.add(1.0, 1)


def test_a_slow_moment_after_many_bytes_is_none():
    for windows in range(5):
        come = Pace()
        come.add(0.0, int(SLOWEST * WINDOW * 2))
        come.add(WINDOW, 0)
        for _ in range(windows):
            come.add(WINDOW, int(SLOWEST * WINDOW))
        with pytest.raises(SlowError):
            come.add(WINDOW, 0)


@contextmanager
def answering(parts, pause=0.0):
    """A server that answers every request with the same parts, for as long as anybody reads."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            try:
                for part in parts():
                    self.wfile.write(part)
                    time.sleep(pause)
            except OSError:
                pass  # the other side has had enough

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api/models/x"
        server.shutdown()


@pytest.fixture
def client(monkeypatch):
    """A client as the Hub's own library has one, watched."""
    with httpx2.Client(timeout=30) as client:
        monkeypatch.setattr(time_limits, "get_session", lambda: client)
        time_limits.watch()
        time_limits.watch()  # a second time changes nothing
        client.headers["User-Agent"] = f"{PROGRAM}/1"
        yield client


def endless(first, again):
    def parts():
        yield first
        while True:
            yield again

    return parts


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (HEAD, b"x"),  # within a header
        (b"", b"x"),  # within the first line
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),  # between two parts of a body
        (HEAD + b"\r\n", b"x"),  # within a body
    ],
)
def test_a_byte_at_a_time_is_given_up(client, monkeypatch, first, again):
    monkeypatch.setattr(time_limits, "WINDOW", 0.2)
    monkeypatch.setattr(time_limits, "SLOWEST", 1e9)
    with answering(endless(first, again), 0.01) as url, pytest.raises(SlowError, match="bytes in"):
        client.get(url)


def test_headers_without_end_are_given_up(client):
    with (
        answering(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)) as url,
        pytest.raises(MoegrowError, match=r"127\.0\.0\.1 begins an answer with more than"),
    ):
        client.get(url)


def test_a_list_without_end_is_given_up_whatever_it_says_that_it_is(client, monkeypatch):
    monkeypatch.setattr(time_limits, "LARGEST", 1 << 20)
    with answering(endless(HEAD + b"\r\n", b"x" * 10_000)) as url:
        with pytest.raises(MoegrowError, match="where a list was asked for"):
            client.get(url)
        for asked in ({"Range": "bytes=0-3000000"}, {"User-Agent": "another/1"}):
            with client.stream("GET", url, headers=asked) as answer:
                count = 0
                for part in answer.iter_raw():
                    count += len(part)
                    if count > 3_000_000:
                        break


def test_each_answer_has_its_own_time_and_the_wait_for_its_first_bytes_is_the_clients_affair():
    reading = _Reading()
    for _ in range(5):
        reading.begin("host")
        reading.add(WINDOW * 10, 100)
        reading.add(WINDOW - 1, 100)
        reading.end_headers()
    with pytest.raises(SlowError):
        reading.add(1, 100)
