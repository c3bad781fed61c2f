"""Plan the tensors of a MoE block under an expert map."""

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

from moegrow.checkpoint.header import TensorSpec
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout, is_of_all
from moegrow.families.tensor_names import TensorRole
from moegrow.growth import Growth, Noise
from moegrow.maps import NULL, Map
from moegrow.planning.op import ONE, ZERO, Fill, noise_of, perturbed, renumbered
from moegrow.planning.plan import Output, Piece
from moegrow.planning.router import Compensation


def whole(
    spec: TensorSpec, *, scale: Fraction = ONE, shift: Fraction = ZERO, noise: Noise | None = None
) -> Piece:
    """All rows of a tensor; a tensor without dimensions has one. Zeros take no noise."""
    rows = spec.shape[0] if spec.shape else 1
    return Piece(spec.name, 0, rows, perturbed(noise, scale, shift))


class Experts:
    """A growth along the experts' axis, applied to the tensors of one MoE block after another."""

    def __init__(self, layout: Layout, growth: Growth, compensation: Compensation) -> None:
        self._layout = layout
        self._compensation = compensation
        self._sources = growth.experts
        self._copies: dict[int, list[int]] = defaultdict(list)
        for new, old in enumerate(growth.experts):
            self._copies[old].append(new)
        none: tuple[Noise | None, ...] = (None,) * len(growth.experts)
        # Uniform noise is meant for the router's bias; a router without one takes it in its rows.
        takes_uniform = "router_bias" if layout.family.tensors.router_bias else "router"
        self._noise = {"experts": growth.weight_noise, "balance_bias": none}
        for role in ("router", "router_bias"):
            self._noise[role] = tuple(
                noise
                if noise and role == (takes_uniform if noise.kind == "uniform" else "router")
                else None
                for noise in growth.router_noise
            )

    def outputs(self, spec: TensorSpec, place: TensorRole, *, silent: bool) -> Iterator[Output]:
        """What becomes of one tensor of a MoE block; with `silent` it is zeros."""
        scale, shift = ONE, ZERO
        if place.role == "experts" and place.is_output:
            scale = self._compensation.output_scale
        elif place.role == "balance_bias":
            scale, shift = self._compensation.balance_scale, self._compensation.balance_shift
        if silent:
            scale = shift = ZERO
        if place.expert is not None:
            yield from self._matrices(spec, place, scale)
        elif place.role == "expert_numbers":
            yield self._table(spec, place)
        elif place.role == "copied_shared":
            times = self._compensation.extra_copies
            shape = (spec.shape[0] * times, *spec.shape[1:])
            yield Output(place.suffix, spec.dtype, shape, (whole(spec, scale=scale),) * times)
        elif is_of_all(spec, place):
            piece = whole(spec, scale=scale)
            yield Output(place.suffix, spec.dtype, spec.shape, (piece,))
        elif place.role == "router" and self._layout.family.router.kind == "grid":
            yield self._keys(spec, place)
        else:
            yield self._rows(spec, place, scale, shift)

    def _matrices(self, spec: TensorSpec, place: TensorRole, scale: Fraction) -> Iterator[Output]:
        """The copies of a matrix that belongs to one expert."""
        assert place.expert is not None
        experts = self._layout.experts
        lists = self._layout.family.router.lists
        number, expert = divmod(place.expert, experts)
        if number < lists:
            copies = [number * len(self._sources) + new for new in self._copies[expert]]
            noises = [self._noise["experts"][new] for new in self._copies[expert]]
        else:
            # A zero expert: its number is behind those of the routed ones, and it takes no noise.
            times, extra = self._compensation.extra_copies, self._layout.extra
            zero = place.expert - experts
            copies = [len(self._sources) + turn * extra + zero for turn in range(times)]
            noises = [None] * times
        for new, noise in zip(copies, noises, strict=True):
            piece = whole(spec, scale=scale, noise=noise)
            yield Output(f"{place.before}{new}{place.after}", spec.dtype, spec.shape, (piece,))

    def _rows(
        self, spec: TensorSpec, place: TensorRole, scale: Fraction, shift: Fraction
    ) -> Output:
        """A tensor with a row, or several, per expert, and perhaps further rows behind them."""
        axis, experts = place.axis, self._layout.experts
        has_extra = spec.shape[axis] == self._layout.router_rows and not place.is_stacked
        rows = 1 if has_extra else spec.shape[axis] // experts
        pieces: list[Piece] = []
        for old, noise in zip(self._sources, self._noise[place.role], strict=True):
            if old == NULL:
                _join(pieces, self._null(spec, place, rows))
            else:
                start, stop = old * rows, (old + 1) * rows
                _join(pieces, Piece(spec.name, start, stop, perturbed(noise, scale, shift)))
        if has_extra and self._layout.router_rows > experts:
            # The copies of a skip class are among the experts already.
            is_skip = self._layout.family.router.kind == "skip"
            for _ in range(1 if is_skip else self._compensation.extra_copies):
                extra = Piece(spec.name, experts, spec.shape[axis], perturbed(None, scale, shift))
                _join(pieces, self._null(spec, place, rows) if is_skip else extra)
        total = sum(piece.stop - piece.start for piece in pieces)
        shape = (*spec.shape[:axis], total, *spec.shape[axis + 1 :])
        return Output(place.suffix, spec.dtype, shape, tuple(pieces), axis)

    def _null(self, spec: TensorSpec, place: TensorRole, rows: int) -> Piece:
        """What stands for a copy of the class that skips: its row, its bias of -1, or nothing."""
        if place.role == "router":
            return Piece(spec.name, self._layout.experts, self._layout.experts + 1)
        shift = -ONE if place.role == "balance_bias" else ZERO
        return Piece(spec.name, 0, rows, Fill(shift))

    def _keys(self, spec: TensorSpec, place: TensorRole) -> Output:
        """Product keys: a half of row keys and a half of column keys, copied as the grid says."""
        old, new = math.isqrt(self._layout.experts), math.isqrt(len(self._sources))
        noises = self._noise["router"]
        pieces: list[Piece] = []
        for key in range(new):
            row = self._sources[key * new] // old
            _join(pieces, Piece(spec.name, row, row + 1, perturbed(noises[key * new])))
        for key in range(new):
            column = old + self._sources[key] % old
            _join(pieces, Piece(spec.name, column, column + 1, perturbed(noises[key])))
        return Output(place.suffix, spec.dtype, (2 * new, *spec.shape[1:]), tuple(pieces))

    def _table(self, spec: TensorSpec, place: TensorRole) -> Output:
        """A table of experts' numbers: the columns once for each copy, with the copy's numbers."""
        times = self._compensation.top_k_times
        pieces = []
        for turn in range(times):
            numbers = tuple(
                self._copies[old][turn] if turn < len(self._copies[old]) else NULL
                for old in range(self._layout.experts)
            )
            op = renumbered(*_line(numbers, spec.name))
            pieces.append(Piece(spec.name, 0, spec.shape[-1], op))
        axis = len(spec.shape) - 1
        shape = (*spec.shape[:-1], spec.shape[-1] * times)
        return Output(place.suffix, spec.dtype, shape, tuple(pieces), axis)


def _join(pieces: list[Piece], piece: Piece) -> None:
    """Append a piece, as one with the last where both are copies of neighbouring rows."""
    last = pieces[-1] if pieces else None
    if (
        last
        and noise_of(last.op) is None
        and last._replace(stop=piece.stop) == piece._replace(start=last.start)
        and last.stop == piece.start
    ):
        pieces[-1] = last._replace(stop=piece.stop)
    else:
        pieces.append(piece)


def _line(numbers: Map, name: str) -> tuple[int, int]:
    """Factor and shift that make new numbers from old ones: the table can hold nothing else."""
    first = numbers[0]
    factor = numbers[1] - first if len(numbers) > 1 else 1
    if NULL in numbers or any(number != first + old * factor for old, number in enumerate(numbers)):
        raise MoegrowError(
            f"{name} holds numbers of experts, and these copies do not follow each other evenly",
            "use a whole multiple of the experts and " + Parameter("top_k", "scale") + " or keep",
        )
    return factor, first
