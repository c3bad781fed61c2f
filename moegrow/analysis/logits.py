"""Compare the logits of a result and its source, and find the first layer that differs."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from moegrow.analysis import run_layerwise
from moegrow.analysis.model_inputs import batch_for, run_source
from moegrow.analysis.model_weights import Progress, library
from moegrow.analysis.run_layerwise import ModelOutputs
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import Access
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.families.read_layout import read_layout
from moegrow.files.untrusted import exists_inside
from moegrow.maps import NULL
from moegrow.planning.check import check_source
from moegrow.planning.op import decoding_of
from moegrow.planning.plan import Output, Plan
from moegrow.planning.plan_file import read_plan
from moegrow.planning.router import compensate
from moegrow.quant.decoding import EXACT

if TYPE_CHECKING:
    from torch import Tensor

# In units of the deviation of the source's logits. Sums over more terms are rounded otherwise; the
# families that amplify that most stay below 3e-4 in the tests.
TOLERANCE = 1e-3


class Cause(StrEnum):
    """A cause for other logits beside those that a wider router has."""

    EDITED = "the plan was edited"
    LAYERS = "repeated layers are copies that compute, or layers are left out"
    NOISE = "copies of experts have noise"
    ROUNDED = "weights are rounded to another dtype"


@dataclass(frozen=True)
class Parting:
    """How far the states behind the layers made from one old layer are from that layer's.

    `differences` has, for each of the `new` layers, the root mean square of the difference, in
    units of that of the old layer's state.
    """

    old: int
    new: tuple[int, ...]
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Together:
    """How often a copy is chosen with its original, of the times that either is, in one layer."""

    layer: int
    share: float


@dataclass(frozen=True)
class Compared:
    """What was found: differences of logits in units of the deviation of the source's.

    Of a model without a head, its last states are compared in place of logits; `has_head` is false,
    and `kl` and `agree` are None. `kl` is the mean of the divergence of the result's distribution
    from the source's, in nats, and `agree` the share of tokens behind which both have the same most
    likely one. `reasons` say why the logits need not be the same; where there are none, they must
    be, within TOLERANCE. `together` is None where the model does not show which experts it chooses.
    `alive` are the most bytes of weights held at once, of the source and of the result. `images`
    counts the images among the tokens, and `no_image` says why there is none although the model
    takes images.
    """

    tokens: int
    deviation: float
    largest: float
    mean: float
    kl: float | None
    agree: float | None
    reasons: tuple[str, ...]
    layers: tuple[Parting, ...]
    together: tuple[Together, ...] | None
    alive: tuple[int, int]
    images: int = 0
    no_image: str = ""
    has_head: bool = True

    @property
    def ok(self) -> bool:
        return bool(self.reasons) or self.largest <= TOLERANCE

    @property
    def parts_at(self) -> int | None:
        """The first new layer whose state is another than the old one's, if there is one."""
        parted = [
            new
            for layer in self.layers
            for new, difference in zip(layer.new, layer.differences, strict=True)
            if difference > TOLERANCE
        ]
        return min(parted, default=None)


def compare_logits(
    grown: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    prompts: Sequence[str] = (),
    *,
    links_to: Sequence[str | os.PathLike[str]] = (),
    progress: Progress = lambda count: None,
) -> Compared:
    """Run the checkpoint in the folder `grown`, and its source, and compare what they compute.

    Both run on the CPU, one layer in memory at a time, in float32. They see the prompts, by the
    tokenizer in `grown`, or random tokens, always the same, and a drawn image where the model takes
    images. The source is where the plan in `grown` says, or where `source` says; `links_to` are
    folders into which its links may lead. `progress` is called with the bytes of weights that were
    read. Raises MoegrowError where the source is not here, or a model cannot be run.
    """
    library()
    folder = user_path(grown)
    if not exists_inside(folder, PLAN):
        raise MoegrowError(
            f"{folder} holds no {PLAN}", "verify takes a folder that moegrow has written"
        )
    plan = read_plan(folder / PLAN)
    return compare(
        plan,
        _source_layout(plan, source, Access(links_to=links_to)),
        read_layout(open_checkpoint(folder), family_text=plan.family_text),
        prompts,
        progress=progress,
    )


def _source_layout(plan: Plan, source: str | os.PathLike[str] | None, access: Access) -> Layout:
    """The layout of a plan's source, where the plan says it is or where `source` says."""
    place = plan.source.folder
    if source is None and (place is None or not place.exists()):
        where = "far away" if place is None else "gone"
        raise MoegrowError(
            Parameter("compare_logits")
            + f" runs the source too, and {plan.source.path} is {where}",
            Parameter("source") + " names a folder that has it",
        )
    checkpoint = open_checkpoint(plan.source.location if source is None else source, access)
    check_source(plan, checkpoint)
    return read_layout(checkpoint, family_text=plan.family_text)


