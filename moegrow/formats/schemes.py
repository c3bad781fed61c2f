"""What a quantisation config says of how one module is quantised: its bits, groups and blocks."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# A pattern that a stranger's config may have tried on every name: with few repetitions, and none
# within another.
_LONGEST, _MOST_REPEATED = 400, 6
_REPEATED = re.compile(r"[*+{]")
_NESTED = re.compile(r"\)[*+{]")


class Scheme(NamedTuple):
    """How weights are stored, as far as a config says it.

    `bits` of a number, `group` of values in a row that share a scale, -1 for all of them, and
    `block` of rows and columns that share one; 0 and () where nothing is said. `is_symmetric`
    where scales fit the largest weights on both sides of 0, whether or not zeros are stored.
    """

    bits: int = 0
    group: int = 0
    block: tuple[int, ...] = ()
    is_symmetric: bool = False


class _Chosen(NamedTuple):
    """A scheme, the numbers that it is for ("int" or "float"), and the modules it is meant for."""

    scheme: Scheme
    numbers: str
    targets: tuple[str, ...]


class Schemes:
    """The schemes of a config, which may have one for each of several kinds of modules.

    `settings` are the values at the root of the config, as texts in lower case.
    """

    def __init__(self, config: Iterable[Mapping[str, Any]]) -> None:
        tables = list(config)
        self.is_told = bool(tables)
        self.settings = {
            key: value.lower()
            for table in reversed(tables)
            for key, value in table.items()
            if isinstance(value, str)
        }
        self._chosen = [chosen for table in tables for chosen in _schemes(table)]

    def of(self, module: str, numbers: str) -> Scheme:
        """The scheme of a module whose weights are stored as "int" or "float".

        As compressed-tensors chooses it: its own name before patterns, these before classes.
        Raises ValueError where the config says several things at once.
        """
        possible = [one for one in self._chosen if one.numbers in ("", numbers)]
        if len({one.scheme for one in possible}) < 2:
            return possible[0].scheme if possible else Scheme()
        for is_meant in (_is_name, _is_pattern, _is_class):
            found = {
                one.scheme
                for one in possible
                if any(is_meant(target, module) for target in one.targets)
            }
            if len(found) > 1:
                raise ValueError(f"quantization_config has {len(found)} schemes for it")
            if found:
                return found.pop()
        return Scheme()


def _is_name(target: str, module: str) -> bool:
    return target == module


def _is_pattern(target: str, module: str) -> bool:
    if not target.startswith("re:"):
        return False
    pattern = target.removeprefix("re:")
    is_quick = len(pattern) <= _LONGEST and len(_REPEATED.findall(pattern)) <= _MOST_REPEATED
    try:
        if is_quick and not _NESTED.search(pattern):
            return re.match(pattern, module) is not None
    except (re.error, OverflowError):
        raise ValueError(f"the target {target!r} is no regular expression") from None
    raise ValueError(f"the target {target!r} takes too long to try")


def _is_class(target: str, module: str) -> bool:
    return not target.startswith("re:") and "." not in target


def _schemes(table: Mapping[str, Any]) -> Iterator[_Chosen]:
    """The schemes of a config: one for each of its groups, or one at its root for all modules."""
    groups = table.get("config_groups")
    if not isinstance(groups, Mapping):
        yield _Chosen(_scheme(table), "", ())
        return
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            targets = group.get("targets")
            named = targets if isinstance(targets, list) else []
            numbers = str(weights.get("type", "int"))
            yield _Chosen(_scheme(weights), numbers, tuple(map(str, named)))


def _scheme(table: Mapping[str, Any]) -> Scheme:
    def number(*keys: str) -> int:
        found = (table[key] for key in keys if type(table.get(key)) is int)
        return next(found, 0)

    told = [table.get(key) for key in ("weight_block_size", "block_structure")]
    block = next((block for block in told if isinstance(block, list)), [])
    is_block = len(block) == 2 and all(type(size) is int and size > 0 for size in block)
    return Scheme(
        number("num_bits", "bits", "w_bit"),
        number("group_size", "q_group_size"),
        tuple(block) if is_block else (),
        table.get("sym") is True or table.get("zero_point") is False,
    )
