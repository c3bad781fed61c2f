"""Fetch byte ranges of files behind URLs, and retry until a range is complete."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2
from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from moegrow.checkpoint.time_limits import SlowError, watch
from moegrow.errors import MoegrowError, Parameter, UnfinishedError
from moegrow.files.worker_threads import wait

TRIES = 6  # before giving up, if nothing at all has come in between
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling
LONGEST_ASKED = 300.0  # seconds that a server may ask to wait
CONTACTS = 2  # tries to reach a host of which nothing has been heard yet
REDIRECTS = 5

_BUSY = (408, 429, 500, 502, 503, 504)
_STALE = (401, 403, 404, 410)  # what a storage answers when a signed address is too old

T = TypeVar("T")


class Again(Exception):
    """Something that another try may mend; `seconds` are those that the server asks to wait."""

    def __init__(self, what: str, seconds: float | None = None) -> None:
        super().__init__(what)
        self.seconds = seconds


class Patience:
    """When to ask one host again, for all connections to it together."""

    def __init__(self) -> None:
        self._next = 0.0
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Wait until the host wants to be asked again."""
        while (left := self._next - time.monotonic()) > 0:
            wait(left)

    def after(self, failures: int, error: Exception) -> None:
        """Take note of a failure in a row; raises it as a MoegrowError if it was one too many."""
        asked = error.seconds if isinstance(error, Again) else None
        if failures >= TRIES or (asked or 0) > LONGEST_ASKED:
            wish = f", and asks to wait {asked:.0f} s" if asked else f", {failures} times"
            raise UnfinishedError(
                f"{_spell(error)}{wish}",
                "run the command again, or with fewer " + Parameter("threads"),
            ) from None
        if asked is None:
            wait(min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT))
            return
        with self._lock:
            self._next = max(self._next, time.monotonic() + asked)

    def insist(self, call: Callable[[], T]) -> T:
        """What a call to the Hub's API gives, tried again while the Hub is busy.

        A host that cannot be reached at all is no busy one: it is tried once more, and then the
        error is raised as it came.
        """
        failures = 0
        while True:
            self.ready()
            try:
                return call()
            except HfHubHTTPError as error:
                if error.response.status_code not in _BUSY:
                    raise
                failures += 1
                self.after(failures, busy(error.response))
            except httpx2.TransportError as error:
                failures += 1
                is_out_of_reach = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if is_out_of_reach and failures >= CONTACTS:
                    raise
                self.after(failures, error)


class Fetcher:
    """Reads ranges with the headers given, which leave the host of the first URL for no other."""

    def __init__(self, headers: Mapping[str, str], patience: Patience) -> None:
        watch()
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._patience = patience
        self._moved: dict[
            str, str
        ] = {}  # where a URL leads, so that it is not asked for each range

    def read_into(self, url: str, size: int, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes of the file of `size` bytes at `url` from `start` on.

        What has come before a connection was lost is not fetched again. Raises the errors of
        huggingface_hub where the Hub refuses, and MoegrowError where it fails again and again.
        """
        position, stop, failures = start, start + len(view), 0
        while position < stop:
            before = position
            try:
                for part in self._parts(url, size, position, stop):
                    view[position - start : position - start + len(part)] = part
                    position += len(part)
                if position < stop:
                    raise Again(f"{host_of(url)} ended an answer early")
            except (httpx2.TransportError, Again) as error:
                is_slow = isinstance(error, SlowError)
                has_come = position > before and not is_slow
                failures = 1 if has_come else failures + 1
                if not (has_come and isinstance(error, Again) and error.seconds is None):
                    self._patience.after(failures, error)

    def _parts(self, url: str, size: int, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of one answer, never more than are asked for; it may end early."""
        wanted = {**self._headers, "Range": f"bytes={start}-{stop - 1}"}
        known = self._moved.get(url)
        address = known or url
        for _ in range(REDIRECTS):
            self._patience.ready()
            is_home = _origin(address) == _origin(url)
            headers = {
                name: value
                for name, value in wanted.items()
                if is_home or name.lower() in ("range", "accept-encoding", "user-agent")
            }
            with get_session().stream(
                "GET", address, headers=headers, follow_redirects=False,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ) as answer:  # fmt: skip
                if answer.has_redirect_location:
                    address = _next_address(address, answer.headers["Location"])
                    continue
                if answer.status_code in _STALE and address == known:
                    self._moved.pop(url, None)
                    raise Again(f"{host_of(address)} answers {answer.status_code}")
                if answer.status_code in _BUSY:
                    raise busy(answer)
                if not is_home and answer.is_error:
                    raise MoegrowError(
                        f"{host_of(address)}, where {host_of(url)} sends for the file, answers"
                        f" {answer.status_code}",
                        "run the command again; if it stays so, use " + Parameter("download", True),
                    )
                hf_raise_for_status(answer)
                _check_range(answer, size, start, stop)
                if address != url:
                    self._moved[url] = address
                left = stop - start
                for part in answer.iter_raw():
                    yield part[:left]
                    left -= len(part)
                    if left <= 0:
                        return
                return
        raise MoegrowError(f"{host_of(url)} sends from one address to another without end")


def busy(answer: httpx2.Response) -> Again:
    """That a host cannot answer now, and when it wants to be asked again."""
    return Again(
        f"{host_of(str(answer.request.url))} answers {answer.status_code}",
        _asked_wait(answer.headers),
    )


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait that a server asks for: Retry-After, or its rate limit's reset."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text[:9])
    if text:
        try:
            until = parsedate_to_datetime(text)
            return max((until - datetime.now(UTC)).total_seconds(), 0.0)
        except (ValueError, TypeError):
            pass
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and not limit.remaining else None


def _next_address(address: str, location: str) -> str:
    """Where a redirect leads; never from an encrypted connection to one that is not."""
    new = urljoin(address, location)
    schemes = ("https",) if urlsplit(address).scheme == "https" else ("https", "http")
    if urlsplit(new).scheme not in schemes:
        raise MoegrowError(f"{host_of(address)} redirects to an address that is not encrypted")
    return new


def _check_range(answer: httpx2.Response, size: int, start: int, stop: int) -> None:
    """Raise unless the answer begins where it should, in a file that is as long as it should be."""
    host = host_of(str(answer.request.url))
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise MoegrowError(f"{host} sends a file in a packed form, which was not asked for")
    said = answer.headers.get("Content-Range", "")
    if answer.status_code == 200:
        said = f"bytes 0-{size - 1}/{answer.headers.get('Content-Length', size)}"
    if answer.status_code not in (200, 206) or not said.startswith(f"bytes {start}-"):
        raise MoegrowError(
            f"{host} was asked for bytes from {start} on and answers {answer.status_code}"
            f" {said[:60]!r}",
            "it does not serve ranges; use " + Parameter("download", True),
        )
    if said.rpartition("/")[2] not in (str(size), "*"):
        raise MoegrowError(
            f"{host} says that a file has {said.rpartition('/')[2][:20]} bytes, and it was listed"
            f" with {size}",
            "run the command again; if it stays so, the repository is broken",
        )


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def host_of(url: str) -> str:
    """The host of a URL for people; the rest may be a signature, which is a secret."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _spell(error: Exception) -> str:
    if isinstance(error, Again):
        return str(error)
    if isinstance(error, SlowError):
        return f"the connection is too slow, with {error}"
    what = "did not answer in time" if isinstance(error, httpx2.TimeoutException) else "was lost"
    return f"the connection {what} ({type(error).__name__})"
