"""Renumber metadata that shard headers hold about single tensors.

torchao keeps there what its quantised tensors are: for each a JSON text under its name, and the
list of these names. It is carried along by the names of the tensors of the result. Other texts are
carried as they are, where they cannot be about single tensors.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.planning.plan import Output

LARGEST = 16 << 20  # characters: they are written into every file
NAMES = "tensor_names"  # torchao's list of tensors
PLAIN = "Tensor"  # what torchao says of a tensor that is not quantised

# Texts that are about the bytes of the source, and about no tensor: they go.
_STALE = re.compile(r".*(?:hash|sha256|checksum|md5|total_size|total_parameters).*", re.IGNORECASE)
_WORD = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class HeaderTexts:
    """The texts of all headers: those about tensors (torchao's), the others, and those that go."""

    of_tensors: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()


def read(checkpoint: Checkpoint) -> HeaderTexts:
    """The texts in the headers of a checkpoint's files.

    Raises MoegrowError for those that cannot be carried along: texts that name tensors, and texts
    that are others in other files.
    """
    if not checkpoint.metadata:
        return HeaderTexts()
    named: set[str] = set()
    for file, texts in checkpoint.metadata.items():
        if NAMES in texts:
            named |= _listed(texts[NAMES], file)
    found: dict[str, str] = {}
    problems = []
    for file, texts in checkpoint.metadata.items():
        for key, text in texts.items():
            if (key == NAMES and named) or _is_stale(key):
                continue
            if found.setdefault(key, text) != text:
                problems.append(f"{key} is another in {file} than in other files")
    of_tensors = {key: text for key, text in found.items() if key in named}
    others = {key: text for key, text in found.items() if key not in named}
    problems += [f"{key} has no entry" for key in sorted(named - of_tensors.keys())]
    for key, text in others.items():
        if tensor := _mentioned((key, text), checkpoint):
            problems.append(f"{key} speaks of {tensor}")
    raise_all(
        f"the headers of {checkpoint.name} hold metadata that moegrow cannot carry along",
        problems,
        "if nothing reads it, write each file again without it: save_file(load_file(f), f,"
        ' metadata={"format": "pt"}), with safetensors.torch',
    )
    stale = {key for texts in checkpoint.metadata.values() for key in texts if _is_stale(key)}
    return HeaderTexts(of_tensors, others, tuple(sorted(stale)))


def _is_stale(key: str) -> bool:
    return _STALE.fullmatch(key) is not None


def _listed(text: str, file: str) -> set[str]:
    """The names in torchao's list."""
    # The text is a list, and tables are what is read strictly.
    names = json_edit.loads(f'{{"names":{text}}}', f"{NAMES} in the header of {file}")["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MoegrowError(f"{NAMES} in the header of {file} is no list of names")
    return set(names)


def _mentioned(texts: Iterable[str], checkpoint: Checkpoint) -> str:
    """A tensor, or a module with one, that is mentioned in some texts, or ""."""
    for text in texts:
        for found in _WORD.finditer(text):
            word = found[0]
            names = (word, f"{word}.weight") if "." in word else ()
            if any(name in checkpoint.tensors for name in names):
                return word
    return ""


def grown(
    checkpoint: Checkpoint, outputs: Iterable[Output], growth: Growth
) -> tuple[tuple[str, str], ...]:
    """The texts for the headers of a result that holds `outputs`.

    Raises MoegrowError where a quantised tensor that they describe does not come along whole.
    """
    texts = read(checkpoint)
    new = dict(texts.others)
    if texts.of_tensors:
        owners = dict(_owners(texts.of_tensors))
        is_quantised = any(part for _, part in owners.values())
        if is_quantised and any(growth.silent):
            raise MoegrowError(
                "new layers that begin as the identity have zeros for weights, and moegrow cannot"
                " write those in torchao's formats",
                "copy the layers with "
                + Parameter("new_layers", "copy")
                + ", or grow the checkpoint before it was"
                " quantised",
            )
        entries: dict[str, str] = {}
        for output in outputs:
            for name, text in _entries(checkpoint, output, owners, texts.of_tensors):
                entries[name] = text
        new |= entries | {NAMES: json.dumps(sorted(entries))}
    if sum(len(key) + len(text) for key, text in new.items()) > LARGEST:
        raise MoegrowError(
            f"the metadata for the headers would have more than {LARGEST} characters",
            "grow the checkpoint before it was quantised",
        )
    return tuple(sorted(new.items()))


# For each stored tensor the one that torchao makes of it, and the end of its name that stands in
# place of that one's last part, or "" where they are the same.
Owners = Mapping[str, tuple[str, str]]


def _owners(of_tensors: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, text in of_tensors.items():
        entry = json_edit.loads(text, f"what the headers say of {name}")
        if entry.get("_type") == PLAIN:
            yield name, (name, "")
            continue
        module, _, leaf = name.rpartition(".")
        for part in _parts(entry, name):
            yield f"{module}._{leaf}_{part}", (name, f"._{leaf}_{part}")


def _parts(entry: Mapping[str, Any], name: str) -> list[str]:
    parts = entry.get("_tensor_data_names")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise MoegrowError(f"what the headers say of {name} does not list its parts")
    return parts


def _entries(
    checkpoint: Checkpoint, output: Output, owners: Owners, of_tensors: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The entry that a tensor of the result needs, under the name of what is made of it."""
    found = {owners[piece.source] for piece in output.pieces if piece.source in owners}
    for old, ending in found:
        if not ending:
            yield output.name, of_tensors[old]
            continue
        spec = checkpoint.tensors[output.pieces[0].source]
        is_whole = (output.dtype, output.shape, len(output.pieces)) == (spec.dtype, spec.shape, 1)
        if not (is_whole and output.pieces[0].is_copy and output.name.endswith(ending)):
            raise MoegrowError(
                f"{old} is quantised by torchao, and moegrow can copy such tensors but not change"
                f" them: {output.name} would be another",
                "grow the checkpoint before it was quantised, and quantise the result",
            )
        leaf = old.rpartition(".")[2]
        yield f"{output.name.removesuffix(ending)}.{leaf}", of_tensors[old]


def facts(checkpoint: Checkpoint) -> Iterator[str]:
    """What becomes of the texts in the headers, but for torchao's, which say what tensors are."""
    texts = read(checkpoint)
    if texts.others:
        yield f"header metadata comes along as it is: {', '.join(sorted(texts.others))}"
    if texts.stale:
        yield f"header metadata about the old files stays behind: {', '.join(texts.stale)}"
