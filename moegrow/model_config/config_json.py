"""Write the new config.json: only the values that the maps change are replaced."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from moegrow.checkpoint.weight_files import NAMED_IN_CONFIG
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.families import per_layer
from moegrow.families.architecture import unnamed_lists
from moegrow.families.layout import Layout
from moegrow.families.model_facts import Stated
from moegrow.families.schema import Config, PerLayer, lookup
from moegrow.families.settings import present
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.model_config import quantization_config
from moegrow.model_config.indexers import indexer_types


def grown_config(
    layout: Layout, growth: Growth, settings: Mapping[str, Any], *, is_quantised: bool = True
) -> str:
    """The text of the new config.json; `settings` are what the width compensation sets.

    Without `is_quantised`, what it says of quantisation is left as it is, to be removed.

    Raises MoegrowError where the config cannot express the layer map.
    """
    keys = layout.family.config
    config = layout.layered.config
    unchanged = tuple(range(layout.layers)), tuple(range(layout.experts))
    unsaid = {} if (growth.layers, growth.experts) == unchanged else layout.family.router.unsaid
    changes: dict[str, Any] = dict(settings)
    layers = len(growth.layers)
    if growth.layers != tuple(range(layout.layers)):
        _check_lists(layout)
        changes |= dict.fromkeys(present(config, keys.layers), layers)
        changes |= dict.fromkeys(present(config, keys.doubled_layers), 2 * layers)
        for key, form in keys.per_layer.items():
            changes |= per_layer.grown(layout.layered, key, form, growth.layers)
        changes |= indexer_types(layout, growth)
    for spellings, value in ((keys.experts, len(growth.experts)), (keys.top_k, growth.top_k)):
        for key in present(config, spellings):
            value_before = lookup(config, key)
            # A list with an entry for each layer grows with the layers, any other stays as long.
            count = len(value_before) if isinstance(value_before, list) else 0
            count = layers if count == layout.layers else count
            changes[key] = [value] * count if count else value
    new = {
        path: value
        for key, value in changes.items()
        if value != lookup(config, key)
        for path in _paths(layout, key)
    }
    if growth.layers != tuple(range(layout.layers)):
        new |= _keys_around(layout, growth)
    # What the config on disk does not have, whatever a class of transformers has as its default.
    said = _tables(layout)[layout.nested]
    new |= {
        (*layout.nested, key): value
        for key, value in unsaid.items()
        if key not in changes and lookup(said, key) is None and lookup(config, key) in (None, value)
    }
    if is_quantised:
        new |= quantization_config.grown_tables(layout, growth)
    text = layout.checkpoint.config_text
    if NAMED_IN_CONFIG in layout.checkpoint.config:
        # The weights are written under the names that are taken where this says nothing.
        text = json_edit.remove(text, (NAMED_IN_CONFIG,))
    return json_edit.replace(text, new)


def _paths(layout: Layout, key: str) -> list[json_edit.Path]:
    """Where the config on disk has a key of the family file, or should have it.

    The tables around the language model's may say the same once more: a key that has the same value
    there is taken for the same thing.
    """
    if key.startswith("/"):
        return [tuple(key[1:].split("."))]
    tables = _tables(layout)
    on_disk = tables[layout.nested]
    names = layout.family.config.spellings.items()
    spellings = [key, *(name for name, stands_for in names if stands_for == key)]
    said = present(on_disk, spellings) or [key]
    return [
        (*path, *spelling.split("."))
        for path, table in tables.items()
        for spelling in said
        if table is on_disk or lookup(table, spelling) == lookup(on_disk, spelling) is not None
    ]


def _tables(layout: Layout) -> dict[json_edit.Path, Config]:
    """The table of the language model in the config on disk, and those around it, by path."""
    root, nested = layout.checkpoint.config, layout.nested
    paths = [nested[:depth] for depth in range(len(nested) + 1)]
    return {path: lookup(root, ".".join(path)) if path else root for path in paths}


def _keys_around(layout: Layout, growth: Growth) -> dict[json_edit.Path, Any]:
    """Changes to per-layer keys that only a table around the language model's has.

    A list there that does not have an entry for each layer is taken for another thing.
    """
    tables = _tables(layout)
    on_disk = tables.pop(layout.nested)
    found: dict[json_edit.Path, Any] = {}
    for path, table in tables.items():
        own = {key: value for key, value in table.items() if key not in on_disk}
        model = replace(layout.layered, config={**layout.layered.config, **own})
        for key, form in layout.family.config.per_layer.items():
            value = lookup(own, key)
            if value is None or (isinstance(value, list) and not _is_whole(value, form, layout)):
                continue
            for name, new in per_layer.grown(model, key, form, growth.layers).items():
                if lookup(own, name) not in (None, new):
                    found[*path, *name.split(".")] = new
    return found


def _is_whole(value: list[Any], form: PerLayer, layout: Layout) -> bool:
    """Whether a list can be about layers: it has an entry for each, or their numbers."""
    return form.form not in ("list", "owners") or len(value) == layout.layers


LARGEST_NUMBER = 1e300  # of a factor on the router's weights


def _check_lists(layout: Layout) -> None:
    """A list that is as long as the model is deep, and that nobody names, would go stale."""
    lengths = {layout.layers, layout.layers + layout.layered.predictions}
    raise_all(
        f"config.json has lists that {layout.family.name} does not describe, as long as there are"
        " layers",
        [
            f"{key} has {len(value)} entries for {layout.layers} layers"
            for key, value in unnamed_lists(layout.config, layout.family, lengths).items()
        ],
        "remove them if nothing reads them; or give a family file with "
        + Parameter("family", "FILE.toml")
        + " that says"
        ' form = "list" of them in config.per_layer, or lists them in config.not_per_layer'
        " (docs/adding-a-family.md)",
    )


def scaled(stated: Stated, scale: Fraction) -> dict[str, Any]:
    """The change that multiplies a number in the config by `scale`."""
    key, value = stated
    if not -LARGEST_NUMBER < value < LARGEST_NUMBER:
        raise MoegrowError(f"config.json: {key} is {value!r}, which cannot be multiplied")
    return {key: value * scale.numerator / scale.denominator}
