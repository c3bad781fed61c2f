"""The formats of quantised weights: which tensors belong together, and how they are decoded."""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from moegrow.formats.decoding import Decoding, decoded_shape
from moegrow.source.checkpoint import Checkpoint
from moegrow.source.header import TensorSpec

PLAIN = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Format:
    """A way of storing a weight in several tensors; formats.toml says what the keys mean."""

    name: str
    codec: str
    dtypes: tuple[str, ...]
    scales: tuple[str, ...]
    values: str
    becomes: str
    companions: Mapping[str, str]
    others: tuple[str, ...] = ()
    method: str = ""
    transposed: bool = False


@dataclass(frozen=True)
class Weight:
    """A quantised weight of a checkpoint: its shape when it is plain, the tensor with its values
    and how they are decoded, and what else belongs to it.

    The name of the tensor ends in `ending`, in place of which the plain one's ends in `becomes`.
    `problem` says why it cannot be decoded, if it cannot; the shape is empty then.
    """

    format: str
    shape: tuple[int, ...]
    values: str
    ending: str
    becomes: str
    decoding: Decoding
    others: tuple[str, ...] = ()
    problem: str = ""

    @property
    def companions(self) -> tuple[str, ...]:
        """Every other tensor of it: of no use without it."""
        return (*(name for _, name in self.decoding.companions), *self.others)


@dataclass(frozen=True)
class Quantised:
    """What of a checkpoint is quantised: its weights by their tensors of values, and the tensors
    that look so and belong to no format that is known."""

    weights: Mapping[str, Weight] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def owners(self) -> Mapping[str, str]:
        """For every companion the tensor of values that it belongs to."""
        return {other: name for name, one in self.weights.items() for other in one.companions}


@cache
def formats() -> tuple[Format, ...]:
    """The formats of formats.toml, in their order."""
    text = files("moegrow.formats").joinpath("formats.toml").read_text("utf-8")
    tables: list[dict[str, Any]] = tomllib.loads(text)["format"]
    for table in tables:
        table |= {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return tuple(Format(**table) for table in tables)


def find_quantised(checkpoint: Checkpoint, told: Iterable[Mapping[str, Any]]) -> Quantised:
    """The quantised weights of a checkpoint, from its headers, and what the config has `told`."""
    config = list(told)
    method = next((str(table.get("quant_method", "")) for table in config), "")
    tensors = checkpoint.tensors
    found: dict[str, Weight] = {}
    taken: set[str] = set()
    stems: dict[str, list[str]] = {}
    for form in formats():
        if form.method and form.method != method:
            continue
        end = form.companions["scale"]
        if end not in stems:
            stems[end] = [name.removesuffix(end) for name in tensors if name.endswith(end)]
        maker = _Maker(form, tuple(_settings(form, config)), tensors)
        for stem in stems[end]:
            spec = tensors.get(stem + form.values)
            if spec is None or spec.name in found or spec.dtype not in form.dtypes:
                continue
            if tensors[stem + end].dtype not in form.scales:
                continue
            weight = maker.weight(stem, spec)
            if weight is None:
                continue
            found[spec.name] = weight
            taken.update((spec.name, *weight.companions))
    unknown = sorted(
        spec.name
        for spec in tensors.values()
        if spec.name not in taken and _looks_quantised(spec, tensors, is_told=bool(config))
    )
    return Quantised(found, tuple(unknown))


class _Maker:
    """Puts weights of one format together; most are of few shapes, which are looked at once."""

    def __init__(
        self, form: Format, settings: tuple[tuple[str, int], ...], tensors: Mapping[str, TensorSpec]
    ) -> None:
        self._form, self._settings, self._tensors = form, settings, tensors
        self._shapes: dict[Any, tuple[int, ...]] = {}

    def weight(self, stem: str, spec: TensorSpec) -> Weight | None:
        """The weight whose tensors begin with `stem`, or None where not all of them are there."""
        form, tensors = self._form, self._tensors
        companions = []
        for role, ending in form.companions.items():
            other = stem + ending.removesuffix("?")
            if other in tensors:
                companions.append((role, other))
            elif not ending.endswith("?"):
                return None
        decoding = Decoding(form.codec, tuple(companions), self._settings)
        shape: tuple[int, ...] = ()
        problem = ""
        try:
            shape = self._shape(spec, decoding)
        except ValueError as error:
            problem = str(error)
        others = tuple(stem + ending for ending in form.others if stem + ending in tensors)
        return Weight(
            form.name, shape, spec.name, form.values, form.becomes, decoding, others, problem
        )

    def _shape(self, spec: TensorSpec, decoding: Decoding) -> tuple[int, ...]:
        parts = [(role, *self._tensors[name][2:4]) for role, name in decoding.companions]
        kind = (*spec[2:4], *parts)
        if kind not in self._shapes:
            self._shapes[kind] = decoded_shape(spec, decoding, self._tensors)
        return self._shapes[kind]


def _settings(form: Format, config: list[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """What the names and shapes of a weight do not say: from the config, by the keys it has."""
    if form.transposed:
        yield "transposed", 1
    if form.codec == "scaled":
        block = next(filter(None, (_block(table) for table in config)), None)
        if block:
            yield from zip(("block_rows", "block_columns"), block, strict=True)
    if form.codec in ("packed", "gptq", "awq"):
        # Where the config says several numbers, or none, no codec knows 0.
        bits = {number for table in config for number in _bits(table)}
        yield "bits", bits.pop() if len(bits) == 1 else 0
    if form.codec == "gptq":
        is_new = any(table.get("checkpoint_format") == "gptq_v2" for table in config)
        yield "zero_shift", 0 if is_new else 1


def _block(table: Mapping[str, Any]) -> list[int] | None:
    """The size of the blocks that have a scale each, where the config says one."""
    groups = table.get("config_groups")
    schemes = groups.values() if isinstance(groups, Mapping) else ()
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, Mapping)]
    told = [table.get("weight_block_size")]
    told += [one.get("block_structure") for one in weights if isinstance(one, Mapping)]
    for block in told:
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            return block
    return None


def _bits(table: Mapping[str, Any]) -> Iterator[int]:
    """The bits of an integer weight, by the config's groups or at its root."""
    groups = table.get("config_groups")
    schemes = groups.values() if isinstance(groups, Mapping) else [{"weights": table}]
    for scheme in schemes:
        weights = scheme.get("weights") if isinstance(scheme, Mapping) else None
        if not isinstance(weights, Mapping) or weights.get("type", "int") != "int":
            continue
        for key in ("num_bits", "bits", "w_bit"):
            if type(weights.get(key)) is int:
                yield weights[key]
                break


def _looks_quantised(spec: TensorSpec, tensors: Mapping[str, TensorSpec], *, is_told: bool) -> bool:
    """Whether a tensor of no known format may hold a weight that is quantised.

    Small floats always may, and numbers and bytes do where a config speaks of quantisation.
    """
    if spec.dtype in PLAIN or math.prod(spec.shape) == 0:
        return False
    if spec.dtype.startswith("F"):
        return is_told or _has_companions(spec.name, tensors)
    return is_told and spec.dtype != "BOOL" and len(spec.shape) > 1


def _has_companions(name: str, tensors: Mapping[str, TensorSpec]) -> bool:
    return any(f"{name}{end}" in tensors for end in ("_scale", "_scale_inv", "_scales"))
