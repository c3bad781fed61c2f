"""Read the quantisation configs of a checkpoint, in config.json and in files beside it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moegrow.checkpoint.checkpoint import LARGEST_CONFIG, QUANT_FILES, Checkpoint
from moegrow.checkpoint.store import read_whole
from moegrow.files import json_edit
from moegrow.quant import claims
from moegrow.quant.detect import find_quantised
from moegrow.quant.formats import Quantised

# The keys of quantisation configs, at the root of a config or in the language model's part.
KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True, eq=False)
class Quantisation:
    """The quantisation configs of a checkpoint, and the weights that are quantised by them.

    `nested` are the keys of the language model's part of config.json. Files are read, and weights
    looked for, when they are first asked for.
    """

    checkpoint: Checkpoint
    nested: tuple[str, ...] = ()

    @cached_property
    def in_config(self) -> Mapping[json_edit.Path, Mapping[str, Any]]:
        """The tables in config.json, by their paths; loaders read the first."""
        root = self.checkpoint.config
        parts: list[tuple[json_edit.Path, Any]] = [((), root)]
        if self.nested:
            inner: Any = root
            for key in self.nested:
                inner = inner[key]
            parts.append((self.nested, inner))
        return {
            (*path, key): part[key]
            for path, part in parts
            for key in KEYS
            if isinstance(part.get(key), dict)
        }

    @cached_property
    def texts_beside(self) -> Mapping[str, str]:
        """The texts of the files beside config.json that hold a quantisation config, by name."""
        checkpoint = self.checkpoint
        return {
            name: read_whole(checkpoint.store, name, LARGEST_CONFIG).decode("utf-8", "replace")
            for name in QUANT_FILES
            if name in checkpoint.side_files
        }

    @cached_property
    def beside(self) -> Mapping[str, dict[str, Any]]:
        """The tables in the files beside config.json, by the names of the files."""
        return {
            name: json_edit.loads(text, name, is_shallow=True)
            for name, text in self.texts_beside.items()
        }

    @cached_property
    def configs(self) -> tuple[Mapping[str, Any], ...]:
        """The quantisation configs of config.json; where it has none, those of the files."""
        if self.in_config:
            return tuple(self.in_config.values())
        found: list[Mapping[str, Any]] = []
        for name, table in self.beside.items():
            inner = table.get("quantization")
            config = inner if isinstance(inner, dict) else table
            found.append({"quant_method": QUANT_FILES[name], **config})
        return tuple(found)

    @cached_property
    def quantised(self) -> Quantised:
        """The quantised weights, by the headers and the quantisation configs."""
        return find_quantised(self.checkpoint, self.configs)

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """Parameters of each tensor of a quantised weight: all of the weight's for the tensor with
        its values, and none for the others."""
        counts = dict.fromkeys(self.quantised.owners, 0)
        for name, weight in self.quantised.weights.items():
            counts[name] = math.prod(weight.shape or self.checkpoint.tensors[name].shape)
        return counts

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Where the first table in config.json does not fit the weights."""
        first = list(self.in_config.values())[:1]
        return tuple(
            problem
            for config in first
            for problem in claims.problems(self.checkpoint, config, self.quantised)
        )

    def facts(self) -> Iterator[str]:
        """Sentences about a quantisation config that does not fit, and harms no loader."""
        is_in_config = bool(self.in_config)
        for config in self.configs[:1]:
            yield from claims.facts(config, self.quantised, is_in_config=is_in_config)
