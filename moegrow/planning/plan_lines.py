"""Write a plan as JSON lines: a header, then one line for each output."""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from typing import Any, assert_never

from moegrow.files import json_edit
from moegrow.growth import Growth, Noise
from moegrow.planning.op import (
    COPY,
    ONE,
    Cast,
    Copy,
    Dequantize,
    Fill,
    Op,
    Perturb,
    Renumber,
    Requantize,
    Rescale,
    noise_of,
)
from moegrow.planning.plan import AS_STORED, Output, Piece, Plan
from moegrow.quant.decoding import AS_IT_IS, EXACT, Decoding
from moegrow.steps import to_table


def to_lines(plan: Plan) -> Iterator[str]:
    """The plan, line by line, without line ends; docs/plan-format.md describes them."""
    yield _dump(
        {
            "moegrow_plan": _version(plan),
            "source": {
                "path": plan.source.path,
                "config_digest": plan.source.config_digest,
                "files": [file.__dict__ for file in plan.source.files],
                **({"named": plan.source.named} if plan.source.named else {}),
            },
            "family": plan.family,
            **({"family_text": plan.family_text} if plan.family_text else {}),
            "growth": _growth_table(plan.growth),
            "steps": [step.table() for step in plan.steps],
            "commands": plan.commands,
            **({} if plan.recipe is None else {"recipe": list(map(to_table, plan.recipe))}),
            **({"files": dict(plan.files)} if plan.files else {}),
            **({"storage": plan.storage._asdict()} if plan.storage != AS_STORED else {}),
            **({"metadata": dict(plan.metadata)} if plan.metadata else {}),
            "outputs": len(plan.outputs),
            "config": plan.config,
        }
    )
    yield from map(output_line, plan.outputs)


def _version(plan: Plan) -> int:
    """The lowest version in which a plan can be written."""
    if plan.metadata:
        return 4
    noises = {*plan.growth.weight_noise, *plan.growth.router_noise}
    if plan.is_edited:
        # An edited line can have what the header does not speak of.
        noises |= {noise_of(piece.op) for output in plan.outputs for piece in output.pieces}
    if any(noise and noise.is_rounded_by_draw for noise in noises):
        return 3
    return 2 if plan.files or plan.storage != AS_STORED else 1


def _dump(table: dict[str, Any]) -> str:
    return json_edit.dumps(table, separators=(",", ":"))


def output_line(output: Output) -> str:
    """The line of one tensor.

    It is put together by hand, because a plan can have a million of them and an encoder takes
    several times as long.
    """
    name, dtype, shape, pieces, axis = output
    joined = f'"axis":{axis},' if axis else ""
    made_of = _piece_text(pieces[0]) if len(pieces) == 1 else ",".join(map(_piece_text, pieces))
    return f'{{"name":{_quoted(name)},{_kind_text(dtype, shape)},{joined}"pieces":[{made_of}]}}'


@lru_cache(maxsize=1 << 16)
def _kind_text(dtype: str, shape: tuple[int, ...]) -> str:
    return f'"dtype":{_quoted(dtype)},"shape":[{",".join(map(str, shape))}]'


def _piece_text(piece: Piece) -> str:
    source, start, stop, op = piece
    changes = "" if op is COPY else _op_text(op)
    return f'{{"from":{_quoted(source)},"rows":[{start},{stop}]{changes}}}'


def _op_text(op: Op) -> str:
    """What a line says of an operation: how values are had, noise, a scale and a shift."""
    match op:
        case Copy():
            return ""
        case Fill(value, decoding):
            told = "" if decoding is None else _decoding_text(decoding)
            return told + ',"scale":"0"' + (f',"shift":"{value}"' if value else "")
        case Perturb():
            return _change_text(op)
        case Cast(change):
            return _decoding_text(AS_IT_IS) + _change_text(change)
        case Dequantize(decoding, change):
            return _decoding_text(decoding) + _change_text(change)
        case Requantize(decoding, noise):
            return _decoding_text(decoding) + _noise_text(noise)
        case Rescale(factor):
            return _decoding_text(EXACT) + (f',"scale":"{factor}"' if factor != ONE else "")
        case Renumber(factor, shift):
            return _change_text(Perturb(None, Fraction(factor), Fraction(shift)))
        case _:
            assert_never(op)


def _change_text(change: Perturb) -> str:
    noise, scale, shift = change.noise, change.scale, change.shift
    told = _noise_text(noise) if noise else ""
    told += f',"scale":"{scale}"' if scale != ONE else ""
    return told + (f',"shift":"{shift}"' if shift else "")


def _decoding_text(decoding: Decoding) -> str:
    codec, companions, settings = decoding
    table: dict[str, Any] = {"codec": codec}
    if companions:
        table["with"] = dict(companions)
    return f',"decode":{_dump(table | dict(settings))}'


@lru_cache(maxsize=1 << 16)
def _noise_text(noise: Noise) -> str:
    table = {noise.kind: noise.amount, "seed": noise.seed, **_rounding(noise)}
    return f',"noise":{_dump(table)}'


def _rounding(noise: Noise) -> dict[str, str]:
    return {"rounding": noise.rounding} if noise.is_rounded_by_draw else {}


# A text as JSON, with all but what must be escaped as it is.
_quoted = json.encoder.encode_basestring


def _growth_table(growth: Growth) -> dict[str, Any]:
    return {
        "layers": growth.layers,
        "silent": [layer for layer, silent in enumerate(growth.silent) if silent],
        "experts": growth.experts,
        "weight_noise": _runs(growth.weight_noise),
        "router_noise": _runs(growth.router_noise),
        "top_k": growth.top_k,
    }


def _runs(noises: tuple[Noise | None, ...]) -> list[list[Any]]:
    """Noise by runs of experts: [first, stop, kind, amount, seed], perhaps with the rounding."""
    runs = []
    first = 0
    for noise, members in groupby(noises):
        stop = first + len(list(members))
        if noise:
            runs.append([first, stop, *noise[:3], *_rounding(noise).values()])
        first = stop
    return runs
