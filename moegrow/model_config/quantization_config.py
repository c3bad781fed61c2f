"""What a checkpoint says of its quantisation, in its config and in files beside it, as it grows."""

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

from moegrow.checkpoint.checkpoint import LARGEST_CONFIG, QUANT_FILES
from moegrow.checkpoint.store import read_whole
from moegrow.errors import raise_all
from moegrow.families.layout import Layout
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.model_config.module_names import ModuleNames
from moegrow.quant import claims
from moegrow.quant.detect import find_quantised
from moegrow.quant.formats import Quantised

# Where it stands in a config: under one of these keys, at the root or in the language model's part.
KEYS = ("quantization_config", "compression_config")


class QuantConfig:
    """Every place where a checkpoint speaks of its quantisation, by the path that leads there."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @cached_property
    def in_config(self) -> Mapping[json_edit.Path, Any]:
        """The tables in config.json; the first is what loaders read."""
        root = self._layout.checkpoint.config
        places: list[tuple[json_edit.Path, Any]] = [((), root)]
        if self._layout.nested:
            inner: Any = root
            for key in self._layout.nested:
                inner = inner[key]
            places.append((self._layout.nested, inner))
        return {
            (*path, key): table[key]
            for path, table in places
            for key in KEYS
            if isinstance(table.get(key), dict)
        }

    @cached_property
    def beside(self) -> Mapping[str, str]:
        """The texts of the files beside it."""
        checkpoint = self._layout.checkpoint
        return {
            name: read_whole(checkpoint.store, name, LARGEST_CONFIG).decode("utf-8", "replace")
            for name in QUANT_FILES
            if name in checkpoint.side_files
        }

    @cached_property
    def _tables(self) -> Mapping[str, dict[str, Any]]:
        """What is in these texts."""
        return {
            name: json_edit.loads(text, name, is_shallow=True) for name, text in self.beside.items()
        }

    @cached_property
    def told(self) -> list[Mapping[str, Any]]:
        """What is said of how weights are quantised: in the config, or where it says nothing, in
        the files beside it."""
        if self.in_config:
            return list(self.in_config.values())
        found: list[Mapping[str, Any]] = []
        for name, table in self._tables.items():
            inner = table.get("quantization")
            says = inner if isinstance(inner, dict) else table
            found.append({"quant_method": QUANT_FILES[name], **says})
        return found

    def grown(self, growth: Growth) -> dict[json_edit.Path, Any]:
        """What changes in config.json, so that what names layers or experts names their copies."""
        if not self.in_config:
            return {}
        names = ModuleNames(self._layout, growth)
        changes = {path: names.rewritten(table) for path, table in self.in_config.items()}
        return {path: new for path, new in changes.items() if new != self.in_config[path]}

    def grown_files(self, growth: Growth) -> dict[str, str]:
        """The files beside it that change, as texts."""
        if not self.beside:
            return {}
        names = ModuleNames(self._layout, growth)
        found = {}
        for name, text in self.beside.items():
            table = self._tables[name]
            new = names.rewritten(table)
            if new != table:
                found[name] = json_edit.replace(
                    text, {(key,): value for key, value in new.items() if value != table.get(key)}
                )
        return found


@lru_cache(maxsize=2)  # of a growth of several steps, the same source is asked for at each
def check_claims(layout: Layout) -> None:
    """Raise MoegrowError where config.json says of the weights' quantisation what is not so.

    It would be copied, and those who load the result would fail or compute something else.
    """
    told = list(QuantConfig(layout).in_config.values())[:1]
    raise_all(
        "quantization_config in config.json does not fit the weights",
        [
            problem
            for one in told
            for problem in claims.problems(layout.checkpoint, one, quantised_in(layout))
        ],
        f"add --dtype {_plain_dtype(layout)}, which writes plain weights and no"
        " quantization_config; or correct that entry in config.json, or remove it",
    )


def _plain_dtype(layout: Layout) -> str:
    """What --dtype is to be for weights that are plain to stay as they are: bf16 where in doubt."""
    stored = {spec.dtype for spec in layout.checkpoint.tensors.values() if len(spec.shape) > 1}
    names = {"F16": "fp16", "F32": "fp32"}
    return names.get(stored.pop(), "bf16") if len(stored) == 1 else "bf16"


def facts(layout: Layout) -> Iterator[str]:
    """What a person should know of what is said of quantisation, as sentences."""
    quant = QuantConfig(layout)
    for told in quant.told[:1]:
        yield from claims.facts(told, quantised_in(layout), is_in_config=bool(quant.in_config))


@lru_cache(maxsize=2)
def quantised_in(layout: Layout) -> Quantised:
    """What of a checkpoint is quantised, by its headers and its config."""
    return find_quantised(layout.checkpoint, QuantConfig(layout).told)
