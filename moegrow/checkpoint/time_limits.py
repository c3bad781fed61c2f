"""Answers of the Hub that come too slowly to end, or have no end, are given up."""

import time
from collections import Counter
from collections.abc import Iterator

import httpx2
from huggingface_hub import get_session

from moegrow.errors import MoegrowError
from moegrow.files.untrusted import MOST_WIDE

WINDOW = 30.0  # seconds of waiting for an answer, after which it is looked at how much has come
SLOWEST = 1000  # bytes a second; what is slower would take years for a model
LARGEST = 64 << 20  # bytes of an answer that is no file
MOST_VALUES = 2_000_000  # in one: all of it is parsed at once
MOST_PAGES = 1000  # of a list of files; each has up to a thousand

_pages: Counter[str] = Counter()


class SlowError(httpx2.ReadTimeout):
    """An answer comes, but so slowly that it would never end."""


def watch() -> None:
    """Have every answer to the Hub's client watched from now on, and count pages anew."""
    _pages.clear()
    session = get_session()
    hooks = session.event_hooks["response"]
    if _watch not in hooks:
        hooks.append(_watch)
        # A small packed answer may be a very large one.
        session.headers["Accept-Encoding"] = "identity"


def _watch(answer: httpx2.Response) -> None:
    host, path = answer.request.url.host, answer.request.url.path
    is_file = "json" not in answer.headers.get("Content-Type", "")
    if not is_file and answer.headers.get("Content-Encoding", "identity") != "identity":
        raise MoegrowError(f"{host} sends an answer in a packed form, which was not asked for")
    if "/tree/" in path and "cursor" in answer.request.url.params:
        _pages[path] += 1
        if _pages[path] > MOST_PAGES:
            raise MoegrowError(f"{host} lists files without end", "check HF_ENDPOINT")
    if isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = _Watched(answer.stream, host, None if is_file else LARGEST)


class _Watched(httpx2.SyncByteStream):
    """The bytes of an answer, as long as they come fast enough and there are not too many."""

    def __init__(self, stream: httpx2.SyncByteStream, host: str, most: int | None) -> None:
        self._stream, self._host, self._most = stream, host, most

    def __iter__(self) -> Iterator[bytes]:
        parts, total = iter(self._stream), 0
        waited, count = 0.0, 0
        values, is_wide = 0, False
        while True:
            before = time.monotonic()
            part = next(parts, None)
            if part is None:
                return
            # What becomes of the bytes here takes time as well, and does not count.
            waited += time.monotonic() - before
            count, total = count + len(part), total + len(part)
            if self._most is not None and total > self._most:
                raise self._too_large(f"{self._most} bytes")
            if self._most is not None:
                values += sum(map(part.count, (b",", b"[", b"{")))
                is_wide = is_wide or not part.isascii() or b"\\u" in part
                if values > MOST_VALUES:
                    raise self._too_large(f"{MOST_VALUES} values")
                if is_wide and total > MOST_WIDE:
                    raise self._too_large(f"{MOST_WIDE} characters, some of them outside ASCII")
            if waited >= WINDOW:
                if count < SLOWEST * waited:
                    raise SlowError(f"{count} bytes in {waited:.0f} s")
                waited, count = 0.0, 0
            yield part

    def close(self) -> None:
        self._stream.close()

    def _too_large(self, than: str) -> MoegrowError:
        return MoegrowError(
            f"{self._host} answers with more than {than}, where a list was asked for",
            "check HF_ENDPOINT",
        )
