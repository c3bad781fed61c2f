"""Adapters that lie in a checkpoint without being merged into its weights: found by their names."""

import re
from collections.abc import Collection

from moegrow.errors import MoegrowError

# Parts of names that PEFT gives to what it wraps (`base_layer` is what was there before) and to
# what it adds: LoRA and DoRA, and modules that are trained whole.
_PARTS = re.compile(
    r"(?:^|\.)(base_layer|lora_(?:A|B|embedding_A|embedding_B|magnitude_vector|bias)"
    r"|modules_to_save|original_module)(?:\.|$)"
)

_BEGINNINGS = ("base_layer", "lora_", "modules_to_save", "original_module")

HINT = (
    "merge it with PEFT first: PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload()"
    '.save_pretrained("merged"), then grow merged'
)


def check_merged(name: str, tensors: Collection[str]) -> None:
    """Raise MoegrowError where tensors of the checkpoint `name` are parts of an adapter.

    Layers wrapped by it have other names than loaders look for, and its factors are no weights of
    experts, which noise could be added to. An adapter alone is not meant.
    """
    everything = "\n".join(tensors)
    if not any(part in everything for part in _BEGINNINGS):
        return
    found = [tensor for tensor in tensors if _PARTS.search(tensor)]
    if found and len(found) < len(tensors):
        parts = sorted({match[1] for tensor in found if (match := _PARTS.search(tensor))})
        raise MoegrowError(
            f"{name} holds an adapter that is not merged into its weights: {len(found)} tensors are"
            f" named by {', '.join(parts)}, such as {found[0]}",
            HINT,
        )