def compare(
    plan: Plan,
    source: Layout,
    grown: Layout,
    prompts: Sequence[str] = (),
    *,
    progress: Progress = lambda count: None,
) -> Compared:
    """As `compare_logits`, of checkpoints that are open."""
    reasons = why_another(plan, source)
    batch, before = run_source(batch_for(source, grown, prompts), source, progress)
    after = run_layerwise.run_layers(grown, batch.padded, progress, batch.arguments)
    if before.logits.shape != after.logits.shape:
        old, new = list(before.logits.shape), list(after.logits.shape)
        raise MoegrowError(f"the source has logits of shape {old}, and the result of {new}")
    counts = batch.counts
    a, b = before.logits[counts], after.logits[counts]
    deviation = float(a.std()) or 1.0
    differences = (a - b).abs() / deviation
    return Compared(
        tokens=int(counts.sum()),
        deviation=deviation,
        largest=float(differences.max()),
        mean=float(differences.mean()),
        kl=_divergence(a, b) if before.has_head else None,
        agree=float((a.argmax(-1) == b.argmax(-1)).float().mean()) if before.has_head else None,
        reasons=reasons,
        layers=_partings(plan, before, after, counts),
        together=_together(plan, after.chosen, counts),
        alive=(before.alive, after.alive),
        images=int(batch.image is not None),
        no_image=batch.no_image,
        has_head=before.has_head,
    )


def why_another(plan: Plan, layout: Layout) -> tuple[str, ...]:
    """Why the result of a plan need not compute what its source computes; nothing if it must."""
    growth, reasons = plan.growth, []
    if plan.is_edited:
        reasons.append(Cause.EDITED)
    heard = tuple(
        old for old, silent in zip(growth.layers, growth.silent, strict=True) if not silent
    )
    if heard != tuple(range(layout.layers)):
        reasons.append(Cause.LAYERS)
    noises = {noise for noise in (*growth.weight_noise, *growth.router_noise) if noise}
    if any(noise.amount for noise in noises):
        reasons.append(Cause.NOISE)
    if any(_is_rounded(output) for output in plan.outputs):
        reasons.append(Cause.ROUNDED)
    return (*reasons, *map(str, compensate(layout, growth).losses))


def _is_rounded(output: Output) -> bool:
    """Whether numbers that are decoded do not all fit into what they are written as."""
    is_decoded = any(decoding_of(piece.op) not in (None, EXACT) for piece in output.pieces)
    return is_decoded and output.dtype in ("BF16", "F16")


def _divergence(a: "Tensor", b: "Tensor") -> float:
    """The mean over tokens of the divergence of softmax(b) from softmax(a), in nats."""
    total = 0.0
    for old, new in zip(a, b, strict=True):  # a vocabulary at a time, in double precision
        p, q = old.double().log_softmax(-1), new.double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
    return max(0.0, total / len(a))


def _partings(
    plan: Plan, before: ModelOutputs, after: ModelOutputs, counts: "Tensor"
) -> tuple[Parting, ...]:
    copies: dict[int, list[int]] = defaultdict(list)
    for layer, made_from in enumerate(plan.growth.layers):
        copies[made_from].append(layer)
    found = []
    for old, new in sorted(copies.items()):
        state = before.states[old][counts].double()
        size = float(state.square().mean().sqrt()) or 1.0
        differences = [after.states[copy][counts].double() - state for copy in new]
        shares = [float(difference.square().mean().sqrt()) / size for difference in differences]
        found.append(Parting(old, tuple(new), tuple(shares)))
    return tuple(found)


def _together(
    plan: Plan, chosen: Mapping[int, "Tensor"], counts: "Tensor"
) -> tuple[Together, ...] | None:
    """How often copies are chosen with their originals; nothing where no expert has copies."""
    import torch

    copies: dict[int, list[int]] = defaultdict(list)
    for new, old in enumerate(plan.growth.experts):
        if old != NULL:
            copies[old].append(new)
    pairs = [(first, copy) for first, *others in copies.values() for copy in others]
    if not pairs:
        return ()
    originals, others = (list(column) for column in zip(*pairs, strict=True))
    found = []
    for layer, experts in sorted(chosen.items()):
        if len(experts) != counts.numel():
            continue
        rows = experts[counts.flatten()].long()
        # Behind the experts' numbers may stand those of what else can be chosen.
        width = max(len(plan.growth.experts), int(rows.max()) + 1)
        is_chosen = torch.zeros(len(rows), width, dtype=torch.bool).scatter_(1, rows, True)
        original, copy = is_chosen[:, originals], is_chosen[:, others]
        either = int((original | copy).sum())
        if either:
            found.append(Together(layer, int((original & copy).sum()) / either))
    return tuple(found) or None
