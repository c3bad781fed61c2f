"""Fill the shards of a result on several threads, reading each source byte once."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.checksums import Ordered
from moegrow.checkpoint.header import nbytes
from moegrow.files import worker_threads
from moegrow.files.byte_ranges import BLOCK, copy_range, share_range
from moegrow.kernels.changes import change, is_relative, sigma
from moegrow.kernels.measure_noise import note
from moegrow.kernels.perturb import Bytes, compiled_loops
from moegrow.kernels.reader import READ, SourceReader, far
from moegrow.kernels.tensor_bytes import blocks, is_rounded
from moegrow.planning.noise_stats import NoiseStats, add_all
from moegrow.planning.op import noise_of
from moegrow.write.direct_io import is_of_use
from moegrow.write.schedule import CopyRun, Job, Whole, jobs, moves, ranges
from moegrow.write.shard_files import Journal, Targets
from moegrow.write.shards import Shard
from moegrow.write.worker import CACHED, WRITE, Worker, gathered, parts

HELD = 32 << 20  # bytes of a piece that are kept between finding their deviation and adding noise
NO_JOURNAL = Journal()

Progress = Callable[[int], None]
Task = TypeVar("Task")


@dataclass
class Moved:
    """How many bytes of tensors the filesystem shared, and how many were copied and computed.

    `read` are those that were read from the source, by moegrow or by the kernel, for all tensors
    but the few that are joined along a later axis. What the kernel copies to several places, one
    right after the other, counts once: it is read from the disk once. `still` are the tensors with
    rows that should have taken noise, and took none, because they are empty or all values equal.
    `realised` is the noise that was found in each kind of tensor. `unchecked` are the files that
    came from far away, and were not held against the SHA-256 that is listed for them: not all of
    their bytes were read, or not in an order in which they can be summed up.
    """

    shared: int = 0
    copied: int = 0
    computed: int = 0
    read: int = 0
    realised: dict[str, NoiseStats] = field(default_factory=dict, compare=False)
    still: set[str] = field(default_factory=set)
    unchecked: list[str] = field(default_factory=list, compare=False)


def fill(
    shards: tuple[Shard, ...],
    folder: Path,
    checkpoint: Checkpoint,
    *,
    threads: int,
    reflink: bool = True,
    journal: Journal = NO_JOURNAL,
    progress: Progress = lambda count: None,
) -> Moved:
    """Write every shard that the journal does not name as done: complete and durable, or not there.

    Without `reflink` all bytes are read and written, also where they could be shared. The first
    failure stops all threads and is raised.
    """
    wanted = moves(shards, checkpoint, without=journal.done)
    ordered = Ordered(checkpoint.store, far(checkpoint))
    with SourceReader(checkpoint, ordered) as source, Targets(folder, shards, journal) as targets:
        changed = sum(change.stop - change.start for change in wanted.changes)
        changed += sum(whole.nbytes for whole in wanted.wholes if is_rounded(source, whole.output))
        # The kernel would copy bytes unseen, and their digests be read off the result.
        in_kernel = reflink and not journal.everything
        engine = _Engine(source, targets, in_kernel, progress, compiled_loops(changed))
        copies = wanted.copies
        if reflink:
            left: list[CopyRun] = []
            engine.run(threads, copies, lambda copy, _: left.extend([*engine.share(copy)]))
            copies = left
        if is_of_use(folder, max((shard.nbytes for shard in shards), default=0)):
            threads *= 2  # one waits for the disk while the other computes
        # They read a little here and there; what follows goes through each file in order.
        engine.run(threads, wanted.wholes, engine.make)
        ordered.expect(ranges(copies, wanted.changes))
        engine.run(threads, jobs(copies, wanted.changes, side_by_side=threads), engine.move)
        engine.moved.unchecked += ordered.finish()
        targets.finish()
        # What has no bytes has no job either.
        engine.moved.still |= {
            output.name
            for number, shard in enumerate(shards)
            for output in shard.outputs
            if number not in journal.done
            and not output.nbytes
            and any(map(is_relative, output.pieces))
        }
        return engine.moved


class _Engine:
    """The ways of moving bytes, counted."""

    def __init__(
        self,
        source: SourceReader,
        targets: Targets,
        in_kernel: bool,
        progress: Progress,
        compiled: ModuleType | None,
    ) -> None:
        self.moved = Moved()
        self._source = source
        self._targets = targets
        self._in_kernel = in_kernel
        self._progress = progress
        self._compiled = compiled
        self._unshared: set[str] = set()  # files whose bytes the filesystem does not share
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(
        self, threads: int, tasks: Iterable[Task], work: Callable[[Task, Worker], None]
    ) -> None:
        """Do all tasks, in their order as far as several threads can."""
        left = iter(tasks)
        failures: list[BaseException] = []

        def loop(_: int) -> None:
            worker = Worker(self._compiled)
            try:
                while not self._stop.is_set():
                    with self._lock:
                        task = next(left, None)
                    if task is None:
                        break
                    work(task, worker)
                with self._lock:
                    add_all(self.moved.realised, worker.workspace.realised)
                    self.moved.still |= worker.workspace.still
            except BaseException as error:
                failures.append(error)
                self._stop.set()

        with worker_threads.pool(threads, self._stop) as pool:
            try:
                for _ in pool.map(loop, range(threads)):
                    pass
            except BaseException:
                self._stop.set()
                raise
        if failures:
            raise failures[0]

    def share(self, copy: CopyRun) -> Iterator[CopyRun]:
        """Let the filesystem share the whole blocks of a copy; what it did not is given back."""
        start, stop = -(-copy.start // BLOCK) * BLOCK, copy.stop // BLOCK * BLOCK
        can_be = copy.start % BLOCK == copy.offset % BLOCK and start < stop
        if not can_be or copy.file in self._unshared:
            yield copy
            return
        source, middle = self._source.file(copy.file), copy.part(start, stop)
        if source is None:
            self._unshared.add(copy.file)
            yield copy
            return
        with self._targets.file(copy.shard) as target:
            is_shared = share_range(source, start, stop - start, target, middle.offset)
        if not is_shared:
            self._unshared.add(copy.file)
            yield copy
            return
        self._wrote(copy.shard, stop - start, shared=stop - start)
        if copy.start < start:
            yield copy.part(copy.start, start)
        if stop < copy.stop:
            yield copy.part(stop, copy.stop)

    def move(self, job: Job, worker: Worker) -> None:
        """Read the bytes of a job and write everything that is made of them."""
        if job.changes:
            self._change(job, worker)
            return
        for start in range(job.start, job.stop, READ):
            stop = min(job.stop, start + READ)
            left = [copy.part(start, stop) for copy in job.copies]
            if self._in_kernel and not any(self._targets.is_direct(copy.shard) for copy in left):
                # Only the first takes the bytes from the disk: for the others they are in memory.
                left = [rest for copy in left for rest in self._copy_in_kernel(copy)]
            first = min((copy.start for copy in left), default=stop)
            self._count(read=first - start)
            if left:
                block = worker.buffer(stop - first, left[0].offset - (left[0].start - first))
                self._read(job.file, first, block)
                for copy in left:
                    self._write(copy.shard, block[copy.start - first :], copy.offset, worker)

    def _copy_in_kernel(self, copy: CopyRun) -> Iterator[CopyRun]:
        """Let the kernel copy as much as it will; what it did not is given back."""
        self._check_running()
        source = self._source.file(copy.file)
        if source is None:
            yield copy
            return
        with self._targets.file(copy.shard) as target:
            size = copy.stop - copy.start
            done = sum(copy_range(source, copy.start, size, target, copy.offset))
        if done:
            self._wrote(copy.shard, done, copied=done)
        if done < size:
            yield copy.part(copy.start + done, copy.stop)

    def make(self, whole: Whole, worker: Worker) -> None:
        """Write an output that is not made piece by piece, and its equal copies."""
        made = blocks(self._source, whole.output, worker.workspace)
        for done, part in gathered(made, whole.places[0][1], worker):
            for shard, offset in whole.places:
                self._write_computed(shard, part, offset + done, worker, goes_on=done > 0)

    def _change(self, job: Job, worker: Worker) -> None:
        """Read a piece, write it as it is where it is copied, and changed where it is changed."""
        dtype = job.changes[0].output.dtype
        width = nbytes(dtype, (1,))
        # From far away it is fetched once, however large: one expert's rows of one tensor.
        is_far = self._source.file(job.file) is None
        first_place = job.copies[0].offset if job.copies else 0
        most = job.stop - job.start if is_far else min(job.stop - job.start, HELD)
        held = worker.buffer(most, first_place)
        is_held = held.size == job.stop - job.start
        if is_held:
            self._read(job.file, job.start, held)

        def read() -> Iterator[tuple[int, Bytes]]:
            """The bytes, as pairs of a position in the piece and some of them."""
            if is_held:
                yield 0, held
                return
            for at in range(0, job.stop - job.start, READ):
                block = worker.buffer(min(READ, job.stop - job.start - at), first_place + at)
                self._read(job.file, job.start + at, block)
                yield at, block

        def values() -> Iterator[Bytes]:
            return (block for _, block in read())

        workspace, deviations, changes = worker.workspace, {}, []
        for wish in job.changes:
            # All are changes of the same values; those that are relative to nothing are not read.
            noise = noise_of(wish.piece.op)
            kind = noise and noise.kind
            if kind not in deviations:
                deviations[kind] = sigma(wish.piece, dtype, values, workspace)
            made = change(wish.output, wish.piece, wish.row, deviations[kind], workspace)
            changes.append((wish, made))
        for at, block in read():
            for copy in job.copies:
                self._write(copy.shard, block, copy.offset + at, worker)
            for wish, made in changes:
                size = WRITE if self._targets.is_direct(wish.shard) else CACHED
                for first, part in parts(block, size):
                    start, goes_on = (at + first) // width, at + first > 0
                    offset = wish.offset + at + first
                    new = worker.new(part.size, offset)
                    made.apply(part, start, new)
                    note(workspace, wish.output.name, made, start, part, new)
                    self._write_computed(wish.shard, new, offset, worker, goes_on=goes_on)

    def _read(self, file: str, start: int, view: Bytes) -> None:
        self._check_running()
        self._source.read_into(file, start, view.data)
        self._count(read=view.size)

    def _check_running(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("another thread failed")

    def _write(self, shard: int, view: Bytes, offset: int, worker: Worker) -> None:
        self._targets.write(shard, view, offset, worker.bounce)
        self._targets.copied(shard, offset, view.data)
        self._wrote(shard, view.size, copied=view.size)

    def _write_computed(
        self, shard: int, view: Bytes, offset: int, worker: Worker, *, goes_on: bool
    ) -> None:
        self._targets.write(shard, view, offset, worker.bounce)
        self._targets.computed(shard, offset, view.data, goes_on=goes_on)
        self._wrote(shard, view.size, computed=view.size)

    def _wrote(
        self, shard: int, count: int, *, shared: int = 0, copied: int = 0, computed: int = 0
    ) -> None:
        self._count(shared=shared, copied=copied, computed=computed)
        self._progress(count)
        self._targets.wrote(shard, count)

    def _count(self, *, shared: int = 0, copied: int = 0, computed: int = 0, read: int = 0) -> None:
        with self._lock:
            self.moved.shared += shared
            self.moved.copied += copied
            self.moved.computed += computed
            self.moved.read += read
