"""Detect quantised weights: which tensors belong together, and their codec."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import TensorSpec
from moegrow.dtypes import PLAIN
from moegrow.quant.decoding import Decoding
from moegrow.quant.find_codec import codec_class, find_codec
from moegrow.quant.formats import Format, Quantised, Weight, activations, formats
from moegrow.quant.scheme import Scheme, Schemes

if TYPE_CHECKING:
    from moegrow.quant.codec import Codec

Settings = tuple[tuple[str, int], ...]

MOST_LASTS = 1000  # last parts of names that are gone through in place of all names


def find_quantised(checkpoint: Checkpoint, told: Iterable[Mapping[str, Any]]) -> Quantised:
    """The quantised weights of a checkpoint, from its headers, and what the config has `told`."""
    schemes = Schemes(told)
    tensors = checkpoint.tensors
    found: dict[str, Weight] = {}
    taken: set[str] = set()
    stems: dict[str, list[str]] = {}
    lasts = {name[name.rfind(".") :] for name in tensors}
    for form in formats():
        if form.method and form.method != schemes.settings.get("quant_method"):
            continue
        end = form.companions["scale"]
        if end not in stems:
            names = tensors if _may_end(lasts, end) else ()
            stems[end] = [name.removesuffix(end) for name in names if name.endswith(end)]
        maker = _Maker(form, schemes, tensors, lasts)
        for stem in stems[end]:
            spec = tensors.get(stem + form.values)
            if spec is None or spec.name in found or spec.dtype not in form.dtypes:
                continue
            weight = maker.weight(stem, spec)
            if weight is None:
                continue
            found[spec.name] = weight
            taken.add(spec.name)
            taken.update([name for _, name in weight.decoding.companions], weight.others)
    others = [spec for spec in tensors.values() if spec.name not in taken]
    unknown = sorted(_unknown(others, tensors, is_told=schemes.is_told))
    is_quantised = schemes.is_told or bool(found)
    beside = tuple(spec.name for spec in others if is_quantised and _is_of_activations(spec))
    return Quantised(found, tuple(unknown), beside)


def _may_end(lasts: Collection[str], end: str) -> bool:
    """Whether a name may end so: names are many, and `lasts`, their last parts, are mostly few.

    A last part begins with a dot; of a name without dots it is the last character.
    """
    if len(lasts) > MOST_LASTS or "." in end[1:]:
        return True
    return any(end.endswith(last) or last.endswith(end) for last in lasts)


class _Maker:
    """Puts weights of one format together; most are of few shapes, which are looked at once."""

    def __init__(
        self,
        form: Format,
        schemes: Schemes,
        tensors: Mapping[str, TensorSpec],
        lasts: Collection[str],
    ) -> None:
        self._form, self._schemes, self._tensors = form, schemes, tensors
        self._numbers = "int" if form.dtypes[0].startswith("I") else "float"
        self._roles = [
            (role, ending.removesuffix("?"), not ending.endswith("?"))
            for role, ending in form.companions.items()
        ]
        self._others = [end for end in form.others if _may_end(lasts, end)]
        self._known: dict[Any, tuple[Settings, tuple[int, ...]]] = {}

    def weight(self, stem: str, spec: TensorSpec) -> Weight | None:
        """The weight whose tensors begin with `stem`, or None where they are not those of one."""
        form, tensors = self._form, self._tensors
        parts = []
        kind: tuple[Any, ...] = (spec.dtype, spec.shape)
        for role, ending, is_needed in self._roles:
            part = tensors.get(stem + ending)
            if part is not None:
                if role == "scale" and part.dtype not in form.scales:
                    return None
                parts.append((role, part.name))
                kind += (role, part.dtype, part.shape)
            elif is_needed:
                return None
        companions = tuple(parts)
        settings: Settings = ()
        shape: tuple[int, ...] = ()
        scheme, problem = Scheme(), ""
        try:
            scheme = self._schemes.of(stem, self._numbers)
            kind += (scheme,)
            if kind not in self._known:
                self._known[kind] = self._decoded(spec, companions, scheme)
            settings, shape = self._known[kind]
        except ValueError as error:
            problem = str(error)
        others = tuple([stem + end for end in self._others if stem + end in tensors])
        return Weight(
            form.name, shape, spec.name, form.values, form.becomes,
            Decoding(form.codec, companions, settings), others, problem, scheme.is_symmetric,
        )  # fmt: skip

    def _decoded(
        self, spec: TensorSpec, companions: tuple[tuple[str, str], ...], scheme: Scheme
    ) -> tuple[Settings, tuple[int, ...]]:
        """The settings of a weight and its shape when it is plain; ValueError where none fit."""
        form, config = self._form, self._schemes.settings
        parts = {role: self._tensors[name] for role, name in companions}
        settings = tuple(codec_class(form.codec).settings(spec, parts, scheme, config))
        if form.transposed:
            settings = (("transposed", 1), *settings)
        codec = find_codec(spec, Decoding(form.codec, companions, settings), self._tensors)
        _check_groups(form, scheme, codec)
        return settings, codec.shape


def _check_groups(form: Format, scheme: Scheme, codec: "Codec") -> None:
    """Raise ValueError where rows are in other groups than the format has, or the config says."""
    size = form.group or (scheme.group if codec.uses_group_size else 0)
    if not size:
        return
    columns, groups = codec.grouped
    if columns != groups * (columns if size < 0 else size):
        scale = [*codec.parts["scale"].shape]
        wanted = "one group" if size < 0 else f"groups of {size}"
        raise ValueError(f"its scale {scale} is not for {columns} columns in {wanted}")


def _unknown(
    others: list[TensorSpec], tensors: Mapping[str, TensorSpec], *, is_told: bool
) -> Iterator[str]:
    """Of tensors of no known format, the names of those that may hold quantised weights.

    Small floats always may, which nothing tells from codes, and matrices of small numbers where a
    config speaks of quantisation, or where there is a scale beside them.
    """
    strange = [spec for spec in others if spec.dtype not in PLAIN and all(spec.shape)]
    scaled: set[str] | None = None
    for spec in strange:
        if spec.dtype.startswith("F"):
            yield spec.name
        elif spec.dtype != "BOOL" and len(spec.shape) > 1:
            if scaled is None:
                scaled = {name.rpartition(".")[0] for name in tensors if _SCALE.search(name)}
            stem = spec.name.rpartition(".")[0]
            has_scale = stem in scaled or spec.name in scaled
            if has_scale or (is_told and spec.dtype not in ("I64", "U64")):
                yield spec.name


# What stands at the end of the name of a scale, whatever the method.
_SCALE = re.compile(r"(?:scales?|scale_inv|absmax|scb)$", re.IGNORECASE)


def _is_of_activations(spec: TensorSpec) -> bool:
    """Whether a tensor is a scale of what is computed, such as of keys and values that are kept."""
    return spec.name.endswith(activations())
