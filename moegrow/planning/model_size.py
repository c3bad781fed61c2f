"""Count layers, experts, parameters and bytes, before and after a growth."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from moegrow import display, maps
from moegrow.checkpoint.header import nbytes
from moegrow.dtypes import WRITTEN
from moegrow.errors import one_line
from moegrow.families.layout import Layout, parameters
from moegrow.planning.op import decoding_of
from moegrow.planning.plan import AS_STORED, Output, Plan
from moegrow.quant.decoding import EXACT

Row = tuple[str, str, str]


@dataclass(frozen=True)
class ModelSize:
    """What a checkpoint amounts to. Parameters are elements of tensors, for a quantised weight of
    the plain one; active ones are those that one token meets: all but the routed experts that its
    top-k leaves out."""

    layers: int
    moe_layers: int
    experts: int
    top_k: int
    parameters: int
    active_parameters: int
    nbytes: int

    def table(self) -> dict[str, int]:
        return asdict(self)


def numbers(layout: Layout) -> ModelSize:
    """The numbers of a checkpoint as it is."""
    counts = layout.quantisation.parameters
    plain = [spec.shape for name, spec in layout.checkpoint.tensors.items() if name not in counts]
    total = sum(counts.values()) + parameters(plain)
    routed = sum(layout.routed_parameters.values())
    return ModelSize(
        layout.layers, len(layout.moe_layers), layout.experts, layout.top_k, total,
        _active(total, routed, layout.top_k, layout.experts), layout.checkpoint.nbytes,
    )  # fmt: skip


def grown_numbers(plan: Plan, layout: Layout) -> ModelSize:
    """The numbers of what a plan makes of its source, whose layout is `layout`."""
    growth, counts = plan.growth, layout.quantisation.parameters
    routed = layout.routed_parameters
    times = Fraction(len(growth.experts), layout.experts)  # every expert is of the same size
    # Layers that are not mapped, such as prediction layers, stay with their experts widened.
    kept = sum(count for layer, count in routed.items() if layer is None)
    new_routed = int((sum(routed.get(layer, 0) for layer in growth.layers) + kept) * times)
    if plan.storage != AS_STORED:
        # What is decoded has other sizes than what is stored.
        new_routed = sum(
            _made(output, layout, counts)
            for output in plan.outputs
            if output.pieces and _is_routed(layout, output.pieces[0].source)
        )
    if counts:
        total = sum(_made(output, layout, counts) for output in plan.outputs)
    else:
        total = sum(count * math.prod(shape) for (_, shape), count in plan.shapes.items())
    return ModelSize(
        layers=len(growth.layers),
        moe_layers=sum(layer in layout.moe_layers for layer in growth.layers),
        experts=len(growth.experts),
        top_k=growth.top_k,
        parameters=total,
        active_parameters=_active(total, new_routed, growth.top_k, len(growth.experts)),
        nbytes=plan.nbytes,
    )


def _is_routed(layout: Layout, name: str) -> bool:
    place = layout.places.get(name)
    return place is not None and place.role == "experts"


# Parameters of each tensor of a quantised weight (`Quantisation.parameters`).
Counts = Mapping[str, int]


def _made(output: Output, layout: Layout, counts: Counts) -> int:
    """The parameters of an output, some rows of a tensor or several times all of them."""
    _, _, shape, pieces, _ = output
    source = pieces[0].source if pieces else ""
    count = counts.get(source)
    if count is None or not _stays_quantised(output):
        return math.prod(shape)
    stored = layout.checkpoint.tensors[source].shape
    return count if shape == stored else count * math.prod(shape) // max(math.prod(stored), 1)


def shared_parameters(layout: Layout) -> Counter[int]:
    """Parameters of shared experts, which every token meets, by layer."""
    shared: Counter[int] = Counter()
    counts = layout.quantisation.parameters
    for name, place in layout.places.items():
        if place.role == "shared" and not place.is_prediction:
            count = counts.get(name)
            shape = layout.checkpoint.tensors[name].shape
            shared[place.layer] += math.prod(shape) if count is None else count
    return shared


def dtypes(plan: Plan) -> Mapping[str, int]:
    """Bytes by dtype, the largest share first."""
    shares: Counter[str] = Counter()
    for (dtype, shape), count in plan.shapes.items():
        shares[dtype] += count * nbytes(dtype, shape)
    return dict(shares.most_common())


def _stays_quantised(output: Output) -> bool:
    """Whether what is made of a quantised tensor is stored as that was."""
    return output.dtype not in WRITTEN or decoding_of(output.pieces[0].op) in (None, EXACT)


def formats(plan: Plan, layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """How many weights of the result are quantised in each format that is known, and the bytes
    that each of these takes, companions included."""
    quantised = layout.quantised
    weights, owners = quantised.weights, quantised.owners
    found: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for output in plan.outputs if weights else ():
        _, dtype, shape, pieces, _ = output
        source = pieces[0].source if pieces else ""
        weight = weights.get(owners.get(source, source))
        if weight is not None and _stays_quantised(output):
            found[weight.format] += source == weight.values
            sizes[weight.format] += nbytes(dtype, shape)
    return dict(found.most_common()), {name: sizes[name] for name, _ in found.most_common()}


def _formats(found: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name} ({number} weights, {display.size(sizes[name])})" for name, number in found.items()
    )


def shared_experts(layout: Layout) -> int:
    """How many shared experts a layer has: as the config counts them, else one where there are any.

    A layer whose shared experts are joined in one tensor cannot be asked.
    """
    if not shared_parameters(layout):
        return 0
    counted = layout.facts.shared_experts
    return 1 if counted is None else counted


class Inspection(dict[str, Any]):
    """What a checkpoint is, by the keys that docs/json.md describes; it prints as a table."""

    def __str__(self) -> str:
        return "\n".join(f"{name:<11} {one_line(value)}" for name, value in self.rows())

    def __repr__(self) -> str:
        return f"Inspection({dict.__repr__(self)})"

    def _repr_html_(self) -> str:
        return display.html(self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """What `moegrow inspect` prints, as names and values."""
        layers, moe = self["layers"], self["moe_layers"]
        shared, experts = self["shared_parameters"], self["shared_experts"]
        which = "all" if len(moe) == layers else maps.spell(moe) or "none"
        stored = _formats(self["formats"], self["format_bytes"])
        each = (
            f"{experts} expert{'s' * (experts != 1)} per layer, {display.count(shared)} parameters"
        )
        rows = [
            ("family", self["family"]),
            ("layers", f"{layers}, with experts: {which}"),
            ("experts", f"{self['experts']}, top-{self['top_k']} by {self['router']}"),
            ("shared", each if shared else "none"),
            ("dtype", ", ".join(f"{k} {display.size(v)}" for k, v in self["dtypes"].items())),
            *([("format", stored)] if stored else []),
            ("parameters", display.count(self["parameters"])),
            ("active", display.count(self["active_parameters"])),
            ("size", f"{display.size(self['nbytes'])} in {self['tensors']} tensors"),
        ]
        if self["prediction_layers"]:
            rows.insert(2, ("prediction", f"{self['prediction_layers']} layers behind the last"))
        return rows + (_values(self["values"]) if "values" in self else [])


def _values(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for what is no finite number or the same throughout, in groups of tensors."""
    rows = []
    for kind in ("nan", "infinite"):
        total = sum(found[kind].values())
        rows.append((kind, f"{total} values in {_told(found[kind])}" if total else "no values"))
    for kind in ("constant", "empty"):
        rows.append((kind, _told(found[kind]) or "no tensors"))
    return rows


