"""Choose the weight files of a checkpoint that transformers would load."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from shlex import quote
from typing import Any, NamedTuple

from moegrow.checkpoint import unsupported
from moegrow.checkpoint.fingerprint import read_header
from moegrow.checkpoint.listing import is_safe
from moegrow.checkpoint.shard_index import SINGLE, read_weight_map
from moegrow.checkpoint.store import CONFIG, INDEX, Store, is_index, names_weights
from moegrow.errors import MoegrowError

NAMED_IN_CONFIG = "transformers_weights"  # the key by which transformers takes other files
MOST_COMPARED = 100  # files whose headers are read to see what they are to each other

_SHARD = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})\.safetensors", re.ASCII)
# Whatever else lies there, transformers loads these.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_DIGITS = re.compile(r"\d+", re.ASCII)


class WeightFiles(NamedTuple):
    """The names of weight files, and which tensor is in which, by the index of that name."""

    files: list[str]
    weight_map: Mapping[str, str] = {}
    by: str = ""
    remark: str = ""


def weight_files(store: Store, config: Mapping[str, Any], named: str = "") -> WeightFiles:
    """The weight files that loaders would take, or those that `named` says: a file or an index.

    transformers takes what config.json names, else model.safetensors, else the files of the index;
    vLLM and SGLang take the files of the index where there is one, else all. Raises MoegrowError
    where they would load different weights, and where there are none or not all of them.
    """
    if named:
        return _named(store, named)
    if parts := list(filter(_DISTRIBUTED.fullmatch, store.top())):
        raise MoegrowError(
            f"{store.location} holds a distributed checkpoint of PyTorch, such as {parts[0]}, with"
            " a part of each tensor in every file",
            "join the parts: load it with transformers and call save_pretrained, and grow what that"
            " writes",
        )
    told = config.get(NAMED_IN_CONFIG)
    if told is not None:
        return _in_config(store, told)
    if store.has(INDEX):
        weights = _of_index(store, INDEX)
        if store.has(SINGLE) and SINGLE not in weights.files:
            raise MoegrowError(
                f"{store.location} holds {SINGLE} and an index of {len(weights.files)} other"
                f" files, {INDEX}: transformers loads the first, vLLM and SGLang the others",
                f"say which you mean: {store.location}/{SINGLE} or {store.location}/{INDEX}",
            )
        return weights
    return WeightFiles(_without_index(store))


def _named(store: Store, named: str) -> WeightFiles:
    """The one file that a user names, if it is whole, or the files of the index."""
    if is_index(named):
        return _of_index(store, named)
    if store.has(INDEX):
        files = _of_index(store, INDEX).files
        # Where there is model.safetensors and an index, the user has to name one of them.
        if named in files and len(files) > 1 and named != SINGLE:
            raise MoegrowError(
                f"{named} is one of the files of a checkpoint, by the {INDEX} beside it",
                f"give the folder: {quote(store.location)}",
            )
    found = _SHARD.fullmatch(named)
    if found and int(found[3]) > 1:
        raise MoegrowError(
            f"{named} is one of the files of a checkpoint, {int(found[3])} by its name",
            f"give the folder: {quote(store.location)}",
        )
    like = [name for name in _top(store) if _DIGITS.sub("#", name) == _DIGITS.sub("#", named)]
    others = sorted(set(like) - {named})
    if others and (shared := _shared(_names(store, [named, *others]))):
        raise MoegrowError(
            f"{named} may hold a part of each tensor, and {others[0]} another: {shared} is in both",
            "join tensor-parallel parts first, with the tool that wrote them; if the file is whole,"
            " link it and config.json into a folder of their own: mkdir whole && ln"
            f" {quote(f'{store.location}/{named}')} {quote(f'{store.location}/{CONFIG}')} whole",
        )
    return WeightFiles([named])


def _in_config(store: Store, told: Any) -> WeightFiles:
    """The files that config.json names for transformers."""
    if not isinstance(told, str) or not names_weights(told) or not is_safe(told):
        raise MoegrowError(
            f"config.json: {NAMED_IN_CONFIG} is {told!r}, which names no safetensors file and no"
            " index in the checkpoint's folder",
            f"correct {NAMED_IN_CONFIG} in config.json, or remove it",
        )
    if not store.has(told):
        raise MoegrowError(
            f"config.json names {told} as the weights, under {NAMED_IN_CONFIG}, and that file is"
            " missing",
            f"get the file, or remove {NAMED_IN_CONFIG} from config.json",
        )
    weights = _of_index(store, told) if is_index(told) else WeightFiles([told])
    return weights._replace(remark=f"{told} has the weights, as config.json says for transformers")


def _of_index(store: Store, index: str) -> WeightFiles:
    """The files that an index names; their names count from the index's own folder."""
    unsupported.refuse_pointers(store, [index])
    folder = index.rpartition("/")[0]
    weight_map = read_weight_map(store, index)
    if folder:
        weight_map = {name: f"{folder}/{file}" for name, file in weight_map.items()}
    files = sorted(set(weight_map.values()))
    missing = [name for name in files if not store.has(name)]
    if missing and (total := _whole_set(_top(store))):
        raise MoegrowError(
            f"{index} is of another sharding: it names {missing[0]}, which is missing, and there is"
            f" a whole set of {total[0]}",
            "if that is the one you mean, move the index aside:"
            f" mv {quote(f'{store.location}/{index}')} {quote(f'{store.location}/{index}.old')}",
        )
    return WeightFiles(files, weight_map, index)


