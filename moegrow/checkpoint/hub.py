"""A Hugging Face Hub repository as a store: listed once, then read by byte ranges."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from moegrow.checkpoint import hub_cache
from moegrow.checkpoint.checksums import WrongBytesError
from moegrow.checkpoint.hub_errors import TOKENS, explained, quieted
from moegrow.checkpoint.listing import FileHashes, Listed, RemoteFile, digests, entry, safe
from moegrow.checkpoint.store import (
    CARD,
    CONFIG,
    INDEX,
    Access,
    contents,
    names_weights,
    read_here,
)
from moegrow.errors import MoegrowError, OutOfReachError, Parameter, UsageError, printable
from moegrow.files.worker_threads import pool

if TYPE_CHECKING:
    from moegrow.checkpoint.http_ranges import Fetcher

_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REVISION = r"@(?P<revision>refs/[^/@\s]+/[^/@\s]+|[^/@\s]+)"
_ADDRESS = re.compile(rf"hf://(?P<name>{_NAME})(?:{_REVISION})?(?:/(?P<inside>.*))?", re.ASCII)
_SHORT = re.compile(rf"(?P<name>{_NAME})(?:{_REVISION})?(?P<inside>)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = (".safetensors", ".json", ".jsonl", ".toml")

# What shows people how far so many bytes have come; it gives what is called with more of them.
Bar = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def no_bar(total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A bar that nobody sees."""
    return nullcontext(lambda count: None)


def looks_like_one(text: str) -> bool:
    """Whether a text reads like org/name or org/name@revision.

    >>> looks_like_one("Qwen/Qwen3-30B-A3B@main"), looks_like_one("./ckpt"), looks_like_one("ckpt")
    (True, False, False)
    """
    found = _SHORT.fullmatch(text)
    return found is not None and (found["revision"] is not None or not text.endswith(_FILES))


def is_name(text: str) -> bool:
    """Whether a text is the name of a repository alone."""
    return re.fullmatch(_NAME, text, re.ASCII) is not None


class Repository(Listed):
    """The files of a repository at one commit, or of a folder in it."""

    def __init__(
        self,
        repository: str,
        commit: str,
        inside: str,
        files: Mapping[str, RemoteFile],
        *,
        token: str | None,
        fetcher: "Fetcher | None",
        revision: str | None = None,
    ) -> None:
        """`files` are those of the whole repository; without `fetcher` only the cache is read.

        `revision` is what the commit was found by, None for the default branch.
        """
        self._prefix = f"{inside}/" if inside else ""
        start = len(self._prefix)
        super().__init__(
            f"hf://{repository}@{commit}" + (f"/{inside}" if inside else ""),
            {file[start:]: entry for file, entry in files.items() if file.startswith(self._prefix)},
        )
        self.repository = repository
        self.commit = commit
        self._revision = revision
        self._token = token
        self._fetcher = fetcher
        self._cached: dict[str, Path | None] = {}

    @property
    def name(self) -> str:
        return (self._prefix[:-1] or self.repository).rpartition("/")[2]

    def check(self, name: str) -> None:
        if self._fetcher is None and self.path(name) is None:
            raise OutOfReachError(
                f"{name} of {self.repository} is not in the Hub's cache, and HF_HUB_OFFLINE is set",
                f"fetch it while online: moegrow … {self.repository} --download",
            )

    def open(self, name: str) -> int | None:
        path = self.path(name)
        return None if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def path(self, name: str) -> Path | None:
        """Where a file lies in the Hub's cache, whole."""
        if name not in self._cached:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(
                self.repository, self._prefix + name, revision=self.commit
            )
            path = Path(found) if isinstance(found, str) else None
            is_whole = path is not None and path.stat().st_size == self.size(name)
            self._cached[name] = path if is_whole else None
        return self._cached[name]

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        if (descriptor := self.open(name)) is not None:
            read_here(descriptor, start, view)
            return
        self.check(name)
        assert self._fetcher is not None
        if start + len(view) > self.size(name):
            raise EOFError(self.size(name))
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.repository, self._prefix + name, revision=self.commit)
        with explained(self.repository, self.commit, self._token):
            self._fetcher.read_into(url, self.size(name), start, view)

    def download(self, names: Iterable[str], bar: Bar = no_bar) -> None:
        """Put files into the Hub's cache, from where they are read from now on."""
        from huggingface_hub import HfApi, snapshot_download

        from moegrow.checkpoint.time_limits import PROGRAM

        self._cached.clear()
        missing = [name for name in names if self.path(name) is None]
        if missing:
            with bar(sum(map(self.size, missing))) as progress, pool(self.threads) as threads:
                list(threads.map(lambda name: self._keep(name, progress), missing))
            with quieted(quiet=True), explained(self.repository, self.commit, self._token):
                # All files are there by now; offline, the cache tells which ones there should be.
                snapshot_download(
                    self.repository, revision=self.commit, token=self._token or False,
                    allow_patterns=[_pattern(self._prefix + name) for name in missing],
                    max_workers=1, library_name=PROGRAM,
                )  # fmt: skip
                # Offline, the revision leads to the commit by what the cache notes of it.
                api = HfApi(token=self._token or False, library_name=PROGRAM)
                api.resolve_revision(self.repository, revision=self._revision)
            self._cached.clear()

    def _keep(self, name: str, progress: Callable[[int], None]) -> None:
        """Put a file into the Hub's cache.

        Raises MoegrowError where it does not come, or has other bytes than are listed.
        """
        file = self._prefix + name
        key = self.sha256(name) or self.blob(name) or f"{self.commit}.{quote(file, safe='')}"
        blob = hub_cache.blob_of(self.repository, key)
        is_new = not blob.is_file() or blob.stat().st_size != self.size(name)
        if is_new:
            hub_cache.put(blob, _noted(contents(self, name), progress))
        hub_cache.link(self.repository, self.commit, file, blob)
        if not is_new:
            self._cached.pop(name, None)
            self._check_kept(name, blob)
            progress(self.size(name))

    def _check_kept(self, name: str, blob: Path) -> None:
        """Raise MoegrowError where bytes in the Hub's cache are others than are listed."""
        try:
            for _ in contents(self, name):
                pass
        except WrongBytesError as error:
            raise MoegrowError(
                error.said,
                f"remove it and run the command again: rm {shlex.quote(str(blob.resolve()))}",
            ) from None


