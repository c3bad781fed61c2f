"""Check the MoE blocks: every tensor has a role, and as many rows as there are experts."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import PLAIN
from moegrow.families.layout import Layout, Tensor, is_of_all
from moegrow.families.name_variants import module
from moegrow.families.schema import Family
from moegrow.families.tensor_names import TensorRole, stray_expert

# Tensors of a MoE block that have one row, or one block of rows, per expert.
PER_EXPERT = ("router", "router_bias", "balance_bias", "experts")


def block_problems(layout: Layout) -> Iterator[str]:
    """What is unclassified, missing or of the wrong size in the MoE blocks."""
    for stack, layers in layout.stacks.items():
        for layer, tensors in layers.items():
            roles = {place.role for _, place in tensors}
            if "experts" not in roles:
                continue
            yield from _layer_problems(layout, f"{stack}{layer}", tensors)
            if "router" not in roles:
                yield f"{stack}{layer} has experts and no router"


def _layer_problems(layout: Layout, layer: str, tensors: list[Tensor]) -> Iterator[str]:
    # For each kind of matrix that belongs to one expert, the experts that have it.
    owners: dict[tuple[str, str], set[int]] = defaultdict(set)
    yield from _odd_problems(tensors)
    for spec, place in tensors:
        if not place.role:
            if place.in_block:
                yield (
                    f"{spec.name} {list(spec.shape)} is in a MoE block, and the family does not"
                    " say what it is"
                )
        elif place.expert is not None:
            owners[place.before, place.after].add(place.expert)
        elif place.role in PER_EXPERT:
            yield from _row_problems(layout, spec, place)
    for (before, after), present in owners.items():
        yield from _expert_problems(layout, f"{layer}{before}", present, after)


def _odd_problems(tensors: list[Tensor]) -> Iterator[str]:
    """Tensors that no expert is known to have: noise on them could mean anything.

    What stands beside codes belongs to a format of quantised weights that is not known here.
    """
    odd = [(spec, place) for spec, place in tensors if place.is_odd and spec.dtype in PLAIN]
    if odd:
        coded = {module(place.suffix) for spec, place in tensors if spec.dtype not in PLAIN}
        for spec, place in odd:
            if module(place.suffix) not in coded:
                yield (
                    f"{spec.name} {list(spec.shape)} stands where experts are, and is neither a"
                    " weight nor a part of one that is known"
                )


def _row_problems(layout: Layout, spec: TensorSpec, place: TensorRole) -> Iterator[str]:
    """A tensor with a row per expert must have as many as there are experts."""
    rows = spec.shape[place.axis] if len(spec.shape) > place.axis else 0
    fits = rows in (layout.experts, layout.router_rows)
    if layout.family.router.kind == "grid" and place.role == "router":
        fits = rows == 2 * math.isqrt(layout.experts)
    elif place.is_stacked:
        fits = rows > 0 and rows % layout.experts == 0
    if is_of_all(spec, place):
        fits = True
    if not fits:
        what = "columns" if place.axis else "rows"
        yield f"{spec.name} has {rows} {what} for {layout.experts} experts"


def _expert_problems(layout: Layout, before: str, present: set[int], after: str) -> Iterator[str]:
    """Where the experts that have a matrix are not all that there are; `before` and `after`
    stand around their numbers in its name."""
    count = layout.experts * layout.family.router.lists
    if len(present) == max(present) + 1 and len(present) in (count, layout.router_rows):
        return
    missing = next((expert for expert in range(count) if expert not in present), None)
    extra = min((expert for expert in present if expert >= count), default=None)
    if missing is not None:
        yield f"{before}{missing}{after} is missing"
    if extra is not None:
        yield f"{before}{extra}{after} is beyond the {count} experts of the config"


def packed_problems(layout: Layout) -> Iterator[str]:
    """A table of all layers side by side must have room for each, all of the same size."""
    for name, axis in layout.family.tensors.packed.items():
        spec = layout.checkpoint.tensors.get(name)
        if spec and (axis >= len(spec.shape) or spec.shape[axis] % layout.layers):
            yield f"{name} {list(spec.shape)} has no {layout.layers} equal parts along axis {axis}"


def stray_problems(family: Family, found: Mapping[str, TensorRole | None]) -> Iterator[str]:
    """Experts in a place that the family does not know would keep their old number."""
    is_stray = stray_expert(family)
    for name, place in found.items():
        if place is None and is_stray(name):
            yield f"{name} looks like an expert and stands outside all layers"
        elif place and not place.role and not place.in_block and is_stray(name):
            yield f"{name} looks like an expert and is deeper in its layer than experts are"
