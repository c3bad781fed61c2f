"""Read the bits, groups and blocks of a module from a quantisation config."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from moegrow.files.linear_regex import Budget, Pattern, joined

MOST_CHOICES = 32  # schemes of one config whose regular expressions are tried on every module


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
        chosen = [one for table in tables for one in _schemes(table)]
        self._choices = {
            numbers: _Choice([one for one in chosen if one.numbers in ("", numbers)])
            for numbers in ("int", "float")
        }

    def of(self, module: str, numbers: str) -> Scheme:
        """The scheme of a module whose weights are stored as "int" or "float".

        As compressed-tensors chooses it: its own name before patterns, these before classes.
        Raises ValueError where the config says several things at once.
        """
        return self._choices[numbers].of(module)

    def is_target(self, module: str) -> bool:
        """Whether the config has a group for a module; ValueError where that cannot be told."""
        return any(choice.is_target(module) for choice in self._choices.values())


class _Choice:
    """The schemes for one kind of numbers, and which of them a module has."""

    def __init__(self, possible: list[_Chosen]) -> None:
        self._schemes = list(dict.fromkeys(one.scheme for one in possible))
        self._names: dict[str, set[Scheme]] = defaultdict(set)
        self._classes: set[Scheme] = set()
        self._expressions: dict[Scheme, list[str]] = defaultdict(list)
        self._budget = Budget()
        for scheme, _, targets in possible:
            for target in targets:
                if target.startswith("re:"):
                    self._expressions[scheme].append(target)
                    continue
                self._names[target].add(scheme)
                if "." not in target:
                    self._classes.add(scheme)

    def of(self, module: str) -> Scheme:
        if len(self._schemes) < 2:
            return self._schemes[0] if self._schemes else Scheme()
        found = self._names.get(module) or self._matched(module) or self._classes
        if len(found) > 1:
            raise ValueError(f"quantization_config has {len(found)} schemes for it")
        return next(iter(found), Scheme())

    def is_target(self, module: str) -> bool:
        return bool(self._classes or module in self._names or self._matched(module))

    def _matched(self, module: str) -> set[Scheme]:
        patterns, problem = self._patterns
        if problem:
            raise ValueError(problem)
        return {
            scheme for scheme, pattern in patterns.items() if self._budget.begins(pattern, module)
        }

    @cached_property
    def _patterns(self) -> tuple[Mapping[Scheme, Pattern], str]:
        """What the modules of each scheme match, and what is wrong with it."""
        if len(self._expressions) > MOST_CHOICES:
            return {}, (
                f"quantization_config has regular expressions for {len(self._expressions)} schemes,"
                f" more than {MOST_CHOICES}"
            )
        try:
            return {one: _pattern(targets) for one, targets in self._expressions.items()}, ""
        except ValueError as error:
            return {}, str(error)


def _pattern(targets: list[str]) -> Pattern:
    """What matches a module that one of the targets names by a regular expression."""
    for target in targets:
        try:
            joined([target.removeprefix("re:")])
        except ValueError as error:
            raise ValueError(f"the target {target[:100]!r} {error}") from None
    try:
        return joined(target.removeprefix("re:") for target in targets)
    except ValueError as error:
        raise ValueError(
            f"{len(targets)} targets together are an expression that {error}"
        ) from None


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
