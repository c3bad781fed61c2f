"""Give up on listings and reads of object stores that are too slow, or that never end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent import futures
from time import monotonic
from typing import Any, Generic, TypeVar

from moegrow.checkpoint.store import MOST_ENTRIES
from moegrow.errors import MoegrowError
from moegrow.files.worker_threads import check

QUIET = 60.0  # seconds in which no further name of a list comes
LONGEST = 900.0  # seconds for a whole list
SLOWEST = 10_000  # bytes a second of a read, which may begin after QUIET
MOST_NAME_BYTES = 48 << 20  # of all names of a list together
TICK = 0.2  # seconds between two looks at the time

Info = Mapping[str, Any]  # a driver's record of a file or folder
Page = Sequence[Info]

T = TypeVar("T")


class LateError(TimeoutError):
    """A driver has not done in time what it was asked for, and need not do it any more."""


def read_part(filesystem: Any, path: str, start: int, stop: int) -> bytes:
    """Bytes of a file as its driver gives them, at most so many; raises LateError."""
    limit = QUIET + (stop - start) / SLOWEST
    end = monotonic() + limit
    if filesystem.async_impl:
        call = _submitted(filesystem, filesystem._cat_file(path, start=start, end=stop))
    else:
        call = _in_thread(lambda: filesystem.cat_file(path, start=start, end=stop))

    def check_time() -> None:
        if monotonic() > end:
            raise LateError(f"{stop - start} bytes did not come in {limit:.0f} s")

    return bytes(_result(call, check_time))


def listed(
    filesystem: Any, root: str, location: str, keep: Callable[[str, Info], T]
) -> dict[str, T]:
    """What `keep` makes of each file below a path; `location` is the path for people.

    Raises MoegrowError where there are more names than in any checkpoint, and LateError.
    """
    names = _Names(root, location, keep)
    if filesystem.async_impl:
        call = _submitted(filesystem, names.collect(_pages(filesystem, root)))
    else:
        call = _in_thread(lambda: names.collect_here(_folders(filesystem, root)))
    try:
        _result(call, names.check_time)
    finally:
        names.is_wanted = False
    return names.kept


class _Names(Generic[T]):
    """The names of a list as they come, in the driver's thread; another one looks at the time."""

    def __init__(self, root: str, location: str, keep: Callable[[str, Info], T]) -> None:
        self.kept: dict[str, T] = {}
        self.is_wanted = True
        self._prefix, self._location, self._keep = f"{root}/", location, keep
        self._count, self._bytes = 0, 0
        self._begin = self._last = monotonic()

    async def collect(self, pages: AsyncIterator[Page]) -> None:
        async for page in pages:
            self._add(page)

    def collect_here(self, pages: Iterator[Page]) -> None:
        for page in pages:
            if not self.is_wanted:
                return
            self._add(page)

    def _add(self, page: Page) -> None:
        for info in page:
            path = str(info["name"])
            self._count += 1
            self._bytes += len(path)
            self._last = monotonic()
            if self._count > MOST_ENTRIES:
                raise self._too_many(f"{MOST_ENTRIES} names")
            if self._bytes > MOST_NAME_BYTES:
                raise self._too_many(f"{MOST_NAME_BYTES} bytes of names")
            is_file = info.get("type") == "file" and not path.endswith("/")
            if is_file and path.startswith(self._prefix):
                name = path.removeprefix(self._prefix)
                self.kept[name] = self._keep(name, info)

    def check_time(self) -> None:
        """Raise LateError where the list takes too long."""
        now = monotonic()
        if now - self._last > QUIET:
            raise LateError(f"{self._count} names came, and no further one in {QUIET:.0f} s")
        if now - self._begin > LONGEST:
            raise LateError(f"{self._count} names came in {LONGEST:.0f} s, and more are to come")

    def _too_many(self, most: str) -> MoegrowError:
        return MoegrowError(
            f"{self._location} lists more than {most}, which no checkpoint has",
            "give the folder of one checkpoint",
        )


def _submitted(filesystem: Any, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
    return asyncio.run_coroutine_threadsafe(work, filesystem.loop)


def _in_thread(work: Callable[[], T]) -> futures.Future[T]:
    """The same for a driver that blocks: its thread is left alone where it does not end."""
    call: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            call.set_result(work())
        except Exception as error:
            call.set_exception(error)

    call.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True).start()
    return call


def _result(call: futures.Future[T], check_time: Callable[[], None]) -> T:
    """What a call gives, unless the time is up or the thread's work is not wanted any more."""
    try:
        while not futures.wait([call], TICK).done:
            check()
            check_time()
        return call.result()
    finally:
        call.cancel()


def _pages(filesystem: Any, root: str) -> AsyncIterator[Page]:
    """The pages of a list as the store sends them, where the driver gives them singly."""
    package = type(filesystem).__module__.partition(".")[0]
    method, pages = _PAGES.get(package, ("_walk", _async_folders))
    return (
        pages(filesystem, root) if hasattr(filesystem, method) else _async_folders(filesystem, root)
    )


async def _async_folders(filesystem: Any, root: str) -> AsyncIterator[Page]:
    async for _, folders, files in filesystem._walk(root, detail=True):
        yield [*folders.values(), *files.values()]


def _folders(filesystem: Any, root: str) -> Iterator[Page]:
    for _, folders, files in filesystem.walk(root, detail=True):
        yield [*folders.values(), *files.values()]


async def _s3_pages(filesystem: Any, root: str) -> AsyncIterator[Page]:
    from s3fs.errors import translate_boto_error

    bucket, prefix = _bucket_and_prefix(root)
    try:
        async for info in filesystem._iterdir(bucket, delimiter="", prefix=prefix):
            yield [info]
    except Exception as error:
        raise translate_boto_error(error) from None


async def _gs_pages(filesystem: Any, root: str) -> AsyncIterator[Page]:
    bucket, prefix = _bucket_and_prefix(root)
    more: dict[str, str] = {}
    while True:
        page = await filesystem._call(
            "GET", "b/{}/o", bucket, json_out=True, prefix=prefix, maxResults=1000, **more
        )
        yield [filesystem._process_object(bucket, item) for item in page.get("items", [])]
        if "nextPageToken" not in page:
            return
        more = {"pageToken": page["nextPageToken"]}


async def _az_pages(filesystem: Any, root: str) -> AsyncIterator[Page]:
    from azure.core.exceptions import ResourceNotFoundError

    container, prefix = _bucket_and_prefix(root)
    async with filesystem.service_client.get_container_client(container=container) as client:
        blobs = client.list_blobs(include=["metadata"], name_starts_with=prefix)
        try:
            async for page in blobs.by_page():
                yield await filesystem._details([blob async for blob in page])
        except ResourceNotFoundError:
            raise FileNotFoundError(container) from None


def _bucket_and_prefix(root: str) -> tuple[str, str]:
    bucket, _, key = root.partition("/")
    return bucket, f"{key}/" if key else ""


# The package of a driver, with the method of it by which its pages are had.
_PAGES: dict[str, tuple[str, Callable[[Any, str], AsyncIterator[Page]]]] = {
    "s3fs": ("_iterdir", _s3_pages),
    "gcsfs": ("_call", _gs_pages),
    "adlfs": ("_details", _az_pages),
}