def _without_index(store: Store) -> list[str]:
    """The weight files of a folder without an index: the only ones there are."""
    where, found = store.location, _top(store)
    if SINGLE in found:
        _refuse_rivals(store, found)
        return [SINGLE]
    if indices := [name for name in store.top() if is_index(name)]:
        raise MoegrowError(
            f"{where} holds no {SINGLE} and no {INDEX}, but an index under another name:"
            f" {indices[0]}",
            f"give it: {where}/{indices[0]}",
        )
    if not found:
        unsupported.refuse_folder(store, ".safetensors files")
        raise MoegrowError(
            f"{where} holds no .safetensors files", "give the folder that holds the weights"
        )
    sets = _shard_sets(found)
    if len(sets) > 1:
        listed = " and ".join(_set_name(one) for one in sorted(sets))
        raise MoegrowError(
            f"{where} holds shards of {len(sets)} checkpoints and no {INDEX}: {listed}",
            "move those of one elsewhere: mkdir other && mv"
            f" {quote(where)}/{_glob(min(sets))} other",
        )
    for (stem, total), shards in sets.items():
        if len(shards) != total:
            raise MoegrowError(
                f"{where} holds {len(shards)} shards of {total} ({stem}-…) and no {INDEX}",
                "fetch the missing shards and the index",
            )
        return shards
    if len(found) > 1:
        _refuse_several(store, found)
    return found


def _refuse_rivals(store: Store, found: list[str]) -> None:
    """Raise MoegrowError where files beside model.safetensors hold the same tensors, too.

    Without an index, vLLM and SGLang load all files, and of equal names the last one counts.
    """
    others = [name for name in found if name != SINGLE][:MOST_COMPARED]
    if not others:
        return
    names = _names(store, [SINGLE, *others])
    for other in others:
        if shared := names[SINGLE] & names.get(other, set()):
            raise MoegrowError(
                f"{store.location} holds {SINGLE} and {other}, and {min(shared)} is in both:"
                " transformers loads the first, vLLM and SGLang load both, one over the other",
                f"say which you mean: {store.location}/{SINGLE} or {store.location}/{other}",
            )


def _refuse_several(store: Store, found: list[str]) -> None:
    """Raise MoegrowError for several files of which none is a checkpoint's by its name."""
    where = store.location
    what = f"{where} holds {len(found)} .safetensors files and no {INDEX}"
    names = _names(store, found[:MOST_COMPARED])
    shapes = {_DIGITS.sub("#", name) for name in found}
    if (shared := _shared(names)) and len(shapes) == 1:
        raise MoegrowError(
            f"{what}, and they may hold a part of each tensor: {shared} is in several",
            "join tensor-parallel parts first, with the tool that wrote them",
        )
    raise MoegrowError(what, f"name the one you mean, for example {where}/{found[0]}")


def _top(store: Store) -> list[str]:
    """The safetensors files in a checkpoint's own folder, but for those of adapters."""
    return [
        name
        for name in store.top()
        if name.endswith(".safetensors") and not name.startswith(("adapter_model.", "."))
    ]


def _shard_sets(found: list[str]) -> dict[tuple[str, int], list[str]]:
    """The shards among some files by the name and the number of files of their set."""
    sets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in found:
        if shard := _SHARD.fullmatch(name):
            sets[shard[1], int(shard[3])].append(name)
    return dict(sets)


def _whole_set(found: list[str]) -> tuple[str, list[str]] | None:
    """The name and the files of a set of shards that is there as a whole, if there is one."""
    for key, shards in _shard_sets(found).items():
        if len(shards) == key[1]:
            return _set_name(key), shards
    return None


def _set_name(key: tuple[str, int]) -> str:
    return f"{key[1]} files {_glob(key)}"


def _glob(key: tuple[str, int]) -> str:
    stem, total = key
    return f"{stem}-*-of-{total:05d}.safetensors"


def _names(store: Store, files: list[str]) -> dict[str, set[str]]:
    """The names of the tensors in each of some files that can be read."""
    names = {}
    for file in files:
        try:
            store.check(file)
            names[file] = {spec.name for spec in read_header(store, file).tensors}
        except MoegrowError:
            continue
    return names


def _shared(names: Mapping[str, set[str]]) -> str:
    """The first tensor that is in several files, or ""."""
    counts = Counter(name for found in names.values() for name in found)
    return min((name for name, count in counts.items() if count > 1), default="")
