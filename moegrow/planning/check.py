"""Check a plan against its source, and report every problem before a byte is written."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from moegrow import maps
from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.fingerprint import is_same, sampled
from moegrow.checkpoint.header import TensorSpec, nbytes
from moegrow.checkpoint.store import CONFIG, Store
from moegrow.dtypes import PLAIN
from moegrow.errors import MoegrowError, Parameter, Text, raise_all
from moegrow.families.layout import Layout
from moegrow.families.read_layout import read_layout
from moegrow.files import json_edit
from moegrow.planning.check_pieces import check_stored, piece_problems
from moegrow.planning.op import COPY, decoding_of
from moegrow.planning.plan import Output, Plan

# Names that no tensor may have.
UNNAMED = ("", "__metadata__")


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
        elif not is_same(planned[name], now[name], checkpoint.store):
            problems.append(f"{name} holds other tensors or other weights")
    raise_all(
        f"{checkpoint.location} has changed since the plan was made",
        problems,
        "make the plan again with " + Parameter("moegrow.plan()"),
    )


# Of each file its size, its version (when it was last written, in nanoseconds) and a digest or "".
# Of one far away that is what its place says of it, so nothing is fetched for it.
Witness = Mapping[str, list[int | str]]


def witness(checkpoint: Checkpoint) -> Witness:
    """What the files of a source are now, to tell later whether one has been written since.

    The digest of a weight file covers header and samples, so no weights are read for it.
    """
    known = {file.name: file.digest for file in checkpoint.files}
    names = (CONFIG, *checkpoint.side_files, *sorted(known))
    return {name: _now(checkpoint.store, name, known.get(name, "")) for name in names}


def _now(store: Store, name: str, known: str) -> list[int | str]:
    """What a file is now; of weights, `known` is the digest that they had when they were opened."""
    size, version = store.size(name), store.version(name)
    is_here = isinstance(version, int)
    return [size, version, sampled(store, name) if known and is_here else known]


def check_witness(seen: Witness, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError where weights are others than when they were held against the plan."""
    digests = {file.name: file.digest for file in checkpoint.files}
    others = [name for name, told in seen.items() if told[2] and told[2] != digests.get(name)]
    raise_all(
        f"{checkpoint.location} has changed since the plan was made",
        [f"{name} holds other tensors or other weights" for name in others],
        "make the plan again with " + Parameter("moegrow.plan()"),
    )


def check_unchanged(before: Witness, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError where a file of the source has been written, or has gone, since."""
    problems: list[Text] = []
    checkpoint.store.refresh()
    for name, then in before.items():
        try:
            now = _now(checkpoint.store, name, str(then[2]))
        except KeyError:
            problems.append(f"{name} is gone")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
        except MoegrowError as error:
            problems.append(error.said)
        else:
            if now != then:
                problems.append(f"{name} was written in the meantime")
    raise_all(
        f"{checkpoint.location} was changed while it was read",
        problems,
        "nothing was published; run the command again when nothing writes there",
    )


def check_plan(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError that lists what is wrong with a plan that reads from `checkpoint`."""
    json_edit.loads(plan.config, "the config in the plan", infinities=True, is_shallow=True)
    problems = [
        problem
        for output in _unlike_sources(plan, checkpoint)
        for problem in _problems(output, checkpoint)
    ]
    names = {output.name for output in plan.outputs}
    if len(names) != len(plan.outputs):
        problems.append(f"{len(plan.outputs) - len(names)} names stand twice")
    raise_all(
        "the plan cannot be written",
        problems,
        "make the plan again with " + Parameter("moegrow.plan()"),
    )
    check_noise(plan)


def check_result(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise MoegrowError where what an edited plan makes is no checkpoint of its family."""
    tensors = {
        name: TensorSpec(name, "", dtype, shape, 0, nbytes(dtype, shape))
        for name, dtype, shape, _, _ in plan.outputs
    }
    config = json_edit.loads(
        plan.config, "the config in the plan", infinities=True, is_shallow=True
    )
    result = replace(checkpoint, config_text=plan.config, config=config, tensors=tensors)
    try:
        read_layout(result, family_text=plan.family_text)
    except MoegrowError as error:
        raise MoegrowError(
            "what the plan would write could not be loaded: " + error.said,
            "the plan was edited: make it again with " + Parameter("moegrow.plan()"),
        ) from None


def check_growth(plan: Plan, layout: Layout) -> None:
    """Raise MoegrowError where a plan's header names layers or experts that its source lacks."""
    growth = plan.growth
    problems = []
    for what, numbers, count in (
        ("layer", growth.layers, layout.layers),
        ("expert", growth.experts, layout.experts),
    ):
        maps.check_size(len(numbers), f"{what}s")
        if max(numbers, default=count) >= count:
            problems.append(f"{what} {max(numbers, default='none')} of 0 to {count - 1}")
    if not 1 <= growth.top_k <= len(growth.experts):
        problems.append(f"top-k {growth.top_k} of {len(growth.experts)} experts")
    raise_all(
        "the plan's header asks for what its source does not have",
        problems,
        "make the plan again with " + Parameter("moegrow.plan()"),
    )


def check_noise(plan: Plan) -> None:
    """Raise MoegrowError where noise or a scale is asked of tensors that are not plain floats."""
    for output in plan.outputs:
        if output.dtype not in PLAIN:
            for _, _, _, op in output.pieces:
                if op is not COPY:
                    check_stored(output, op)


def _unlike_sources(plan: Plan, checkpoint: Checkpoint) -> Iterator[Output]:
    """All outputs but those that one look shows to be right: a whole tensor of the source each.

    Nearly all are that, and there can be a million of them.
    """
    tensors = checkpoint.tensors
    for output in plan.outputs:
        name, dtype, shape, pieces, axis = output
        if len(pieces) == 1 and shape and name and name.isprintable():
            source, start, stop, op = pieces[0]
            spec = tensors.get(source)
            if (
                spec is not None
                and spec.shape == shape
                and spec.dtype == dtype
                and start == 0
                and stop == shape[axis]
                and (op is COPY or decoding_of(op) is None)
                and name not in UNNAMED
            ):
                continue
        yield output


def _problems(output: Output, checkpoint: Checkpoint) -> Iterator[str]:
    if not output.name.isprintable() or output.name in UNNAMED:
        yield f"{output.name!r} cannot be the name of a tensor"
    try:
        for shape in (output.shape[output.axis + 1 :], output.shape):
            nbytes(output.dtype, shape)
    except ValueError as error:
        yield f"{output.name}: {error}"
    rows = 0
    for piece in output.pieces:
        rows += piece.stop - piece.start
        yield from piece_problems(output, piece, checkpoint)
    if rows != output.rows:
        yield f"{output.name} has {output.rows} rows and pieces of {rows}"
