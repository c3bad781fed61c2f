"""Every problem of a plan, found before a byte is written."""

from collections.abc import Iterator

from moegrow.checkpoint import Checkpoint
from moegrow.errors import MoegrowError, raise_all
from moegrow.header import nbytes
from moegrow.plans import Output, Piece, Plan

# Dtypes whose values can be read, changed in floating point and rounded back.
FLOATS = ("F64", "F32", "F16", "BF16")


def check_source(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError unless the checkpoint is the one that the plan was made of."""
    problems = []
    if plan.source.config_digest != checkpoint.config_digest:
        problems.append("config.json is not the same")
    now = {file.name: file for file in checkpoint.files}
    planned = {file.name: file for file in plan.source.files}
    for name in sorted(now.keys() | planned.keys()):
        if name not in now:
            problems.append(f"{name} is gone")
        elif name not in planned:
            problems.append(f"{name} is new")
        elif now[name].size != planned[name].size:
            problems.append(f"{name} had {planned[name].size} bytes and has {now[name].size}")
        elif now[name] != planned[name]:
            problems.append(f"{name} holds other tensors or other weights")
    raise_all(
        f"{checkpoint.folder} has changed since the plan was made",
        problems,
        "make the plan again with --plan",
    )


def check_plan(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError that lists what is wrong with a plan that reads from `checkpoint`."""
    problems = [problem for output in plan.outputs for problem in _problems(output, checkpoint)]
    names = {output.name for output in plan.outputs}
    if len(names) != len(plan.outputs):
        problems.append(f"{len(plan.outputs) - len(names)} names stand twice")
    raise_all("the plan cannot be written", problems, "make the plan again with --plan")
    check_noise(plan)


def check_noise(plan: Plan) -> None:
    """Raise MoegrowError where noise or a scale is asked of tensors that are not plain floats."""
    quantised = [
        output
        for output in plan.outputs
        if output.dtype not in FLOATS
        and any(piece.noise or piece.scale not in (0, 1) for piece in output.pieces)
    ]
    if quantised:
        first = quantised[0]
        what = "noise" if any(piece.noise for piece in first.pieces) else "a scale"
        raise MoegrowError(
            f"{first.name} is stored as {first.dtype}, and {what} on quantised weights is mostly"
            " lost in rounding",
            "use --noise 0 for exact copies, or dequantise the checkpoint to bf16 first"
            if what == "noise"
            else "dequantise the checkpoint to bf16 first",
        )


def _problems(output: Output, checkpoint: Checkpoint) -> Iterator[str]:
    if not output.name or not output.name.isprintable():
        yield f"{output.name!r} cannot be the name of a tensor"
    try:
        nbytes(output.dtype, output.shape[1:])
    except ValueError as error:
        yield f"{output.name}: {error}"
    rows = 0
    for piece in output.pieces:
        rows += piece.stop - piece.start
        yield from _piece_problems(output, piece, checkpoint)
    wanted = output.shape[0] if output.shape else 1
    if rows != wanted:
        yield f"{output.name} has {wanted} rows and pieces of {rows}"


def _piece_problems(output: Output, piece: Piece, checkpoint: Checkpoint) -> Iterator[str]:
    spec = checkpoint.tensors.get(piece.source)
    if spec is None:
        yield f"{output.name} comes from {piece.source}, which the source does not hold"
        return
    if spec.dtype != output.dtype or spec.shape[1:] != output.shape[1:]:
        yield (
            f"{output.name} is {output.dtype} {list(output.shape)} and comes from"
            f" {spec.dtype} {list(spec.shape)}"
        )
    rows = spec.shape[0] if spec.shape else 1
    if not 0 <= piece.start <= piece.stop <= rows:
        wanted = f"rows {piece.start} to {piece.stop}"
        yield f"{output.name} asks for {wanted} of {piece.source}, which has {rows}"
