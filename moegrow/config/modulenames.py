"""Names and patterns of modules, as quantisation configs have them, when a model grows."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout, promised_predictions
from moegrow.maps import NULL
from moegrow.plans import Growth

MOST_NAMES = 1_000_000  # in one config, once they are spelled out for every copy

# What marks a regular expression, which GPTQ's keys precede with what a match does.
_MARKED = re.compile(r"(re:|[+-]:)?(.*)", re.DOTALL)
_SPECIAL = re.compile(r"[\\^$|()\[\]{}+?]")

# A part of a pattern that every number matches.
_EVERY = re.compile(r"\(?(?:\?:)?(?:(?:\.|\\d|\[0-9\]|\[\^\\?\.\])[*+]|\*)\??\)?")
# A part that some numbers match, with nothing in it that takes long to try.
_SOME = re.compile(r"(?!.*\)[+*{])(?:[0-9|()?:-]|\\d[+*]?|\[[0-9-]+\][+*]?)+")
# Digits that are part of a name, such as w1 or w[13], and what every number matches.
_IN_NAMES = re.compile(r"(?<!\\)[A-Za-z_](?:[0-9]+|\[[0-9]+\])|(?:\\d|\[0-9\])[+*]")
# A number behind a whole word, which may be another than those for layers and experts.
_BEHIND = re.compile(
    r"(?:(?<=[A-Za-z_]\\\.)|(?<=[A-Za-z_]\.)|^)([A-Za-z_]+)\\?\."
    r"(?:[0-9]+|\([0-9|]+\)|\[[0-9-]+\])(?=\\?\.|$)"
)
# What may be a number of ours where it is none of these.
_STRAY = re.compile(r"[0-9]|\\d")
# A number of something in a name, whatever that is.
_NUMBERED = re.compile(r"(?<![^.*])[0-9]+(?=[.*]|$)")


class Numbers(NamedTuple):
    """What layers or experts are copied from: `sources[new]` is an old number."""

    what: str
    words: frozenset[str]
    sources: Sequence[int]

    @property
    def is_mapped(self) -> bool:
        return any(new != old for new, old in enumerate(self.sources))

    def copies(self, meant: Iterable[int]) -> list[int]:
        """The new numbers of the copies of some old ones; those that are none stay behind all."""
        wanted = set(meant)
        return [new for new, old in enumerate(self.sources) if old != NULL and old in wanted]


class ModuleNames:
    """What becomes of names that speak of single layers or experts, in a growth of a layout.

    A name in a list is followed by those of its other copies, a key by keys with the same value;
    a regular expression gets other numbers. What names no number stays as it is.
    """

    def __init__(self, layout: Layout, growth: Growth) -> None:
        tensors = layout.family.tensors
        self._main = {pattern.split("{layer")[0] for pattern in tensors.layers}
        own = {pattern.split("{layer")[0] for pattern in tensors.prediction_layers}
        words = frozenset(map(_last_word, self._main))
        behind = max(layout.prediction_layers, promised_predictions(layout.config, layout.family))
        self._layers = Numbers(
            "layer", words, (*growth.layers, *range(layout.layers, layout.layers + behind))
        )
        named = {
            _last_word(pattern.split("{expert")[0])
            for pattern in tensors.experts
            if "{expert}" in pattern
        }
        self._experts = Numbers("expert", frozenset(named or {"experts"}), growth.experts)
        joined = "|".join(map(re.escape, words))
        numbered = re.compile(rf"(?:.*\.)?(?:{joined})\.(?=[0-9]+\.)")
        found = {match[0] for name in layout.checkpoint.tensors if (match := numbered.match(name))}
        self._here = found & self._main
        self._own, self._outside = own, found - self._main - own
        self._own_here = own & found
        self._made = 0

    def rewritten(self, value: Any) -> Any:
        """A value of a config for the new model, with all names in it: keys, in lists, and alone.

        Raises MoegrowError for a name that cannot be made to mean the copies and nothing else.
        """
        if isinstance(value, dict):
            return {
                new: self.rewritten(inner)
                for key, inner in value.items()
                for new in self.expand(key)
            }
        if isinstance(value, list):
            return [new for item in value for new in self._items(item)]
        if isinstance(value, str):
            found = self.expand(value)
            if len(found) != 1:
                raise _refused(value, f"has {len(found)} copies, where one name can stand")
            return found[0]
        return value

    def _items(self, item: Any) -> list[Any]:
        return self.expand(item) if isinstance(item, str) else [self.rewritten(item)]

    def expand(self, text: str) -> list[str]:
        """The texts that mean in the new model what `text` means in the old one."""
        marked = _MARKED.fullmatch(text)
        assert marked
        mark, rest = marked[1] or "", marked[2]
        if not (self._layers.is_mapped or self._experts.is_mapped):
            return [text]
        if mark or _SPECIAL.search(rest) or rest.startswith(".*"):
            found = [mark + self._pattern(rest, text)]
        else:
            found = list(self._names(rest, text))
        self._made += len(found)
        if self._made > MOST_NAMES:
            raise MoegrowError(
                f"quantization_config would name more than {MOST_NAMES} modules",
                "dequantise: add --dtype bf16",
            )
        return found

    def _names(self, name: str, text: str) -> Iterator[str]:
        """A name, in which stars may be, for every copy of its layer and of its expert."""
        at = _numbered(name, self._layers.words)
        is_open = name.startswith("*") and not at and not _numbered(name, self._experts.words)
        if is_open and _NUMBERED.search(name):
            raise _refused(text, _STRAY_NUMBERS)
        kind = self._stack(name[: at.start(1)], text) if at else "own"
        if kind == "outside":
            yield name
            return
        layers = self._each(name, at, self._layers, text) if kind == "main" else [name]
        for copy in layers:
            inner = _numbered(copy, self._experts.words)
            yield from self._each(copy, inner, self._experts, text)

    def _each(
        self, name: str, at: re.Match[str] | None, numbers: Numbers, text: str
    ) -> Iterator[str]:
        """The name once for every copy of the layer or expert whose number was found in it.

        Some readers take a name that ends in a number, like one with a star there, for the
        beginning of others: 1 for that of 10. None is made that would mean more than the copies.
        """
        if at is None or not numbers.is_mapped:
            yield name
            return
        rest, old = name[at.end(1) :], int(at[1])
        has_star = rest.startswith("*")
        count = max([*numbers.sources, -1]) + 1
        if old >= count:
            # Nothing there has this number, in the source or in the result.
            yield f"{name[: at.start(1)]}{old - count + len(numbers.sources)}{rest}"
            return
        begun = {number for number in range(count) if str(number).startswith(at[1])}
        new = numbers.copies(begun if has_star else {old})
        also = {
            number
            for number in range(len(numbers.sources))
            if str(number).startswith(tuple(map(str, new)))
        }
        is_more = also > {*new}
        if is_more and not rest:
            raise _refused(text, f"ends in a number that begins those of other {numbers.what}s")
        for number in new:
            yield f"{name[: at.start(1)]}{number}{'.' if has_star and is_more else ''}{rest}"

    def _stack(self, head: str, text: str) -> str:
        """Whose layers a name speaks of, by what stands before the number.

        "main", "own" for prediction layers that keep their numbers, or "outside" for other models
        in the same checkpoint.
        """
        if head in self._here or not (self._layers.is_mapped or head in self._outside):
            return "main"
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

    def _pattern(self, pattern: str, text: str) -> str:
        """A regular expression with the numbers of the copies in place of those it names."""
        words = "|".join(map(re.escape, self._layers.words | self._experts.words))
        made = rest = ""
        position = 0
        for found in re.finditer(rf"(?<![A-Za-z0-9_])({words})(\\?\.)", pattern):
            start = found.end()
            is_any = found[2] == "." and pattern[start : start + 1] in ("*", "+", "?")
            if start < position or is_any:
                continue
            stop = _end(pattern, start)
            part = pattern[start:stop]
            made, rest = (done + pattern[position:start] for done in (made, rest))
            position = stop
            is_layer = found[1] in self._layers.words
            numbers = self._layers if is_layer else self._experts
            if not part or re.match(r"[A-Za-z_]", part):
                made, rest = made + part, rest + part
            elif _EVERY.fullmatch(part):
                made += part
            elif not _SOME.fullmatch(part):
                raise _refused(text, f"has {part!r} in the place of a number")
            elif is_layer and self._layers.is_mapped and (self._own_here or self._outside):
                raise _refused(text, "may mean several stacks of layers")
            else:
                behind = pattern[stop : stop + 2]
                is_open = behind in (".*", ".+")
                is_ended = behind[:1] in ("\\", ".", "$") and not is_open
                made += _mapped(part, numbers, text, is_ended=is_ended, is_open=is_open)
        made, rest = (done + pattern[position:] for done in (made, rest))
        known = {word.lower() for word in self._layers.words | self._experts.words}
        rest = _BEHIND.sub(lambda at: at[0] if at[1].lower() in known else "", rest)
        if _STRAY.search(_IN_NAMES.sub("", rest)):
            raise _refused(text, _STRAY_NUMBERS)
        return made


_STRAY_NUMBERS = "has numbers that are not behind the word for layers or experts"


def _mapped(part: str, numbers: Numbers, text: str, *, is_ended: bool, is_open: bool) -> str:
    """The part of a regular expression that the copies match of all that `part` matches.

    Expressions match beginnings: unless a number `is_ended`, 1 begins 10 too. Where it `is_open`
    that is meant, and else nothing tells.
    """
    try:
        one = re.compile(part)
    except (re.error, OverflowError):
        raise _refused(text, f"holds {part!r}, which is no regular expression") from None
    is_meant = one.fullmatch if is_ended else one.match
    meant = {old for old in numbers.sources if old != NULL and is_meant(str(old))}
    if not (is_ended or is_open) and any(not one.fullmatch(str(old)) for old in meant):
        raise _refused(text, f"ends in a number that begins those of other {numbers.what}s")
    new = numbers.copies(meant)
    if new == [number for number in range(len(numbers.sources)) if is_meant(str(number))]:
        return part
    if not new:
        return "(?!)"
    return f"(?:{'|'.join(map(str, new))}){'' if is_ended else '(?![0-9])'}"


def _numbered(name: str, words: frozenset[str]) -> re.Match[str] | None:
    """Where a name has the number behind one of the words."""
    joined = "|".join(map(re.escape, words))
    return re.search(rf"(?<![^.*])(?:{joined})\.([0-9]{{1,9}})(?=$|\.|\*)", name)


def _last_word(head: str) -> str:
    """What stands before a number: "layers" of "model.layers."."""
    return head.rstrip(".").rpartition(".")[2]


def _end(pattern: str, start: int) -> int:
    """Where the part of a pattern ends that begins at `start`: before a dot that separates."""
    depth, position = 0, start
    while position < len(pattern):
        two = pattern[position : position + 2]
        is_open = two in (".*", ".+") and position == start
        if depth == 0 and (two == "\\." or (two[0] == "." and not is_open)):
            break
        if depth == 0 and two[0] in ")$|":
            break
        depth += (two[0] in "([") - (two[0] in ")]")
        position += 2 if two[0] == "\\" or two in (".*", ".+") else 1
    return position


def _refused(text: str, why: str) -> MoegrowError:
    return MoegrowError(
        f"quantization_config names {text!r}, which {why}",
        "write the names of the modules into config.json, or dequantise: add --dtype bf16",
    )