def find(text: str, access: Access) -> tuple[Repository, str]:
    """The repository that a text means, at one commit, and the weight file or index that it names.

    Raises MoegrowError where there is none that may be read.
    """
    found = _ADDRESS.fullmatch(text) or _SHORT.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text} is no address of a repository", "use hf://org/name or hf://org/name@revision"
        )
    name, inside = found["name"], (found["inside"] or "").strip("/")
    revision = _revision(found["revision"], access.revision)
    token = token_of(access)
    is_guess = not text.startswith("hf://")
    from huggingface_hub import is_offline_mode

    with explained(name, revision, token, is_guess=is_guess):
        if is_offline_mode():
            commit, files, fetcher = *_cached_files(name, revision, is_guess), None
        else:
            commit, files, fetcher = _listed_files(name, revision, token)
    only = ""
    if names_weights(inside):
        inside, _, only = inside.rpartition("/")
    repository = Repository(
        name, commit, inside, files, token=token, fetcher=fetcher, revision=revision
    )
    if not repository.top() or (only and not repository.has(only)):
        raise MoegrowError(f"{name} holds no {inside or only} at {revision or commit}")
    return repository, only


def _revision(first: str | None, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        raise UsageError(
            f"the source says @{first} and " + Parameter("revision") + f" says {second}",
            "give one of them",
        )
    revision = first if first is not None else second
    if revision is not None and (
        not re.fullmatch(r"[\w./+-]+", revision) or ".." in revision or revision.startswith("/")
    ):
        raise UsageError(
            f"{printable(revision)!r} is no name of a revision", "use a branch, a tag or a commit"
        )
    return revision


def token_of(access: Access) -> str | None:
    """The token to use: the one given, or that of the environment or of `hf auth login`."""
    from huggingface_hub import get_token

    token = access.token if access.token is not None else get_token()
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise MoegrowError(
            "the token is empty or holds spaces or characters that no token has",
            "look at HF_TOKEN or " + Parameter("token") + f"; tokens are made at {TOKENS}",
        )
    return token


def _listed_files(
    name: str, revision: str | None, token: str | None
) -> tuple[str, dict[str, RemoteFile], "Fetcher"]:
    """The commit of a revision and its files, as the Hub lists them, and what reads them."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import build_hf_headers

    from moegrow.checkpoint.http_ranges import Fetcher, Patience
    from moegrow.checkpoint.time_limits import PROGRAM, watch

    watch()
    patience = Patience()
    api = HfApi(token=token or False, library_name=PROGRAM)
    info = patience.insist(
        lambda: api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise ValueError("no commit")
    files = {
        safe(file.rfilename): entry(file.rfilename, file.size, _digests(file))
        for file in info.siblings or []
        if file.size is not None
    }
    headers = build_hf_headers(token=token or False, library_name=PROGRAM)
    return commit, files, Fetcher(headers, patience)


def _cached_files(
    name: str, revision: str | None, is_guess: bool
) -> tuple[str, dict[str, RemoteFile]]:
    """The commit of a revision and its files, as far as the Hub's cache knows them."""
    from huggingface_hub import constants, get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    for known in (CONFIG, INDEX, "model.safetensors", CARD):
        path = try_to_load_from_cache(name, known, revision=revision)
        if isinstance(path, str):
            break
    else:
        at = f" at {revision}" if revision else ""
        here = f"; nor is there a folder {name} here" if is_guess else ""
        raise OutOfReachError(
            f"{name}{at} is not in the Hub's cache, and HF_HUB_OFFLINE is set{here}",
            f"unset HF_HUB_OFFLINE, or fetch it while online: hf download {name}",
        )
    folder = Path(path).parent
    try:
        listed = get_cached_repo_tree(name, revision=folder.name)
        return folder.name, {
            safe(file.path): entry(file.path, file.size, _digests(file)) for file in listed
        }
    except CachedRepoTreeNotFoundError:
        pass
    files = {}
    blobs = Path(constants.HF_HUB_CACHE).resolve()
    for root, _, names in os.walk(folder):
        for name_there in names:
            blob = Path(root, name_there).resolve()
            if blob.is_file() and blob.is_relative_to(blobs):
                file = Path(root, name_there).relative_to(folder).as_posix()
                # The cache calls a file what the Hub knows it by.
                known_by = digests(blob.name, blob.name)
                files[file] = entry(file, blob.stat().st_size, known_by)
    return folder.name, files


TIMEOUT = 30.0  # seconds that the Hub may take to answer


def _digests(file: Any) -> FileHashes:
    """The SHA-256 of a large file, and of a small one what git calls it."""
    return digests(file.lfs.sha256, None) if file.lfs else digests(None, file.blob_id)


def _pattern(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return re.sub(r"[*?[]", lambda mark: f"[{mark[0]}]", name)


def _noted(parts: Iterable[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    """Some bytes, with their number noted as they pass."""
    for part in parts:
        yield part
        progress(len(part))
