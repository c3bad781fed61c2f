"""Read the quantisation configs of a checkpoint, in config.json and in side files."""

from typing import Any

from moegrow.dtypes import OPTIONS
from moegrow.errors import Parameter, raise_all
from moegrow.families.layout import Layout
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.model_config.module_names import ModuleNames


def grown_tables(layout: Layout, growth: Growth) -> dict[json_edit.Path, Any]:
    """The tables of config.json that change, so that names of layers or experts name their copies.

    Raises MoegrowError for a name that cannot be made to mean the copies and nothing else.
    """
    tables = layout.quantisation.in_config
    if not tables:
        return {}
    names = ModuleNames(layout, growth)
    changes = {path: names.rewritten(table) for path, table in tables.items()}
    return {path: new for path, new in changes.items() if new != tables[path]}


def grown_files(layout: Layout, growth: Growth) -> dict[str, str]:
    """The files beside config.json that change, as texts; raises as `grown_tables` does."""
    tables = layout.quantisation.beside
    if not tables:
        return {}
    names = ModuleNames(layout, growth)
    found = {}
    for name, table in tables.items():
        new = names.rewritten(table)
        if new != table:
            found[name] = json_edit.replace(
                layout.quantisation.texts_beside[name],
                {(key,): value for key, value in new.items() if value != table.get(key)},
            )
    return found


def check_claims(layout: Layout) -> None:
    """Raise MoegrowError where config.json says of the weights' quantisation what is not so.

    It would be copied, and those who load the result would fail or compute something else.
    """
    raise_all(
        "quantization_config in config.json does not fit the weights",
        layout.quantisation.problems,
        "add " + Parameter("dtype", _plain_dtype(layout)) + ", which writes plain weights and no"
        " quantization_config; or correct that entry in config.json, or remove it",
    )


def _plain_dtype(layout: Layout) -> str:
    """The `dtype` that leaves plain weights as they are: bf16 where in doubt."""
    stored = {spec.dtype for spec in layout.checkpoint.tensors.values() if len(spec.shape) > 1}
    names = {dtype: name for name, dtype in OPTIONS.items()}
    return names.get(stored.pop(), "bf16") if len(stored) == 1 else "bf16"
