"""Parse a tensor's name into its role: stack, layer, expert and part."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from moegrow.families.name_variants import is_known
from moegrow.families.schema import Family, Names

# Nine digits are more layers than any model has, and no more than Python turns into a number.
NUMBER = r"(0|[1-9][0-9]{0,8})"

# What a tensor of a MoE block can be; the first list of a family file that matches decides.
ROLES = (
    "router", "router_bias", "balance_bias", "expert_numbers", "copied_shared", "shared", "experts",
)  # fmt: skip


# What a profile of norms counts together, in the order in which people read it.
GROUPS = ("experts", "shared", "dense", "attention", "router", "norms")
_GROUP_OF_ROLE = {
    "experts": "experts", "router": "router", "shared": "shared", "copied_shared": "shared",
}  # fmt: skip


class TensorRole(NamedTuple):
    """Where a tensor of a layer stands.

    Its name is stack, `layer - lower` and suffix, one behind the other, and the suffix is before,
    expert and after. `role` is one of ROLES, or "" for what is not part of a MoE block. The flags
    say which other lists of the family's tensors name it; `is_odd` is what a star of `experts` has
    taken though no expert is known to have it. `group` is the one of GROUPS in which a
    profile of norms counts its matrices, or "".
    """

    stack: str
    layer: int
    suffix: str
    before: str
    expert: int | None
    after: str
    role: str
    lower: int = 0
    in_block: bool = False
    is_prediction: bool = False
    is_output: bool = False
    is_one: bool = False
    is_once: bool = False
    is_not_in_first: bool = False
    is_indexer: bool = False
    is_stacked: bool = False
    axis: int = 0
    group: str = ""
    is_norm: bool = False
    is_joined: bool = False
    is_alternating: bool = False
    is_odd: bool = False


# A place from its fields, without a call of its constructor: a checkpoint can have a million.
_PLACE: Callable[[tuple[Any, ...]], TensorRole] = partial(tuple.__new__, TensorRole)


def locator(family: Family) -> Callable[[str], TensorRole | None]:
    """A function from a tensor's name to its Place, or None for one outside all layers."""
    tensors = family.tensors
    own_stack = {pattern.split("{layer")[0] for pattern in tensors.prediction_layers}
    # Of two patterns where one begins with the other, the longer one says more.
    heads = sorted(tensors.layers + tensors.prediction_layers, key=len, reverse=True)
    stacks = re.compile(rf"{alternatives(tuple(heads))}(?=.)|{alternatives(tensors.beside)}\Z")
    lower = {pattern.split("{layer")[0]: "{layer-1}" in pattern for pattern in tensors.beside}
    roles = [(role, re.compile(alternatives(getattr(tensors, role)))) for role in ROLES]
    indexer = family.depth.shared_indexer

    is_output, is_one, is_once = map(named, (tensors.outputs, tensors.ones, tensors.once))
    is_not_in_first, is_stacked = map(named, (tensors.not_in_first, tensors.stacked))
    is_column = named(tensors.columns)
    is_norm, is_joined, is_alternating = map(
        named, (tensors.norms, tensors.joined, tensors.alternating)
    )
    grouped = [
        (group, named(patterns))
        for group, patterns in (
            ("attention", tensors.attention), ("dense", tensors.dense), ("router", tensors.gates),
        )
    ]  # fmt: skip
    is_indexer = named(indexer.tensors if indexer else ())
    of_experts = [
        (pattern, re.compile(_expression(pattern.removesuffix("*")))) for pattern in tensors.experts
    ]

    def is_expert(name: str) -> bool:
        """Whether a pattern of experts names this, and what its last star takes is known."""
        for pattern, start in of_experts:
            found = start.match(name)
            rest = name[found.end() :] if found else name
            if found and (is_known(pattern, rest) if pattern.endswith("*") else not rest):
                return True
        return False

    def classify(stack: str, wrapping: str, name: str) -> TensorRole:
        """The place of a tensor in whichever layer of a stack: the layer's number is left open."""
        before, expert, after = name, None, ""
        matches = ((role, pattern.fullmatch(name)) for role, pattern in roles)
        role, found = next(((role, found) for role, found in matches if found), ("", None))
        for slot, text in enumerate(found.groups() if found else (), 1):
            if found and text:
                before, after = name[: found.start(slot)], name[found.end(slot) :]
                expert = int(text)
                break
        down = int(lower.get(stack, False))
        return TensorRole(
            stack, 0, wrapping + name, wrapping + before, expert, after, role, down,
            in_block=name.startswith(tensors.block),
            is_prediction=stack in own_stack,
            is_output=is_output(name),
            is_one=is_one(name),
            is_once=is_once(name),
            # What stands beside the layers is named by its whole stack.
            is_not_in_first=is_not_in_first(name) or bool(down),
            is_indexer=is_indexer(name),
            is_stacked=is_stacked(name),
            axis=int(is_column(name)),
            group=next(
                (group for group, is_named in grouped if is_named(name)),
                _GROUP_OF_ROLE.get(role, ""),
            ),
            is_norm=is_norm(name),
            is_joined=is_joined(name),
            is_alternating=is_alternating(name),
            is_odd=role == "experts" and not is_expert(name),
        )  # fmt: skip

    # Layers and experts repeat, so few names differ behind the layer's number.
    known: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}
    starts: dict[tuple[str, int], tuple[str, str, int, dict[str, tuple[Any, ...]]]] = {}

    def locate(name: str) -> TensorRole | None:
        found = stacks.match(name)
        if not found or not found.lastindex:
            return None
        end = found.end()
        head, rest = (name[:end], found.lastindex), name[end:]
        if head not in starts:
            # The one group of the pattern that matched is the layer's number.
            start, stop = found.span(found.lastindex)
            stack, wrapping = name[:start], name[stop:end]
            layer = int(name[start:stop]) + lower.get(stack, False)
            starts[head] = stack, wrapping, layer, known.setdefault((stack, wrapping), {})
        stack, wrapping, layer, places = starts[head]
        place = places.get(rest)
        if place is None:
            place = places[rest] = classify(stack, wrapping, rest)[2:]
        return _PLACE((stack, layer, *place))

    return locate


