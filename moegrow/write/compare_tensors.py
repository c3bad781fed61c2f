"""Compare the tensors of a result byte by byte with what its plan makes of the source."""

import threading
from collections.abc import Callable
from types import ModuleType

import numpy as np

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.checksums import Ordered, WrongBytesError
from moegrow.checkpoint.store import contents
from moegrow.files import worker_threads
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import READ, SourceReader, far
from moegrow.kernels.tensor_bytes import segments
from moegrow.planning.noise_stats import NoiseStats, add_all
from moegrow.planning.plan import Output

Progress = Callable[[int], None]


class Comparison:
    """The comparison of tensors with what the plan makes of the source, on several threads.

    What is read of the source is held against the digests that its place lists on the way.
    """

    def __init__(
        self,
        store: Checkpoint,
        written: Checkpoint,
        progress: Progress,
        compiled: ModuleType | None,
    ) -> None:
        self.copied = 0
        self.drawn = 0
        self.decoded = 0
        self.realised: dict[str, NoiseStats] = {}
        self._origin = store
        self._written = written
        self._progress = progress
        self._compiled = compiled
        self._ordered = Ordered(store.store, far(store))
        self._lock = threading.Lock()

    def compare(self, outputs: list[Output]) -> list[str]:
        """The problems of the tensors of one file: for each the first byte that differs."""
        problems, workspace = [], Workspace(self._compiled)
        with (
            SourceReader(self._origin, self._ordered) as source,
            SourceReader(self._written) as written,
        ):
            for output in outputs:
                try:
                    byte = self._first_difference(source, written, output, workspace)
                except WrongBytesError:
                    # It is told of the file, in the end; this tensor may be right all the same.
                    byte = self._first_difference(source, written, output, workspace)
                if byte is not None:
                    spec = self._written.tensors[output.name]
                    problems.append(
                        f"{output.name} differs from its plan at byte {byte} of its {output.nbytes}"
                        f" ({spec.file}, byte {spec.start + byte})"
                    )
        with self._lock:
            add_all(self.realised, workspace.realised)
        return problems

    def source_problems(self, threads: int) -> list[str]:
        """The files of the source whose bytes are not those that its place lists.

        What has not been read in the order of its bytes is read once more for this.
        """
        store = self._origin.store
        done = far(self._origin).keys() - set(self._ordered.finish())
        listed = [file.name for file in self._origin.files if store.sha256(file.name)]

        def problem(name: str) -> list[str]:
            try:
                for _ in contents(store, name):
                    pass
            except WrongBytesError as error:
                return [error.message]
            return []

        with worker_threads.pool(threads) as pool:
            left = [name for name in listed if name not in done]
            return [told for found in pool.map(problem, left) for told in found]

    def _first_difference(
        self, source: SourceReader, written: SourceReader, output: Output, workspace: Workspace
    ) -> int | None:
        spec = written.spec(output.name)
        position = spec.start
        buffer = np.empty(min(output.nbytes, READ), np.uint8)
        for segment in segments(source, output, workspace):
            first = position
            for block in segment.blocks:
                found = buffer[: block.size] if block.size <= READ else np.empty_like(block)
                written.read_into(spec.file, position, found.data)
                if not np.array_equal(found, block):
                    return int(np.argmax(found != block)) + position - spec.start
                position += block.size
                self._progress(block.size)
            with self._lock:
                if segment.is_drawn:
                    self.drawn += position - first
                elif segment.is_decoded:
                    self.decoded += position - first
                else:
                    self.copied += position - first
        return None
