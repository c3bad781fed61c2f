"""A family's names as a checkpoint has them: with the base model's prefix once less or once more.

A model without its head (transformers' AutoModel) is saved as `layers.0.…` where the one with a
head is saved as `model.layers.0.…`. transformers loads either into either, and
`model.model.layers.0.…` too (`rename_source_key` in its core_model_loading.py).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from moegrow.families.family import Family, Names

# Patterns of a family have no digits before the layer's number.
_HEAD = re.compile(r"[^0-9]*")


def with_prefixes_of(family: Family, outside: Iterable[str]) -> Family:
    """The family with further patterns, for names of a checkpoint that none of its own matches.

    A pattern that they match with the prefix once less or once more is added; the others stay as
    they are. The same family comes back where there is nothing to add.
    """
    names = set(outside)
    heads = {match[0] for name in names if (match := _HEAD.match(name))}
    tensors = family.tensors

    def added(patterns: Names) -> Names:
        return tuple(
            variant
            for pattern in patterns
            for variant in _variants(pattern, tensors.base_prefix)
            if variant.partition("{")[0] in heads and variant not in patterns
        )

    found = replace(
        tensors,
        layers=tensors.layers + added(tensors.layers),
        prediction_layers=tensors.prediction_layers + added(tensors.prediction_layers),
        beside=tensors.beside + added(tensors.beside),
        packed={
            variant: axis
            for name, axis in tensors.packed.items()
            for variant in (name, *_variants(name, tensors.base_prefix))
            if variant == name or variant in names - tensors.packed.keys()
        },
        elsewhere=tensors.elsewhere
        + tuple(
            variant
            for start in tensors.elsewhere
            for variant in _variants(start, tensors.base_prefix)
            if variant not in tensors.elsewhere
        ),
    )
    is_same = (found.layers, found.prediction_layers, found.beside, found.packed) == (
        tensors.layers, tensors.prediction_layers, tensors.beside, tensors.packed
    )  # fmt: skip
    return family if is_same else replace(family, tensors=found)


def _variants(pattern: str, prefixes: Names) -> Iterator[str]:
    """A pattern without each of the prefixes that it begins with, and with each once more."""
    for prefix in prefixes:
        if pattern.startswith(prefix):
            yield pattern.removeprefix(prefix)
        yield prefix + pattern