def stray_expert(family: Family) -> Callable[[str], bool]:
    """Whether a name outside all layers ends like an expert's: it would keep its old number."""
    tail = re.compile(rf"(?:.*\.)?(?:{alternatives(family.tensors.experts)})")
    elsewhere = family.tensors.elsewhere
    return lambda name: bool(tail.fullmatch(name)) and not name.startswith(elsewhere)


def named(patterns: Names) -> Callable[[str], bool]:
    """Whether any of the patterns fits the whole of a name within a layer."""
    compiled = re.compile(alternatives(patterns))
    return lambda suffix: bool(compiled.fullmatch(suffix))


def alternatives(patterns: Names) -> str:
    """One regular expression for any of the patterns; without patterns it matches nothing."""
    return "(?:" + "|".join(map(_expression, patterns)) + ")" if patterns else r"(?!)"


def _expression(pattern: str) -> str:
    special = {"{layer}": NUMBER, "{layer-1}": NUMBER, "{expert}": NUMBER}

    def fixed(text: str) -> str:
        parts = re.split(r"(\{layer\}|\{layer-1\}|\{expert\})", text)
        return "".join(special.get(part, re.escape(part)) for part in parts)

    first, *others = map(fixed, pattern.split("*"))
    # What stands between two stars is taken where it is found first, and not looked for again:
    # a pattern of many stars, which may be a stranger's, would otherwise take for ever.
    middle = "".join(f"(?>.*?{part})" for part in others[:-1])
    return first + middle + (f".*{others[-1]}" if others else "")
