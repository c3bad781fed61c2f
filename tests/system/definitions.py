"""Layer maps, identity layers and expert maps, from docs/commands.md and docs/method.md.

Nothing here is taken from moegrow: an operation is the list of words that a person types, and these
functions say what it means. `Model` follows a model through several operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

Words = Sequence[str]

NOTHING = -1  # what an expert is made from that stands for skipping


@dataclass(frozen=True)
class Model:
    """What each layer and each expert of a grown model is made from, and the experts per token.

    `silent[i]` is true where layer `i` begins as the identity.
    """

    layers: tuple[int, ...]
    silent: tuple[bool, ...]
    experts: tuple[int, ...]
    top_k: int
    noisy_router: bool = False

    @classmethod
    def source(cls, *, layers: int, experts: int, top_k: int) -> "Model":
        return cls(tuple(range(layers)), (False,) * layers, tuple(range(experts)), top_k)

    @property
    def computing(self) -> tuple[int, ...]:
        """The source's layers that the model runs through, in order."""
        pairs = zip(self.layers, self.silent, strict=True)
        return tuple(layer for layer, is_silent in pairs if not is_silent)


def grown(
    model: Model, words: Words, *, last_is_original: bool = False, has_skip: bool = False
) -> Model:
    """The model after one `depth` or `width` command.

    With `last_is_original`, the last copy of a layer is the one that is not the identity. With
    `has_skip`, the router has a class that skips beside the experts, which is copied with them.
    """
    options = _options(words)
    if words[0] == "depth":
        return _deeper(model, options, last_is_original)
    return _wider(model, options, has_skip)


def _options(words: Words) -> dict[str, str]:
    return dict(zip((word[2:] for word in words[1::2]), words[2::2], strict=True))


def _deeper(model: Model, options: dict[str, str], last_is_original: bool) -> Model:
    a_map = layer_map(len(model.layers), options)
    default = "identity" if options.get("mode") == "expand" else "copy"
    is_identity = options.get("new-layers", default) == "identity"
    order = range(len(a_map))
    repeated = [a_map[i] in (a_map[i + 1 :] if last_is_original else a_map[:i]) for i in order]
    return Model(
        tuple(model.layers[old] for old in a_map),
        tuple(model.silent[a_map[i]] or (is_identity and repeated[i]) for i in order),
        model.experts,
        model.top_k,
        model.noisy_router,
    )


def layer_map(count: int, options: dict[str, str]) -> tuple[int, ...]:
    """For each new layer the old one, of `count`."""
    if "layers" in options:
        new: list[int] = []
        for part in options["layers"].split(","):
            first, _, last = part.partition("-")
            new += range(int(first), int(last or first) + 1)
        return tuple(new)
    mode = options.get("mode", "interpose")
    first, last = int(options.get("keep-first", 0)), int(options.get("keep-last", 0))
    head, middle, tail = range(first), range(first, count - last), range(count - last, count)
    if mode == "overlap":
        drop = int(options["drop"])
        return (*range(count - drop), *range(drop, count))
    if mode == "expand":
        every = int(options["every"])
        new = [
            old
            for place, old in enumerate(middle)
            for _ in range(2 if place % every == every - 1 else 1)
        ]
        return (*head, *new, *tail)
    if "to" in options:
        times = Fraction(int(options["to"]) - first - last, len(middle))
    else:
        times = Fraction(options.get("times", "2x").rstrip("x"))
    group = int(options.get("group", 1))
    groups = [tuple(middle[start : start + group]) for start in range(0, len(middle), group)]
    counts = spread(len(groups), times)
    if mode == "stack":
        passes = range(max(counts))
        new = [old for turn in passes for old, n in zip(middle, counts, strict=True) if n > turn]
    else:
        new = [old for block, n in zip(groups, counts, strict=True) for old in block * n]
    return (*head, *new, *tail)


def spread(units: int, times: Fraction) -> list[int]:
    """How often each unit occurs so that all together occur `times` as often, evenly spread."""
    ends = [int(times * unit) for unit in range(units + 1)]
    return [end - start for start, end in pairwise(ends)]


def _wider(model: Model, options: dict[str, str], has_skip: bool) -> Model:
    count = len(model.experts)
    wanted = options.get("experts", "2x")
    times = Fraction(wanted.rstrip("x")) if "x" in wanted else Fraction(int(wanted), count)
    counts = spread(count, times)
    if options.get("order") == "interleave":
        new = [old for old, n in enumerate(counts) for _ in range(n)]
    else:
        turns = range(max(counts))
        new = [old for turn in turns for old, n in enumerate(counts) if n > turn]
    if has_skip:
        # Copies of the class that skips are experts without weights; top-k stays.
        new = [*range(count)] * int(times) + [NOTHING] * (int(times) - 1)
        options = options | {"top-k": "keep"}
    is_upcycling = options.get("preset") == "upcycling"
    top_k = options.get("top-k", "keep" if is_upcycling else "scale")
    if top_k == "scale":
        chosen = max(1, round(model.top_k * times))
    else:
        chosen = model.top_k if top_k == "keep" else int(top_k)
    return Model(
        model.layers,
        model.silent,
        tuple(model.experts[old] if old != NOTHING else NOTHING for old in new),
        chosen,
        model.noisy_router or is_upcycling,
    )
