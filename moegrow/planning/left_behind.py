"""Describe the files and tensors of a source that a growth leaves behind."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.fingerprint import read_header
from moegrow.checkpoint.side_files import OTHER_WEIGHTS, Reason
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout

SHOWN = 3  # names of files
MOST_READ = 100  # files whose headers are read to see what is in them


def facts(checkpoint: Checkpoint) -> Iterator[str]:
    """Which files are taken where that is not plain to see, and what stays behind and why."""
    yield from checkpoint.remarks
    parts = [
        f"{_listed(names)} ({reason.says})"
        for reason, names in _by_reason(checkpoint).items()
        if not reason.is_warning
    ]
    if parts:
        yield f"stays behind: {'; '.join(parts)}"


def warnings(checkpoint: Checkpoint) -> Iterator[str]:
    """What stays behind though a model may compute with it."""
    for reason, names in _by_reason(checkpoint).items():
        if reason.is_warning:
            yield f"{_listed(names)} {_stay(names)} behind: {reason.says}"
        if reason is OTHER_WEIGHTS:
            yield from _other_tensors(checkpoint, names)


def _by_reason(checkpoint: Checkpoint) -> dict[Reason, list[str]]:
    found = defaultdict(list)
    for name, reason in checkpoint.left:
        found[reason].append(name)
    return found


def _other_tensors(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[str]:
    """Weight files beside those that are taken which hold more than copies of the same tensors."""
    if checkpoint.named:
        return  # the user has said which weights are meant
    for name in [name for name in names if not name.endswith("/")][:MOST_READ]:
        try:
            checkpoint.store.check(name)
            tensors = [spec.name for spec in read_header(checkpoint.store, name).tensors]
        except MoegrowError as error:
            yield f"{name} stays behind and cannot be read: {error.message}"
            continue
        others = [tensor for tensor in tensors if tensor not in checkpoint.tensors]
        if others:
            yield (
                f"{name} stays behind with {len(others)} tensors, such as {others[0]}, that are"
                " not among the weights which transformers loads; to grow them too, name them in"
                " the weight_map of model.safetensors.index.json"
            )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _stay(names: Sequence[str]) -> str:
    return "stays" if len(names) == 1 else "stay"


def prediction_facts(layout: Layout) -> Iterator[str]:
    """What becomes of prediction layers behind the last that loaders leave aside, if there are any.

    transformers takes no prediction layers, and engines those that the config counts: so these are
    carried along, and are right where the key is set later.
    """
    counted = layout.facts.promised_predictions
    if layout.prediction_layers > counted:
        keys = layout.family.config.prediction_layers
        found = layout.facts.prediction_setting
        says = f"{found.key} is {found.value}" if found else f"it has no {' or '.join(keys)}"
        count = layout.prediction_layers
        yield (
            f"config.json counts {counted} prediction layers ({says}), and the weights have {count}"
            " behind the last layer: they grow with the model and stay behind its last layer, and"
            f" the config still counts {counted}"
        )
