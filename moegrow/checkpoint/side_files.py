"""Sort the files beside the weights into those to copy and those to leave behind."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from typing import NamedTuple

import msgspec

from moegrow.checkpoint.listing import safe
from moegrow.checkpoint.store import CARD, CONFIG, Store, is_index, read_text
from moegrow.checkpoint.unsupported import refuse_pointers
from moegrow.errors import MoegrowError
from moegrow.files import json_edit, typed_toml

PLAN = "moegrow-plan.jsonl"
DIGESTS = "moegrow-digests.jsonl"
OWN = (CARD, PLAN, DIGESTS)  # what a grown checkpoint has of its own, beside its weights

MODULES = "modules.json"  # the modules of sentence-transformers, by the folders that hold them
LARGEST_MODULES = 1 << 20  # bytes


@dataclass(frozen=True)
class Reason:
    """Why a file stays behind.

    With `with_folder` so does all that lies beside it in a folder of its own. It `is_warning`
    where what stays behind may be a part of what the model computes.
    """

    says: str
    with_folder: bool = False
    is_warning: bool = False


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason as side_files.toml has it, with patterns of the names that it is for."""

    says: str
    names: tuple[str, ...]
    with_folder: bool = False
    is_warning: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of side_files.toml."""

    reason: tuple[_Entry, ...]


OTHER_WEIGHTS = Reason("safetensors files that are not of the weights read here", with_folder=True)
CHECKPOINT = Reason("a checkpoint of its own")


class Left(NamedTuple):
    """A file, or a folder with all that is in it, that stays behind."""

    name: str
    reason: Reason


class SideFiles(NamedTuple):
    """The names of files that travel, sorted, and what stays behind."""

    travel: tuple[str, ...]
    left: tuple[Left, ...]


def side_files(store: Store, weights: Collection[str]) -> SideFiles:
    """The tokenizer, chat template, code, licence and so on of a checkpoint with these `weights`.

    Hidden files stay behind without a word, and so do the weights, their index, the model card
    (the new checkpoint gets its own), and the plan and digests of an earlier growth. What means
    something only together with a file that stays behind does too; the folders of
    sentence-transformers' modules travel whole, with the weights in them. Raises MoegrowError for
    links that lead out of the checkpoint, and for anything but plain files and folders.
    """
    modules = _modules(store)
    left: dict[str, Reason] = {}

    def stays(name: str) -> bool:
        if name in weights or name in OWN or is_index(name):
            return True
        reason = None if _home(name, modules) else _reason(store, name)
        if reason:
            left[name] = reason
        return reason is not None

    found = list(store.walk(stays))
    own = {folder for name in weights for folder in _folders(name)}
    whole = {
        folder
        for name, reason in left.items()
        if reason.with_folder and (folder := name.rpartition("/")[0]) and folder not in own
    }
    travel = [name for name in found if name != CONFIG and not _home(name, whole)]
    for name in travel:
        store.check(name)
    refuse_pointers(store, travel)
    return SideFiles(tuple(sorted(travel)), _shown(left, whole))


def _shown(left: Mapping[str, Reason], whole: Collection[str]) -> tuple[Left, ...]:
    """What stays behind, a folder once for all that is in it."""
    shown: dict[str, Reason] = {}
    for name, reason in sorted(left.items()):
        home = _home(name, whole)
        if not home:
            shown[name] = reason
        elif reason.with_folder:
            shown.setdefault(f"{home}/", reason)
    return tuple(Left(name, reason) for name, reason in sorted(shown.items()))


def _home(name: str, folders: Collection[str]) -> str:
    """The outermost of some folders that a file or a folder is or lies in, or ""."""
    return next((folder for folder in (*_folders(name), name) if folder in folders), "")


def _folders(name: str) -> list[str]:
    """The folders that a name lies in, the outermost first.

    >>> _folders("a/b/c.txt")
    ['a', 'a/b']
    """
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _reason(store: Store, name: str) -> Reason | None:
    """Why a file or a folder stays behind, or None."""
    last = name.rpartition("/")[2].lower()
    for pattern, reason in _reasons():
        if pattern.match(last):
            return reason
    if last.endswith(".safetensors"):
        return OTHER_WEIGHTS
    # Training runs leave other checkpoints in folders of one.
    return CHECKPOINT if store.has(f"{name}/{CONFIG}") else None


@cache
def _reasons() -> tuple[tuple[re.Pattern[str], Reason], ...]:
    """The reasons of side_files.toml, each with the pattern of the names that it is for."""
    found = typed_toml.load("moegrow.checkpoint", "side_files.toml", _File)
    return tuple(
        (
            re.compile("|".join(map(translate, entry.names))),
            Reason(entry.says, entry.with_folder, entry.is_warning),
        )
        for entry in found.reason
    )


def _modules(store: Store) -> frozenset[str]:
    """The folders of sentence-transformers' modules, but for that of the model itself."""
    if not store.has(MODULES):
        return frozenset()
    # The file is a list, and tables are what is read strictly.
    text = f'{{"modules":{read_text(store, MODULES, LARGEST_MODULES)}}}'
    modules = json_edit.loads(text, MODULES, is_shallow=True)["modules"]
    paths = []
    for module in modules if isinstance(modules, list) else [None]:
        path = module.get("path") if isinstance(module, dict) else None
        if not isinstance(path, str):
            raise MoegrowError(f"{MODULES} is no list of modules, each with its path")
        paths.append(path.rstrip("/"))
    return frozenset(safe(path) for path in paths if path)
