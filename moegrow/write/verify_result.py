"""Verify a written checkpoint byte for byte against its plan and its source."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import NamedTuple

from moegrow import display
from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moegrow.checkpoint.header import read_header, write_header
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.shard_index import LARGEST_INDEX
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import CONFIG, INDEX, Access
from moegrow.errors import MoegrowError, OutOfReachError, Parameter, printable
from moegrow.families.layout import parameters
from moegrow.families.read_layout import read_layout
from moegrow.files import json_edit, worker_threads
from moegrow.files.byte_ranges import BLOCK, cores
from moegrow.files.untrusted import exists_inside, read_text
from moegrow.kernels.perturb import compiled_loops
from moegrow.planning.check import check_plan, check_source
from moegrow.planning.noise_stats import NoiseStats
from moegrow.planning.op import decoding_of, noise_of
from moegrow.planning.plan import Output, Plan
from moegrow.planning.plan_file import read_plan
from moegrow.write.check_digests import Held, file_problems, hold, is_as_written, kept_digests
from moegrow.write.compare_tensors import Comparison
from moegrow.write.digests import Digests

SHOWN = 20  # problems that are printed

Progress = Callable[[int], None]


class Problem(NamedTuple):
    """What is wrong, as a sentence, and the files of the result that it is about."""

    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """What was found: every problem, and how many bytes were compared in which way.

    `copied` equal the source, and the others were computed again: `drawn` with noise, `decoded`
    from what stands for them. `realised` is the noise in each kind
    of tensor, as it was drawn. Where the source was `gone`, there are none of these: `held` have
    the digests that were kept of them, and `unchecked` have none.
    """

    problems: tuple[str, ...]
    tensors: int
    copied: int = 0
    drawn: int = 0
    decoded: int = 0
    realised: dict[str, NoiseStats] = field(default_factory=dict, compare=False)
    held: int = 0
    unchecked: int = 0
    gone: str | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        return self.spelled()

    def spelled(self, spelled: Callable[[Parameter], str] = str) -> str:
        """The outcome for people, with parameters as they are `spelled`."""
        if self.ok and self.gone:
            told = (
                f"as planned, as far as that shows without its source: {self.tensors} tensors,"
                f" headers, index and config, and {display.size(self.held)} by their digests"
            )
            if self.unchecked:
                told += (
                    f"\nnot checked: {display.size(self.unchecked)} that were copied from"
                    f" {self.gone}, which is gone ({spelled(Parameter('source'))} names another"
                    " place)"
                )
            return printable(told)
        if self.ok:
            decoded = f", {display.size(self.decoded)} decoded again and equal"
            return (
                f"as planned: {self.tensors} tensors, {display.size(self.copied)} equal to the"
                f" source, {display.size(self.drawn)} drawn again and equal"
                f"{decoded if self.decoded else ''}"
            )
        lines = [*self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - SHOWN} more")
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def verify(
    grown: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    progress: Progress = lambda count: None,
) -> Verified:
    """Compare the checkpoint in the folder `grown` with the plan that lies in it.

    Every tensor of the plan must be there with its dtype and shape, and nothing else; copied
    ranges must equal the source byte for byte; noise is drawn again and compared; the config
    must be the planned one and agree with the tensors; the other files must have their digests.
    The source is where the plan says, or where `source` says; `token` is for one on the Hub, and
    `links_to` are folders into which its links may lead. If there is nothing where the plan says,
    what has a digest is held against that instead. Raises
    MoegrowError where `grown` is no folder of moegrow's, or the source another than the plan's.
    """
    folder = user_path(grown)
    if not folder.exists():
        raise MoegrowError(f"{folder} does not exist", "give the folder of a grown checkpoint")
    if not exists_inside(folder, PLAN):
        raise MoegrowError(
            f"{folder} holds no {PLAN}", "verify takes a folder that moegrow has written"
        )
    kept, problems = kept_digests(folder)
    if kept and not is_as_written(folder, kept, PLAN):
        # Nothing else can be held against a plan that is not the one.
        return Verified((f"{PLAN} is not as it was written",), 0)
    plan = read_plan(folder / PLAN)
    store = _source_of(plan, source, Access(token, None, links_to))
    if store:
        check_source(plan, store)
        check_plan(plan, store)
    try:
        written = open_checkpoint(folder)
    except MoegrowError as error:
        return Verified((error.message,), len(plan.outputs))
    placed = [
        *_config_problems(plan, written, folder),
        *_file_problems(plan, written, folder),
    ]
    problems += [
        *written.remarks,
        *_name_problems(plan, written),
        *(problem.text for problem in placed),
    ]
    threads = threads or (store and store.store.threads) or cores()
    if store:
        result = _compare(plan, store, written, threads, progress)
    else:
        result = _hold(plan, written, folder, kept, threads, progress)
    problems += result.problems
    known = {name for problem in placed for name in problem.files}
    if written.remarks:
        known.add(INDEX)  # they say where the index and the files differ
    beside = file_problems(folder, kept) if kept else ()
    problems += [problem for name, problem in beside if name not in known]
    return replace(result, problems=tuple(problems))


def _source_of(
    plan: Plan, source: str | os.PathLike[str] | None, access: Access
) -> Checkpoint | None:
    """The source of a plan, or None where it is gone or, offline, out of reach."""
    if source is not None:
        return open_checkpoint(source, access)
    folder = plan.source.folder
    if folder is not None and not folder.exists():
        return None
    try:
        return open_checkpoint(plan.source.location, access)
    except OutOfReachError:
        return None


def _compare(
    plan: Plan, store: Checkpoint, written: Checkpoint, threads: int, progress: Progress
) -> Verified:
    """The tensors held against the source, and what is computed against what it should be."""
    same = [output for output in plan.outputs if _is_like(output, written)]
    computed = sum(
        output.nbytes
        for output in same
        if any(noise_of(piece.op) or decoding_of(piece.op) for piece in output.pieces)
    )
    comparison = Comparison(store, written, progress, compiled_loops(computed))
    with worker_threads.pool(threads) as pool:
        each = pool.map(comparison.compare, _by_file(same, written))
        problems = [problem for found in each for problem in found]
    problems += comparison.source_problems(threads)
    return Verified(
        tuple(problems), len(plan.outputs), comparison.copied, comparison.drawn, comparison.decoded,
        comparison.realised,
    )  # fmt: skip


def _hold(
    plan: Plan,
    written: Checkpoint,
    folder: Path,
    kept: Digests | None,
    threads: int,
    progress: Progress,
) -> Verified:
    """The tensors held against their digests, as far as there are any: the source is gone."""
    problems, held = Held([], 0)
    if kept:
        problems, held = hold(written, folder, kept, threads=threads, progress=progress)
    return Verified(
        tuple(problems), len(plan.outputs), held=held, unchecked=max(0, plan.nbytes - held),
        gone=plan.source.path,
    )  # fmt: skip


def _name_problems(plan: Plan, written: Checkpoint) -> Iterator[str]:
    """Tensors that are missing, too many, or of another dtype or shape."""
    for output in plan.outputs:
        spec = written.tensors.get(output.name)
        if spec is None:
            yield f"{output.name} is missing"
        elif not _is_like(output, written):
            yield (
                f"{output.name} is {spec.dtype} {list(spec.shape)} and should be"
                f" {output.dtype} {list(output.shape)}"
            )
    for name in sorted(written.tensors.keys() - {output.name for output in plan.outputs}):
        yield f"{name} is not in the plan"


def _is_like(output: Output, written: Checkpoint) -> bool:
    spec = written.tensors.get(output.name)
    return spec is not None and (spec.dtype, spec.shape) == (output.dtype, output.shape)


def _config_problems(plan: Plan, written: Checkpoint, folder: Path) -> Iterator[Problem]:
    """Where config and index say something else than the plan and the tensors."""
    if written.config_text != plan.config:
        yield Problem(f"{CONFIG} is not the one that was planned", (CONFIG,))
    try:
        read_layout(written, family_text=plan.family_text)
    except MoegrowError as error:
        yield Problem(error.message)
    if not exists_inside(folder, INDEX):
        yield Problem(f"{INDEX} is missing", (INDEX,))
        return
    table = json_edit.loads(read_text(folder, INDEX, LARGEST_INDEX), INDEX)
    metadata = table.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    for key, value in (
        ("total_size", written.nbytes),
        ("total_parameters", parameters(spec.shape for spec in written.tensors.values())),
    ):
        if metadata.get(key) != value:
            yield Problem(f"{INDEX} says {key} {metadata.get(key)}, and it is {value}", (INDEX,))


def _file_problems(plan: Plan, written: Checkpoint, folder: Path) -> Iterator[Problem]:
    """Headers that are not, byte for byte, what moegrow writes, and weights beside the index."""
    shapes = {output.name: (output.name, output.dtype, output.shape) for output in plan.outputs}
    for file in written.files:
        found = read_header(folder / file.name)
        in_order = sorted(found.tensors, key=lambda spec: (spec.start, spec.stop))
        if not all(spec.name in shapes for spec in in_order):
            continue
        expected = write_header(
            (shapes[spec.name] for spec in in_order),
            residue=found.begin % BLOCK,
            metadata=plan.metadata,
        )
        if hashlib.sha256(expected).hexdigest() != found.digest:
            text = f"the header of {file.name} is not as it was written"
            yield Problem(text, (file.name,))
    named = {file.name for file in written.files}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in named:
            yield Problem(f"{path.name} is not in {INDEX}", (path.name, INDEX))


def _by_file(outputs: list[Output], written: Checkpoint) -> list[list[Output]]:
    files: dict[str, list[Output]] = {}
    for output in outputs:
        files.setdefault(written.tensors[output.name].file, []).append(output)
    return list(files.values())
