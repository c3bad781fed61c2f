"""Refuse or warn about checkpoints that may be of another architecture than their family."""

from collections.abc import Iterator

from moegrow.errors import MoegrowError, Parameter, one_line
from moegrow.families.layout import Layout
from moegrow.planning.plan import Plan


def check_class(plan: Plan, layout: Layout) -> None:
    """Raise MoegrowError where layers would be repeated of a class that nobody has tried.

    What a layer computes from its number shows neither in names nor in shapes. A family file of the
    user's own is taken at its word.
    """
    others = _others(plan, layout)
    if others:
        raise MoegrowError(
            f"config.json names the class {_told(others)}, and moegrow knows"
            f" {layout.family.name} by other classes: what its layers compute may depend on their"
            " numbers",
            f"if it computes what {layout.family.name} in transformers does, write that class under"
            ' "architectures" in config.json; if it does not, describe it with '
            + Parameter("family", "FILE.toml")
            + " (docs/adding-a-family.md)",
        )


def class_warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence where the source is of a class that nobody has tried."""
    others = _others(plan, layout)
    if others and plan.steps:
        yield (
            f"config.json names the class {_told(others)}, and moegrow was tried with other"
            f" classes of {layout.family.name}: if its router computes something else, the function"
            " is not preserved; compare the logits of source and result with the model's own code"
        )


def key_warnings(plan: Plan, layout: Layout) -> Iterator[str]:
    """A sentence about keys that seem to speak of layers, and stay, where layers are mapped."""
    if plan.growth.layers == tuple(range(layout.layers)):
        return
    found = layout.facts.unnamed_keys(layout.layers)
    if found:
        told = _told([f"{key} {str(value)[:60]}" for key, value in found.items()])
        yield (
            f"config.json has keys that may speak of layers, that {layout.family.name} does not"
            f" name, and that stay as they are: {told}; if the model reads them, name them in a"
            " family file (docs/adding-a-family.md)"
        )


MOST = 6  # names in a sentence


def _told(names: list[str]) -> str:
    """Some names from a config, which may be long and many, for a sentence."""
    more = f" and {len(names) - MOST} more" if names[MOST:] else ""
    return ", ".join(one_line(name)[:120] for name in names[:MOST]) + more


def _others(plan: Plan, layout: Layout) -> list[str]:
    if plan.family_text and not layout.family.config.architectures:
        return []
    return layout.facts.other_classes
