"""Variants of a family's tensor names: suffixes of quantised parts, and the base model's prefix.

A model without its head (transformers' AutoModel) is saved as `layers.0.…` where the one with a
head is saved as `model.layers.0.…`. transformers loads either into either, and
`model.model.layers.0.…` too (`rename_source_key` in its core_model_loading.py)."""

import re
from collections.abc import Iterable, Iterator
from functools import cache

from msgspec.structs import replace

from moegrow.families.schema import Family, Names
from moegrow.quant.formats import activations, formats


@cache
def parts_of_quantised() -> tuple[str, ...]:
    """What the names of the tensors of quantised weights end in, the longest first."""
    found = {*activations()}
    for form in formats():
        found |= {form.values, *form.others}
        found |= {ending.removesuffix("?") for ending in form.companions.values()}
    return tuple(sorted(found - {"", ".weight"}, key=len, reverse=True))


@cache
def _known() -> re.Pattern[str]:
    # Weights of experts in one tensor have no `.weight`, and parts behind `_` instead of a dot.
    words = {ending.lstrip("._") for ending in parts_of_quantised()} | {"weight", "bias"}
    joined = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?:{joined})")


def is_known(pattern: str, taken: str) -> bool:
    """Whether what a star at the end of an expert's `pattern` has taken is known to be an expert's.

    Behind a dot that is the name of a matrix with an ending, or an ending alone; behind a word, an
    ending or nothing.

    >>> is_known("experts.{expert}.*", "up_proj.weight"), is_known("experts.up_proj*", "_bias")
    (True, True)
    >>> is_known("experts.{expert}.*", "up_proj.delta.weight"), is_known("experts.up*", "_delta")
    (False, False)
    """
    if pattern.endswith(".*"):
        name, _, ending = taken.rpartition(".")
        is_name = not name or re.fullmatch(r"\w+", name)
        return bool(is_name and (_known().fullmatch(ending) or (not name and ending)))
    return not taken or (taken[0] in "._" and bool(_known().fullmatch(taken[1:])))


def module(suffix: str) -> str:
    """The module of a tensor: its name without the ending, also where that has several parts.

    >>> module(".mlp.gate.weight"), module(".q_proj.scales"), module(".q_proj.weight.absmax")
    ('.mlp.gate', '.q_proj', '.q_proj')
    """
    head, found, _ = suffix.partition(".weight")
    return head if found else suffix.rpartition(".")[0]


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
