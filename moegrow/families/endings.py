"""How names of weights may end: a plain weight, a bias, or a part of a quantised one."""

import re
from functools import cache

from moegrow.formats.formats import activations, formats


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
