"""Give up on remote answers that are too slow, or that never end."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
from huggingface_hub import get_session

from moegrow.errors import MoegrowError
from moegrow.files.untrusted import MOST_WIDE

PROGRAM = "moegrow"  # as the Hub's client names it in its requests
WINDOW = 30.0  # seconds of waiting for an answer, after which it is looked at how much has come
SLOWEST = 1000  # bytes a second; what is slower would take years for a model
LARGEST = 48 << 20  # bytes of an answer that is no file
LARGEST_HEADERS = 1 << 20  # bytes
MOST_VALUES = 2_000_000  # in one: all of it is parsed at once
MOST_PAGES = 1000  # of a list of files; each has up to a thousand

_pages: Counter[str] = Counter()


class SlowError(httpx2.ReadTimeout):
    """An answer comes, but so slowly that it would never end."""


class Pace:
    """How fast bytes come, looked at once in a while."""

    def __init__(self) -> None:
        self._waited, self._count = 0.0, 0

    def add(self, seconds: float, count: int) -> None:
        """Note that so many bytes came after so long; raises SlowError where they are too few."""
        self._waited, self._count = self._waited + seconds, self._count + count
        if self._waited >= WINDOW:
            if self._count < SLOWEST * self._waited:
                raise SlowError(f"{self._count} bytes in {self._waited:.0f} s")
            self._waited, self._count = 0.0, 0


def watch() -> None:
    """Have every answer to the Hub's client watched from now on, and count pages anew."""
    _pages.clear()
    session = get_session()
    hooks = session.event_hooks
    if _watch not in hooks["response"]:
        hooks["request"].append(_trace)
        hooks["response"].append(_watch)
        # A small packed answer may be a very large one.
        session.headers["Accept-Encoding"] = "identity"


def _trace(request: httpx2.Request) -> None:
    request.extensions["trace"] = _follow


def _follow(event: str, info: Mapping[str, Any]) -> None:
    """Watch each connection that is made, and note where an answer begins."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
        stream = info["return_value"]
        stream.read = _watched(stream.read)
    elif event.endswith(".receive_response_headers.started"):
        _reading.begin(info["request"].url.host.decode("ascii", "replace"))
    elif event.endswith(".receive_response_headers.complete"):
        _reading.end_headers()


def _watched(read: Callable[..., bytes]) -> Callable[..., bytes]:
    """What reads from a connection, with what comes noted."""

    def reading(most: int, timeout: float | None = None) -> bytes:
        before = time.monotonic()
        data = read(most, timeout)
        _reading.add(time.monotonic() - before, len(data))
        return data

    return reading


class _Reading(threading.local):
    """What a thread has read of an answer, with its headers and all that frames its parts."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, host: str) -> None:
        self._host, self._pace = host, Pace()
        self._is_first, self._headers = True, 0

    def end_headers(self) -> None:
        self._headers = -1

    def add(self, seconds: float, count: int) -> None:
        # The client has a limit of its own for how long the first bytes take.
        self._pace.add(0.0 if self._is_first else seconds, count)
        self._is_first = False
        if self._headers >= 0:
            self._headers += count
            if self._headers > LARGEST_HEADERS:
                raise MoegrowError(
                    f"{self._host} begins an answer with more than {LARGEST_HEADERS} bytes of"
                    " headers",
                    "check HF_ENDPOINT",
                )


_reading = _Reading()


def _watch(answer: httpx2.Response) -> None:
    host, path = answer.request.url.host, answer.request.url.path
    is_file = _is_file(answer)
    if not is_file and answer.headers.get("Content-Encoding", "identity") != "identity":
        raise MoegrowError(f"{host} sends an answer in a packed form, which was not asked for")
    if "/tree/" in path and "cursor" in answer.request.url.params:
        _pages[path] += 1
        if _pages[path] > MOST_PAGES:
            raise MoegrowError(f"{host} lists files without end", "check HF_ENDPOINT")
    if isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = _Watched(answer.stream, host, None if is_file else LARGEST)


def _is_file(answer: httpx2.Response) -> bool:
    """Whether an answer is part of a file, so that who asked for it knows how many bytes it has.

    Of other programs' requests in this process only the answer tells it.
    """
    asked = answer.request.headers
    if asked.get("User-Agent", "").startswith(f"{PROGRAM}/"):
        return "Range" in asked
    return "json" not in answer.headers.get("Content-Type", "")


class _Watched(httpx2.SyncByteStream):
    """The bytes of an answer, as long as they come fast enough and there are not too many."""

    def __init__(self, stream: httpx2.SyncByteStream, host: str, most: int | None) -> None:
        self._stream, self._host, self._most = stream, host, most

    def __iter__(self) -> Iterator[bytes]:
        parts, pace = iter(self._stream), Pace()
        total, values, is_wide = 0, 0, False
        while True:
            before = time.monotonic()
            part = next(parts, None)
            if part is None:
                return
            # What becomes of the bytes here takes time as well, and does not count.
            waited = time.monotonic() - before
            total += len(part)
            if self._most is not None and total > self._most:
                raise self._too_large(f"{self._most} bytes")
            if self._most is not None:
                values += sum(map(part.count, (b",", b"[", b"{")))
                is_wide = is_wide or not part.isascii() or b"\\u" in part
                if values > MOST_VALUES:
                    raise self._too_large(f"{MOST_VALUES} values")
                if is_wide and total > MOST_WIDE:
                    raise self._too_large(f"{MOST_WIDE} characters, some of them outside ASCII")
            pace.add(waited, len(part))
            yield part

    def close(self) -> None:
        self._stream.close()

    def _too_large(self, than: str) -> MoegrowError:
        return MoegrowError(
            f"{self._host} answers with more than {than}, where a list was asked for",
            "check HF_ENDPOINT",
        )
