"""Rename the modules in a quantisation config for the copies of layers and experts."""

import re
from collections.abc import Iterator
from typing import Any

from moegrow.checkpoint.checkpoint import LARGEST_CONFIG
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.files.json_edit import MOST_SHALLOW
from moegrow.growth import Growth
from moegrow.model_config.layer_copies import CopyNumbers, NumberedCopy
from moegrow.model_config.module_patterns import Expressions, Inside

# In one config, once they are spelled out for every copy.
MOST_NAMES, MOST_CHARACTERS = 1_000_000, LARGEST_CONFIG

MOST_HEADS = 1000  # of other stacks in a checkpoint, and ten times as many that a config names

# A word by itself has no number of a layer or of an expert: most keys are one.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[0-9]*")
# What marks a regular expression, which GPTQ's keys precede with what a match does.
_MARKED = re.compile(r"(re:|[+-]:)?(.*)", re.DOTALL)
_SPECIAL = re.compile(r"[\\^$|()\[\]{}+?]")
# A number of something in a name, whatever that is.
_NUMBERED = re.compile(r"(?<![^.*])[0-9]+(?=[.*]|$)")

# A text of the new model, and the copies in whose entry stands what belongs to it.
_Made = tuple[str, Inside]


class ModuleNames:
    """What becomes of names that speak of single layers or experts, in a growth of a layout.

    A name in a list is followed by those of its other copies, a key by keys with the same value;
    a regular expression gets other numbers. What names no number stays as it is. In the value of a
    key that names a layer or an expert, the same number means the copy that this key is for.
    """

    def __init__(self, layout: Layout, growth: Growth) -> None:
        tensors = layout.family.tensors
        self._main = {pattern.split("{layer")[0] for pattern in tensors.layers}
        own = {pattern.split("{layer")[0] for pattern in tensors.prediction_layers}
        words = frozenset(map(_last_word, self._main))
        behind = layout.layered.predictions
        self._layers = CopyNumbers(
            "layer", words, (*growth.layers, *range(layout.layers, layout.layers + behind))
        )
        named = {
            _last_word(pattern.split("{expert")[0])
            for pattern in tensors.experts
            if "{expert}" in pattern
        }
        self._experts = CopyNumbers("expert", frozenset(named or {"experts"}), growth.experts)
        joined = "|".join(map(re.escape, words))
        numbered = re.compile(rf"(?:.*\.)?(?:{joined})\.(?=[0-9]+\.)")
        found = {match[0] for name in layout.checkpoint.tensors if (match := numbered.match(name))}
        self._here = found & self._main
        self._own, self._outside = own, found - self._main - own
        self._own_here = own & found
        self._numbered = {
            numbers.what: _behind(numbers.words) for numbers in (self._layers, self._experts)
        }
        self._expressions = Expressions(
            self._layers, self._experts, has_others=bool(self._own_here or self._outside)
        )
        self._is_mapped = self._layers.is_mapped or self._experts.is_mapped
        self._kinds: dict[str, str] = {}
        self._made = self._characters = self._values = 0

    def rewritten(self, value: Any) -> Any:
        """A value of a config for the new model, with all names in it: keys, in lists, and alone.

        Raises MoegrowError for a name that cannot be made to mean the copies and nothing else.
        """
        return self._rewritten(value, Inside()) if self._is_mapped else value

    def _rewritten(self, value: Any, inside: Inside) -> Any:
        if isinstance(value, dict):
            return {
                new: self._rewritten(inner, within)
                for key, inner in value.items()
                for new, within in self._expanded(key, inside)
            }
        if isinstance(value, list):
            return [new for item in value for new in self._items(item, inside)]
        if isinstance(value, str):
            found = self._expanded(value, inside)
            if len(found) != 1:
                raise _refused(value, f"has {len(found)} copies, where one name can stand")
            return found[0][0]
        self._count(values=1)
        return value

    def _items(self, item: Any, inside: Inside) -> list[Any]:
        if isinstance(item, str):
            return [new for new, _ in self._expanded(item, inside)]
        return [self._rewritten(item, inside)]

    def expand(self, text: str) -> list[str]:
        """The texts that mean in the new model what `text` means in the old one."""
        return [new for new, _ in self._expanded(text, Inside())]

    def _expanded(self, text: str, inside: Inside) -> list[_Made]:
        if not self._is_mapped:
            return [(text, inside)]
        if _WORD.fullmatch(text):
            self._count(names=1, characters=len(text))
            return [(text, inside)]
        marked = _MARKED.fullmatch(text)
        assert marked
        mark, rest = marked[1] or "", marked[2]
        found = []
        if mark or _SPECIAL.search(rest) or rest.startswith(".*"):
            try:
                found.append((mark + self._expressions.rewritten(rest, inside), inside))
            except ValueError as error:
                raise _refused(text, str(error)) from None
            self._count(names=1, characters=len(found[0][0]))
        else:
            for made in self._names(rest, text, inside):
                self._count(names=1, characters=len(made[0]))
                found.append(made)
        return found

    def _count(self, *, names: int = 0, characters: int = 0, values: int = 0) -> None:
        """Raise MoegrowError where more is made than a config may hold."""
        self._made += names
        self._characters += characters
        self._values += values
        if self._made > MOST_NAMES:
            problem = f"name more than {MOST_NAMES} modules"
        elif self._characters > MOST_CHARACTERS or self._values > MOST_SHALLOW:
            problem = f"take more than {MOST_CHARACTERS} characters, or {MOST_SHALLOW} values"
        else:
            return
        raise MoegrowError(
            f"quantization_config would {problem}", "dequantise: add " + Parameter("dtype", "bf16")
        )

    def _names(self, name: str, text: str, inside: Inside) -> Iterator[_Made]:
        """A name, in which stars may be, for every copy of its layer and of its expert."""
        at = self._numbered["layer"].search(name)
        is_open = name.startswith("*") and not at and not self._numbered["expert"].search(name)
        if is_open and _NUMBERED.search(name):
            raise _refused(text, "has numbers that are not behind the word for layers or experts")
        kind = self._stack(name[: at.start(1)], text) if at else "own"
        if kind == "outside":
            yield name, inside
            return
        layers = self._each(name, at, self._layers, text, inside.layer) if kind == "main" else None
        for copy, layer in layers or [(name, inside.layer)]:
            inner = self._numbered["expert"].search(copy)
            # Of another layer than the one that all this is for, no expert is the one it is for.
            is_other = at and inside.layer and layer != inside.layer
            expert = None if is_other else inside.expert
            for made, within in self._each(copy, inner, self._experts, text, expert):
                yield made, Inside(layer, within)

    def _each(
        self,
        name: str,
        at: re.Match[str] | None,
        numbers: CopyNumbers,
        text: str,
        inside: NumberedCopy | None,
    ) -> Iterator[tuple[str, NumberedCopy | None]]:
        """The name once for every copy of the layer or expert whose number was found in it.

        Some readers take a name that ends in a number, like one with a star there, for the
        beginning of others: 1 for that of 10. None is made that would mean more than the copies.
        """
        if at is None or not numbers.is_mapped:
            yield name, NumberedCopy(int(at[1]), int(at[1])) if at else inside
            return
        rest, old = name[at.end(1) :], int(at[1])
        has_star = rest.startswith("*")
        if old >= numbers.old_total:
            # Nothing there has this number, in the source or in the result.
            yield f"{name[: at.start(1)]}{old - numbers.old_total + numbers.total}{rest}", inside
            return
        named = numbers.named(at[1], has_star=has_star, inside=inside)
        if named.begins_others and not rest:
            raise _refused(text, f"ends in a number that begins those of other {numbers.what}s")
        dot = "." if has_star and named.begins_others else ""
        for number in named.new:
            yield f"{name[: at.start(1)]}{number}{dot}{rest}", NumberedCopy(old, number)

    def _stack(self, head: str, text: str) -> str:
        """Whose layers a name speaks of, by what stands before the number.

        "main", "own" for prediction layers that keep their numbers, or "outside" for other models
        in the same checkpoint.
        """
        if head in self._here or not (self._layers.is_mapped or head in self._outside):
            return "main"
        if head not in self._kinds:
            if len(self._kinds) > 10 * MOST_HEADS or len(self._outside) > MOST_HEADS:
                raise _refused(text, "is of one stack of layers among thousands")
            self._kinds[head] = self._found_stack(head, text)
        return self._kinds[head]

    def _found_stack(self, head: str, text: str) -> str:
        for kind, known in (("own", self._own), ("outside", self._outside), ("main", self._main)):
            if head in known:
                return kind
        bare = head.removeprefix("*").removeprefix(".")

        def is_meant(heads: set[str]) -> bool:
            # Names of modules and of tensors differ in what stands around the language model.
            return any(f".{one}".endswith(f".{bare}") or bare.endswith(f".{one}") for one in heads)

        kinds = {
            kind
            for kind, known in (
                ("main", self._main), ("own", self._own_here), ("outside", self._outside),
            )
            if is_meant(known)
        }  # fmt: skip
        if len(kinds) != 1:
            raise _refused(text, "may mean several stacks of layers" if kinds else "is not there")
        return kinds.pop()


def _behind(words: frozenset[str]) -> re.Pattern[str]:
    """What finds the number behind one of the words in a name."""
    joined = "|".join(map(re.escape, words))
    return re.compile(rf"(?<![^.*])(?:{joined})\.([0-9]{{1,9}})(?=$|\.|\*)")


def _last_word(head: str) -> str:
    """What stands before a number: "layers" of "model.layers."."""
    return head.rstrip(".").rpartition(".")[2]


def _refused(text: str, why: str) -> MoegrowError:
    return MoegrowError(
        f"quantization_config names {text[:200]!r}, which {why}",
        "write the names of the modules into config.json, or dequantise: add "
        + Parameter("dtype", "bf16"),
    )