def _told(names: Iterable[str]) -> str:
    return ", ".join(f"{pattern} ({number})" for pattern, number in display.groups(sorted(names)))


def inspection(plan: Plan, layout: Layout) -> Inspection:
    """What a plan and the layout of its source say of the checkpoint that there is, or will be."""
    layers, shared = plan.growth.layers, shared_parameters(layout)
    weights, sizes = formats(plan, layout)
    return Inspection(
        {
            "source": layout.checkpoint.location,
            "family": layout.family.name,
            **grown_numbers(plan, layout).table(),
            "moe_layers": [new for new, old in enumerate(layers) if old in layout.moe_layers],
            "prediction_layers": layout.prediction_layers,
            "shared_experts": shared_experts(layout),
            "shared_parameters": sum(shared[old] for old in layers),
            "router": layout.facts.router.scores,
            "dtypes": dict(dtypes(plan)),
            "formats": weights,
            "format_bytes": sizes,
            "tensors": len(plan.outputs),
        }
    )


def comparison(before: ModelSize, after: ModelSize) -> list[Row]:
    """The rows of a table: what, before, after."""
    return [
        ("layers", str(before.layers), str(after.layers)),
        ("  with experts", str(before.moe_layers), str(after.moe_layers)),
        ("experts", str(before.experts), str(after.experts)),
        ("top-k", str(before.top_k), str(after.top_k)),
        ("parameters", display.count(before.parameters), display.count(after.parameters)),
        (
            "  active",
            display.count(before.active_parameters),
            display.count(after.active_parameters),
        ),
        ("size", display.size(before.nbytes), display.size(after.nbytes)),
    ]


def _active(total: int, routed: int, top_k: int, experts: int) -> int:
    return total - routed + routed * top_k // experts
