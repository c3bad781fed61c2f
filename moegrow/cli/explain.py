"""Sentences for --verbose: what is done, and why."""

from collections.abc import Iterator, Mapping
from typing import Any

from moegrow import display, maps
from moegrow.analysis.diff import config_changes
from moegrow.families import registry
from moegrow.families.layout import Layout
from moegrow.files import json_edit
from moegrow.planning.plan import Plan
from moegrow.write import schedule
from moegrow.write.shards import Shard

MOST_FILES = 20


def source_sentences(layout: Layout, *, own_family: bool) -> Iterator[str]:
    """How a source was read: by which family, and which of its layers have experts."""
    family, checkpoint = layout.family, layout.checkpoint
    home = "the file given with --family" if own_family else registry.home(family.name)
    yield f"family: {home}, because config.json says model_type {family.name!r}"
    if layout.nested:
        yield f"config: the language model's part is under {'.'.join(layout.nested)}"
    moe = sorted(layout.moe_layers)
    named = " or ".join(family.tensors.experts)
    which = "all" if len(moe) == layout.layers else maps.spell(moe)
    yield f"layers: {which} of {layout.layers} have experts, whose tensors are named {named}"
    if layout.prediction_layers:
        yield f"layers: {layout.prediction_layers} more behind the last are for prediction"
    scores = layout.facts.router.scores
    yield f"router: {scores}, top-{layout.top_k} of {layout.experts} experts"
    yield (
        f"source: {len(checkpoint.tensors)} tensors in {len(checkpoint.files)} files,"
        f" {display.size(checkpoint.nbytes)}; {len(checkpoint.side_files)} other files come along"
    )


def growth_sentences(plan: Plan, layout: Layout) -> Iterator[str]:
    """Which keys of the config change, and why."""
    old = layout.checkpoint.config
    new = json_edit.loads(plan.config, "config", infinities=True)
    why = _reasons(plan, layout)
    changed = False
    for key, before, after in config_changes(old, new):
        reason = why.get(key.split(".")[-1]) or why.get(key) or "what the grown router needs"
        yield f"config: {key} {_short(before)} -> {_short(after)}: {reason}"
        changed = True
    if not changed:
        yield "config: nothing changes"


def writing_sentences(files: tuple[Shard, ...], layout: Layout) -> Iterator[str]:
    """Which files there will be, and how much of them is copied and computed."""
    moves = schedule.moves(files, layout.checkpoint)
    copied = sum(copy.stop - copy.start for copy in moves.copies)
    changed = sum(change.stop - change.start for change in moves.changes)
    made = sum(whole.nbytes for whole in moves.wholes)
    for file in files[:MOST_FILES]:
        where = (
            "anywhere" if file.residue is None else "as in the source, so that blocks are shared"
        )
        size = display.size(file.nbytes)
        yield f"file: {file.name}, {len(file.outputs)} tensors, {size}, laid {where}"
    if len(files) > MOST_FILES:
        yield f"file: and {len(files) - MOST_FILES} more"
    yield (
        f"bytes: {display.size(copied)} stay as they are, NaN and infinity too, in"
        f" {len(moves.copies)} stretches to share or copy; {display.size(changed)} are computed,"
        f" {display.size(made)} made anew"
    )


def _reasons(plan: Plan, layout: Layout) -> Mapping[str, str]:
    """Why a key of the config changes, by the last part of its name."""
    keys, router, growth = layout.family.config, layout.family.router, plan.growth
    times = f"{len(growth.experts)} experts instead of {layout.experts}"
    found: dict[str, str] = {}
    for key, form in keys.per_layer.items():
        found[key.lstrip("/")] = (
            f"it speaks of layers one by one ({form.form}), as the layer map says"
        )
    found |= dict.fromkeys((*keys.layers, *keys.doubled_layers), "it counts the layers")
    found |= dict.fromkeys(keys.experts, "it counts the experts")
    found |= dict.fromkeys(keys.top_k, "it counts the experts that a token goes to")
    if router.groups:
        grouped = f"groups of experts are copied as wholes, for {times}"
        found |= dict.fromkeys((router.groups.count, router.groups.kept), grouped)
    if router.scaling:
        found[router.scaling.key] = f"weights of the router grow, for {times}"
    if router.extra:
        found[router.extra] = f"what stands behind the experts is copied with them, for {times}"
    for other, name in keys.spellings.items():
        found.setdefault(other, found.get(name, ""))
    return {key.split(".")[-1]: reason for key, reason in found.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
