"""Apply published evidence on growth to a checkpoint."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import correlation
from typing import Any, Literal, get_args

import msgspec

from moegrow import display
from moegrow.analysis.growth_targets import Target, targets
from moegrow.analysis.norm_profile import Profile
from moegrow.analysis.seams import usual_step
from moegrow.dtypes import PLAIN
from moegrow.errors import Parameter, UsageError, one_line
from moegrow.families.layout import Layout
from moegrow.files import typed_toml
from moegrow.planning import model_size
from moegrow.planning.model_size import ModelSize
from moegrow.planning.open_source import Opened

Topic = Literal["boundary", "mode", "edges", "profile", "width", "training", "watch"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
_TOKENS = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?) *([KMBT]?)", re.I | re.ASCII)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Sentence:
    """One thing that is known, where from, and what it does not reach."""

    topic: str
    says: str
    source: str
    limits: str = ""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence of evidence.toml: said where all facts in `when` hold, and none in `unless`."""

    topic: Topic
    says: str
    source: str
    limits: str = ""
    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of evidence.toml."""

    sentence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Advice:
    """Where a checkpoint stands, and what follows.

    `boundary` and `sunk` are FLOPs, `boundary_tokens` the tokens at which the boundary is reached;
    `tokens`, `sunk` and `ratio` = sunk ÷ boundary are None where the tokens are not known.
    """

    source: str
    family: str
    numbers: ModelSize
    tokens: int | None
    boundary: int
    boundary_tokens: int
    sunk: int | None
    ratio: float | None
    targets: tuple[Target, ...]
    sentences: tuple[Sentence, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, width: int | None = None) -> Iterator[str]:
        """What is said, line by line, sentences broken where a terminal has so many columns."""
        for text, indent in self._texts():
            if indent is None:
                yield from text.split("\n")
            else:
                yield from display.wrapped(text, width, indent)

    def _texts(self) -> Iterator[tuple[str, str | None]]:
        """Sentences, each with what its further lines begin with, and tables with None."""
        now = self.numbers
        yield one_line(
            f"{self.family}: {now.layers} layers, {now.experts} experts, top-{now.top_k};"
            f" {display.count(now.parameters)} parameters, {display.count(now.active_parameters)}"
            " active"
        ), "  "  # fmt: skip
        yield "", ""
        yield display.text([*self._rows()]), None
        for target in self.targets:
            if target.refused:
                yield one_line(f"{target.name} is refused: {target.refused}"), "  "
            for warning in target.warnings:
                yield f"{target.name}: {warning}", "  "
        yield from (("", ""), ("made by", ""))
        for target in self.targets:
            if target.numbers and target.command:
                yield f"- {target.name}: {target.command}", "    "
                if target.instead:
                    yield one_line(f"  since {target.instead}"), "  "
        for topic in TOPICS:
            found = [sentence for sentence in self.sentences if sentence.topic == topic]
            if found:
                yield from (("", ""), (topic, ""))
            for sentence in found:
                yield one_line(f"- {sentence.says}"), "  "
                yield one_line(f"  [{sentence.source}]"), "   "
                if sentence.limits:
                    yield one_line(f"  but: {sentence.limits}"), "  "

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield (
            "target", "layers", "experts", "top-k", "parameters", "active", "size", "train on",
        )  # fmt: skip
        for target in self.targets:
            if now := target.numbers:
                tokens = "-" if target.tokens is None else f"{display.count(target.tokens)} tokens"
                yield (
                    target.name, str(now.layers), str(now.experts), str(now.top_k),
                    display.count(now.parameters), display.count(now.active_parameters),
                    display.size(now.nbytes), tokens,
                )  # fmt: skip


def parse_tokens(text: str) -> int:
    """A number of tokens as people write it.

    >>> parse_tokens("600B"), parse_tokens("1.2T"), parse_tokens("3e9")
    (600000000000, 1200000000000, 3000000000)
    """
    found = _TOKENS.fullmatch(text.strip())
    number = round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not 0 < number < 10**18:
        raise UsageError(
            Parameter("tokens", text) + " is no number of tokens", "such as 600B, or 1.2T"
        )
    return number


def advise(opened: Opened, *, tokens: int | None = None, profile: Profile | None = None) -> Advice:
    """What is published that bears on the checkpoint; from its config and headers alone.

    `tokens` is on how many it was trained, and `profile` the norms of its layers, where known.
    """
    layout = opened.layout
    now = model_size.grown_numbers(opened.plan, layout)
    active = now.active_parameters
    boundary = 120 * active**2
    sunk = None if tokens is None else 6 * active * tokens
    ratio = None if sunk is None else sunk / boundary
    shape = None if profile is None else shape_of(profile)
    stands = [] if ratio is None else ["tokens", "above" if ratio >= 1 else "below"]
    values = {
        "active": display.count(active), "boundary": _power(boundary),
        "boundary_tokens": display.count(20 * active), "tokens": display.count(tokens or 0),
        "sunk": _power(sunk or 0), "ratio": f"{ratio or 0:.3g}", "layers": now.layers,
        "experts": now.experts, "new_experts": 2 * now.experts, "top_k": now.top_k,
        "new_top_k": 2 * now.top_k, "nonfinite": sum(profile.nonfinite.values()) if profile else 0,
        **_spelled(layout), **(shape or {}),
    }  # fmt: skip
    if profile is not None:
        stands += _looked(profile, shape)
    return Advice(
        source=layout.checkpoint.location,
        family=layout.family.name,
        numbers=now,
        tokens=tokens,
        boundary=boundary,
        boundary_tokens=20 * active,
        sunk=sunk,
        ratio=ratio,
        targets=tuple(targets(opened, now, sunk, stack=ratio is not None and ratio < 1)),
        sentences=tuple(_sentences({*stands, *_facts(opened, now)}, values)),
    )


def _looked(profile: Profile, shape: Mapping[str, Any] | None) -> Iterator[str]:
    """What the norms of a checkpoint say of it, in the words that evidence.toml uses."""
    yield "looked at"
    if profile.nonfinite:
        yield "nonfinite"
    if shape:
        yield "profile"
        if shape["seam"]:
            yield "steps"
        if shape["copies"]:
            yield "copies"


def shape_of(profile: Profile) -> Mapping[str, Any] | None:
    """What a profile of experts' norms looks like, as text; None where it has fewer than 3 layers.

    `rank` is Spearman's correlation of layer and norm without a tenth of the layers at either end;
    `seam` is the step from the last layer to the first ÷ the usual step between neighbours, or ""
    where all are equal, and `copies` whether most neighbours are.
    """
    norms = [norm for norm in profile.norms.get("experts", ()) if norm is not None]
    if len(norms) < 3:
        return None
    edge = len(norms) // 10
    inner = norms[edge : len(norms) - edge]
    usual = usual_step(tuple(norms))
    equal = sum(a == b for a, b in pairwise(norms))
    rank = 0.0
    if len(set(inner)) > 1:
        ranks = [sum((a < b) + (a == b) / 2 for a in inner) for b in inner]
        rank = correlation(range(len(inner)), ranks)
    return {
        "first": f"{norms[0]:.4g}", "middle": f"{norms[len(norms) // 2]:.4g}",
        "last": f"{norms[-1]:.4g}", "rank": f"{rank:+.2f}",
        "seam": f"{abs(norms[0] - norms[-1]) / usual:.2g}" if usual else "",
        "copies": 2 * equal >= len(norms) - 1,
    }  # fmt: skip


def _power(number: int) -> str:
    """A number of FLOPs for people.

    >>> _power(120 * 3_300_000_000**2)
    '1.31e+21'
    """
    return f"{number:.3g}"


def _facts(opened: Opened, now: ModelSize) -> Iterator[str]:
    """What holds of a checkpoint, in the words that evidence.toml uses."""
    layout = opened.layout
    dtypes = {spec.dtype for spec in layout.checkpoint.tensors.values()}
    if now.layers > 4:
        yield "has a middle"
    yield "refuses width" if layout.family.router.refuses_width else "widens"
    if _spelled(layout)["auxiliary"]:
        yield "auxiliary loss"
    if any(place.role == "balance_bias" for place in layout.places.values()):
        yield "balancing bias"
    if layout.prediction_layers:
        yield "prediction layers"
    experts = {spec.dtype for spec, _ in layout.expert_tensors()}
    if "BF16" in experts:
        yield "bf16"
    if (
        experts - set(PLAIN)
        or layout.facts.names_quantisation
        or any(dtype.startswith("F8") for dtype in dtypes)
    ):
        yield "quantised"


def _spelled(layout: Layout) -> Mapping[str, Any]:
    """What only some checkpoints have, for the sentences about it."""
    key, found = layout.facts.auxiliary_loss
    return {
        "refuses_width": layout.family.router.refuses_width,
        "auxiliary_key": key,
        "auxiliary": found,
        "auxiliary_halved": f"{found / 2:g}",
    }


def _sentences(facts: set[str], values: Mapping[str, Any]) -> Iterator[Sentence]:
    for entry in evidence():
        if facts.issuperset(entry.when) and facts.isdisjoint(entry.unless):
            yield Sentence(entry.topic, entry.says.format_map(values), entry.source, entry.limits)


@cache
def evidence() -> tuple[Evidence, ...]:
    """The sentences of evidence.toml, in the order in which they stand there."""
    return typed_toml.load("moegrow.analysis", "evidence.toml", _File).sentence
