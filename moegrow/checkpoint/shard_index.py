"""Read an untrusted shard index, check it against the shards, and write a new one."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moegrow.checkpoint.header import Header, TensorSpec
from moegrow.checkpoint.listing import safe
from moegrow.checkpoint.store import BLOCK, MOST_FILES, Store, read_range, read_text
from moegrow.errors import MoegrowError, raise_all
from moegrow.files import json_edit

LARGEST_INDEX = 100 << 20  # bytes: far more than any model has
MOST_TENSORS = 1_000_000
MOST_COMPARED = 2 << 30  # bytes of tensors that stand in several files

SINGLE = "model.safetensors"

_NUMBER = re.compile(r"([0-9]+)")


class Merged(NamedTuple):
    """Every tensor of some weight files, and where they are not as their index says."""

    tensors: dict[str, TensorSpec]
    remarks: list[str]


def read_weight_map(store: Store, index: str) -> dict[str, str]:
    """Tensor name → file name, as an index has it, each name checked to stay in the folder."""
    text = read_text(store, index, LARGEST_INDEX)
    weight_map = json_edit.loads(text, index, most=MOST_TENSORS).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise MoegrowError(f"{index} holds no weight_map from tensors to files")
    files = set(weight_map.values())
    if len(files) > MOST_FILES:
        raise MoegrowError(f"{index} names {len(files)} files, and the most is {MOST_FILES}")
    for file in files:
        try:
            safe(file)
        except MoegrowError:
            raise MoegrowError(
                f"{index} names {file[:200]!r}, which is not a file in the checkpoint's own folder"
            ) from None
    return weight_map


def merge(
    store: Store, headers: Mapping[str, Header], weight_map: Mapping[str, str], index: str
) -> Merged:
    """The tensors of the weight files of a checkpoint, as those who load it see them.

    Loaders read the files that an index names and take all that is in them; of a tensor that
    stands in several files, the last one read counts. So a tensor that the index leaves out is
    there, and one that stands in several files is no problem where the index names the one that
    loaders take, or where all copies are equal. Raises MoegrowError for any other, and for one
    that the index promises and that is nowhere.
    """
    holders: dict[str, list[TensorSpec]] = defaultdict(list)
    for header in headers.values():
        for tensor in header.tensors:
            holders[tensor.name].append(tensor)
    tensors = {name: found[0] for name, found in holders.items()}
    if weight_map == {name: spec.file for name, spec in tensors.items()} and len(tensors) == sum(
        map(len, holders.values())
    ):
        return Merged(tensors, [])
    problems = [
        f"{index} promises {name} in {file}, which does not hold it"
        for name, file in weight_map.items()
        if name not in holders
    ]
    twice = {name: found for name, found in holders.items() if len(found) > 1}
    compared = 0
    for name, found in twice.items():
        named = [spec for spec in found if spec.file == weight_map.get(name)]
        last = _taken(store, [spec.file for spec in found])
        if named and last == {named[0].file}:
            tensors[name] = named[0]
            continue
        compared += sum(spec.stop - spec.start for spec in found)
        if compared > MOST_COMPARED or not _are_equal(store, found):
            where = " and ".join(spec.file for spec in found)
            problems.append(f"{name} is in both {where}, and they are not the same")
    hint = ""
    if twice and problems:
        hint = (
            "loaders differ in which one they take: write those files again with each tensor once,"
            f" or let {index or 'an index'} name the file that comes last in alphabetical order"
        )
    raise_all(f"{store.name} contradicts itself", problems, hint)
    return Merged(tensors, _remarks(tensors, twice, weight_map, index))


def _remarks(
    tensors: Mapping[str, TensorSpec],
    twice: Mapping[str, object],
    weight_map: Mapping[str, str],
    index: str,
) -> list[str]:
    """Where files and index differ in what makes no difference to loaders."""
    remarks = []
    if twice:
        remarks.append(f"{_some(list(twice))} in several files: those that loaders take come along")
    if not weight_map:
        return remarks
    if unnamed := [name for name in tensors if name not in weight_map]:
        remarks.append(
            f"{_some(unnamed)} in files that {index} names, but not in the index itself; loaders"
            " take whole files, so what is in them comes along"
        )
    moved = [
        name
        for name, spec in tensors.items()
        if name not in twice and weight_map.get(name, spec.file) != spec.file
    ]
    if moved:
        remarks.append(f"{_some(moved)} in another file than {index} says, and found there")
    return remarks


def _some(names: Sequence[str]) -> str:
    """How many tensors, with the name of one.

    >>> _some(["a"]), _some(["a", "b"])
    ('a is', '2 tensors (such as a) are')
    """
    return f"{names[0]} is" if len(names) == 1 else f"{len(names)} tensors (such as {names[0]}) are"


def _taken(store: Store, files: list[str]) -> set[str]:
    """The files out of which loaders take a tensor that is in all of `files`.

    transformers reads model.safetensors alone where there is one, and otherwise the files in
    alphabetical order; vLLM and SGLang read them in the order of the numbers in their names.
    """
    first = SINGLE if SINGLE in files and store.has(SINGLE) else max(files)
    return {first, max(files, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A name, to sort it by the numbers in it."""
    parts = _NUMBER.split(name)
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return [(len(part) if odd % 2 else 0, part) for odd, part in enumerate(parts)]


def _are_equal(store: Store, found: Sequence[TensorSpec]) -> bool:
    """Whether all copies of a tensor have the same dtype, shape and bytes."""
    if len({(spec.dtype, spec.shape) for spec in found}) > 1:
        return False
    size = found[0].stop - found[0].start
    for at in range(0, size, BLOCK):
        blocks = {
            read_range(store, spec.file, spec.start + at, spec.start + min(size, at + BLOCK))
            for spec in found
        }
        if len(blocks) > 1:
            return False
    return True


def index_text(weight_map: Mapping[str, str], *, total_size: int, total_parameters: int) -> str:
    """The index of a sharded checkpoint: tensor bytes, elements, and tensor name → file name."""
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    return json.dumps({"metadata": metadata, "weight_map": dict(weight_map)}, indent=2) + "\n"
