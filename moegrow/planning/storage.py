"""A plan's outputs in other dtypes than the source's: decoded, rounded, and without companions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from moegrow.config.quantconfig import quantised_in
from moegrow.errors import MoegrowError, raise_all
from moegrow.families.structure import Layout
from moegrow.formats.decoding import AS_IT_IS
from moegrow.formats.formats import PLAIN, Weight
from moegrow.plans import Output, Piece, Storage
from moegrow.source.header import BITS, TensorSpec

# What is stored in float32 because less would change what a router chooses.
FULL = ("balance_bias", "expert_numbers")


class Restored:
    """The outputs of a growth as a storage asks for them, and what is said of that.

    Raises MoegrowError where a tensor looks quantised and no format that is known explains it.
    """

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._quantised = quantised_in(layout)
        self._owners = self._quantised.owners
        self._check()

    @cached_property
    def own(self) -> str:
        """The dtype of most of what is not quantised, by bytes: the model's own."""
        sizes: Counter[str] = Counter()
        for spec in self._layout.checkpoint.tensors.values():
            if spec.dtype in PLAIN and spec.name not in self._owners:
                sizes[spec.dtype] += spec.stop - spec.start
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")

    @property
    def leaves_quantised(self) -> bool:
        """Whether some weights stay as they are quantised."""
        return any(self._wanted(name) == "" for name in self._quantised.weights)

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Scales of activations, where no weight stays quantised: loaders know none of a model
        that is not."""
        return frozenset(() if self.leaves_quantised else self._quantised.beside)

    def outputs(self, outputs: Iterable[Output]) -> Iterator[Output]:
        """The outputs, those that are decoded and rounded in place of those that hold the parts."""
        tensors = self._layout.checkpoint.tensors
        for output in outputs:
            source = output.pieces[0].source if output.pieces else ""
            dtype = self._wanted(source) if source else ""
            weight = self._quantised.weights.get(source)
            if source in self.left_out:
                continue
            if not dtype:
                yield output
            elif weight is not None:
                yield self._decoded(output, weight, tensors[source], dtype)
            elif source in self._owners:
                continue
            elif self._is_rounded(tensors[source], dtype):
                pieces = tuple(piece._replace(decoding=AS_IT_IS) for piece in output.pieces)
                yield output._replace(dtype=dtype, pieces=pieces)
            else:
                yield output

    def _wanted(self, name: str) -> str:
        """The dtype that a tensor is wanted in, or "" where it stays as it is."""
        place = self._layout.places.get(name)
        is_expert = place is not None and place.role == "experts"
        return (is_expert and self._storage.experts) or self._storage.dtype

    def _is_rounded(self, spec: TensorSpec, dtype: str) -> bool:
        """Whether a tensor that is not quantised changes: not where it is finer for a reason."""
        place = self._layout.places.get(spec.name)
        if spec.dtype not in PLAIN or spec.dtype == dtype or (place and place.role in FULL):
            return False
        return BITS[spec.dtype] <= BITS[self.own]

    def _decoded(self, output: Output, weight: Weight, spec: TensorSpec, dtype: str) -> Output:
        """The output that holds the numbers of a quantised weight."""
        rows = weight.shape[0] if weight.shape else 1
        old = spec.shape[0] if spec.shape else 1
        pieces = []
        for piece in output.pieces:
            start, stop = piece.start, piece.stop
            if (start, stop) == (0, old):
                start, stop = 0, rows
            elif rows != old:
                raise MoegrowError(
                    f"{output.name} takes rows {start} to {stop} of {spec.name}, which lie across"
                    f" others in {weight.format}"
                )
            pieces.append(
                Piece(spec.name, start, stop, piece.noise, piece.scale, piece.shift,
                      weight.decoding)
            )  # fmt: skip
        if output.axis:
            raise MoegrowError(f"{output.name} is joined along columns, and {spec.name} is packed")
        total = sum(piece.stop - piece.start for piece in pieces)
        shape = (total, *weight.shape[1:]) if weight.shape else ()
        name = output.name.removesuffix(weight.ending) + weight.becomes
        return Output(name, dtype, shape, tuple(pieces))

    def _check(self) -> None:
        tensors, places = self._layout.checkpoint.tensors, self._layout.places
        wanted = {
            name
            for name in self._quantised.unknown
            if self._wanted(name) and (name not in places or places[name].role not in FULL)
        }
        problems = [f"{name} is stored as {tensors[name].dtype}" for name in sorted(wanted)]
        problems += [
            f"{name}: {weight.problem}"
            for name, weight in self._quantised.weights.items()
            if weight.problem and self._wanted(name)
        ]
        raise_all(
            f"{self._layout.checkpoint.name} is quantised in a way that moegrow does not decode",
            problems,
            "copies need no decoding: leave out --dtype and --experts-dtype",
        )

    def step(self) -> Mapping[str, Any] | None:
        """What is said of it, or None where everything stays as it is."""
        says = list(self._sentences())
        return {"axis": "storage", "says": says} if says else None

    def _sentences(self) -> Iterator[str]:
        decoded: Counter[tuple[str, str]] = Counter()
        rounded: Counter[tuple[str, str]] = Counter()
        kept: Counter[str] = Counter()
        for name, spec in self._layout.checkpoint.tensors.items():
            dtype = self._wanted(name)
            if not dtype or name in self._owners or name in self.left_out:
                continue
            if name in self._quantised.weights:
                decoded[self._quantised.weights[name].format, dtype] += 1
            elif self._is_rounded(spec, dtype):
                rounded[spec.dtype, dtype] += 1
            elif spec.dtype in PLAIN and spec.dtype != dtype:
                kept[spec.dtype] += 1
        for (form, dtype), count in sorted(decoded.items()):
            yield f"{count} weights in {form} are decoded and written as {dtype}"
        for (old, dtype), count in sorted(rounded.items()):
            yield f"{count} tensors of {old} are written as {dtype}"
        for old, count in sorted(kept.items()):
            yield f"{count} tensors stay {old}: they are finer than the others for a reason"
        if self.left_out:
            yield f"{len(self.left_out)} scales of activations are left out: no weight has any more"
