"""Find the store that a user's text names: a folder, a Hub repository, an object store."""

import os
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from moegrow.checkpoint import hub, object_store, unsupported
from moegrow.checkpoint.local_store import LocalFolder
from moegrow.checkpoint.store import CONFIG, Access, Store, names_weights, scheme
from moegrow.errors import MoegrowError, Parameter, UsageError


class Found(NamedTuple):
    """Where a source is, and the weight file or the index in it that is named, or ""."""

    store: Store
    named: str


def find(source: str | os.PathLike[str], access: Access) -> Found:
    """Where a source is; a folder or a file on this machine comes before a repository.

    Raises MoegrowError where there is none, or where `access` does not go with it.
    """
    path, text = user_path(source), os.fspath(source)
    is_address = isinstance(source, str) and (
        scheme(text) != "" or (hub.looks_like_one(text) and not os.path.lexists(path))
    )
    if is_address:
        if access.links_to:
            raise UsageError(
                Parameter("links_to") + f" goes with a folder on this machine, and {text} is none",
                "leave it out",
            )
        found = hub.find if scheme(text) in ("", "hf") else object_store.find
        return Found(*found(text, access))
    if access.revision is not None:
        raise UsageError(
            Parameter("revision") + f" goes with a repository of the Hub, and {text} is none",
            "leave it out, or give org/name",
        )
    try:
        return _here(path, tuple(map(_folder, access.links_to)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MoegrowError(f"{path} cannot be opened: {reason}") from None


def _here(path: Path, links_to: tuple[Path, ...]) -> Found:
    """What a path on this machine means: a folder, or one file with config.json beside it."""
    if path.name == CONFIG and path.is_file():
        raise MoegrowError(
            f"{path} is a part of a checkpoint", f"give its folder: {quote(str(path.parent))}"
        )
    if not path.exists():
        raise MoegrowError(f"{path} does not exist", "check the path; nothing was written")
    if path.is_dir():
        return Found(LocalFolder(path.resolve(), links_to), "")
    if not names_weights(path.name):
        what = f"{path} is neither a folder, a .safetensors file, an index of some nor a plan"
        unsupported.refuse_file(path, what)
        raise MoegrowError(what, "give a checkpoint's folder")
    return Found(LocalFolder(path.parent.resolve(), links_to), path.name)


def _folder(path: str | os.PathLike[str]) -> Path:
    """A folder of `links_to`, without links in its own path."""
    found = user_path(path)
    if not found.is_dir():
        raise UsageError(
            Parameter("links_to", str(found)) + " is not a folder",
            "give the folder that the links lead to",
        )
    return found.resolve()


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user means, with ~ for a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise MoegrowError(f"{os.fspath(text)}: there is no such user") from None
