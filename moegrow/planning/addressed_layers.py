"""Check layers that another part of the model addresses by number."""

from collections.abc import Iterator

from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.maps import Map, spell
from moegrow.planning.plan import Plan


def check_identity(layout: Layout, layer_map: Map) -> None:
    """Raise MoegrowError where a layer map with identity copies moves an addressed layer.

    Copies that begin as the identity promise that the model computes the same, and what the other
    part does with the layers of these numbers would then happen elsewhere.
    """
    count = _count(layout)
    if not count or _keeps(layer_map, count):
        return
    kept = spell(range(count))
    raise MoegrowError(
        f"layers {kept} of {layout.family.name} must stay the first {count} for identity copies to"
        f" change nothing: {_why(layout)}",
        "add "
        + Parameter("keep_first", count)
        + ", or begin "
        + Parameter("layers")
        + f" with {kept}"
        if count < layout.layers
        else "use " + Parameter("new_layers", "copy"),
    )


def warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence where a plan moves layers that another part of the model addresses."""
    count, growth = _count(layout), plan.growth
    if count and not (_keeps(growth.layers, count) and not any(growth.silent[:count])):
        kept = spell(range(count))
        yield (
            f"{_why(layout)}; the first {count} are no longer layers {kept} of the source:"
            f" --keep-first {count}, or --layers that begin with {kept}, leaves them in place"
        )


def _count(layout: Layout) -> int:
    """How many of the first layers are addressed by number."""
    return min(layout.facts.addressed_layers, layout.layers)


def _why(layout: Layout) -> str:
    addressed = layout.family.depth.addressed
    return addressed.why if addressed else ""


def _keeps(layer_map: Map, count: int) -> bool:
    return layer_map[:count] == tuple(range(count))
