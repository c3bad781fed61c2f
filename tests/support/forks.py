"""Real moegrow processes that begin at once: forks of one that has imported everything already.

Starting Python takes longer than a tiny growth. A `Nursery` starts forkserver.py once; for every
command that forks, and the child is all that `python -m moegrow` would be: it has a number,
session, folder, environment and standard streams of its own, and runs moegrow from __main__ on.
Where a test changes what is read before moegrow begins, Python is started after all.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import IO, Self

import forked

SERVER = Path(__file__).with_name("forkserver.py")


class Ended(subprocess.CompletedProcess[str]):
    """A process that has ended; the bytes of memory that it took at most, and its seconds of
    processor time, if they are known."""

    peak: int | None = None
    seconds: float | None = None


class Begun:
    """A moegrow process; it is killed where nobody waits for its end."""

    def __init__(
        self, where: str, arguments: list[str], folder: Path, stdin: str | IO[bytes]
    ) -> None:
        self._arguments = arguments
        pipes = [os.pipe() for _ in range(3)]
        streams = [pipes[0][0], pipes[1][1], pipes[2][1]]
        self._said = [Reader(reading) for reading, _ in pipes[1:]]
        if isinstance(stdin, str):
            self._threads = [*self._said, Writer(pipes[0][1], stdin.encode())]
        else:
            self._threads = self._said
            for end in pipes[0]:
                os.close(end)
            streams[0] = os.dup(stdin.fileno())
        self._asked = forked.Asked(
            where, arguments, environment=dict(os.environ), folder=str(folder), streams=streams
        )
        self._real = None
        if not self._asked.child:
            self._real = subprocess.Popen(
                [*forked.REAL, *arguments], cwd=folder, stdin=streams[0], stdout=streams[1],
                stderr=streams[2], start_new_session=True,
            )  # fmt: skip
        self.number = self._real.pid if self._real else self._asked.child
        for stream in streams:
            os.close(stream)
        for thread in self._threads:
            thread.start()

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send a signal, which comes too late where the process has ended.

        Another than SIGKILL is sent once moegrow listens: until then it is Python that answers.
        """
        while how != signal.SIGKILL and not self._listens_or_has_ended():
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, how)
            # One that has stopped at a named moment goes on, and meets the signal.
            os.kill(self.number, signal.SIGCONT)

    def await_stop(self, timeout: float = 300) -> bool:
        """Wait until it has stopped at the moment that it was begun with, or has ended.

        Says whether it has stopped.
        """
        until = time.monotonic() + timeout
        while (state := self.state()) not in "TZX":
            assert time.monotonic() < until, f"moegrow {self._arguments} neither stops nor ends"
            time.sleep(0.001)
        return state == "T"

    def state(self) -> str:
        """Its state as the system names it: T stopped, Z or X ended, others at work."""
        try:
            status = Path(f"/proc/{self.number}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return "X"
        found = re.search(r"^State:\s*(\S)", status, re.M)
        assert found
        return found[1]

    def _listens_or_has_ended(self) -> bool:
        try:
            status = Path(f"/proc/{self.number}/status").read_text()
        except FileNotFoundError:
            return True
        found = dict(re.findall(r"^(State|SigCgt):\s*(\S+)", status, re.M))
        # The first thing that moegrow does is to take SIGTERM for Ctrl-C.
        return found["State"] in "ZX" or bool(int(found["SigCgt"], 16) >> signal.SIGTERM - 1 & 1)

    def end(self, timeout: float | None = None) -> Ended:
        """Wait until it ends; TimeoutError where it does not, and then it is killed."""
        peak = seconds = None
        try:
            if self._real:
                code = self._real.wait(timeout)
            else:
                code, peak, seconds = self._asked.wait(timeout)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            self.kill()
            raise TimeoutError(f"moegrow {self._arguments} has not ended") from error
        finally:
            self._asked.close()
        for thread in self._threads:
            thread.join()
        ended = Ended(self._arguments, code, *(reader.text() for reader in self._said))
        ended.peak, ended.seconds = peak, seconds
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended


class Reader(Thread):
    """Reads what a process says while it says it, so that it never waits for a reader."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self._number, self._bytes = number, b""

    def run(self) -> None:
        with open(self._number, "rb") as file:
            self._bytes = file.read()

    def text(self) -> str:
        return self._bytes.decode().replace("\r\n", "\n")


class Writer(Thread):
    """Writes what a process is to read, as long as it reads."""

    def __init__(self, number: int, content: bytes) -> None:
        super().__init__(daemon=True)
        self._number, self._content = number, content

    def run(self) -> None:
        with contextlib.suppress(BrokenPipeError), open(self._number, "wb", 0) as file:
            left = memoryview(self._content)
            while left:
                left = left[file.write(left) :]


class Nursery:
    """Moegrow processes can be begun for as long as the `with` lasts.

    `modules` are imported for them in advance, beside those that all of them need.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="moegrow-")
        self._socket = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._socket)
            listener.listen()
            number = listener.fileno()
            self._server = subprocess.Popen(
                [sys.executable, SERVER, str(number), *self._modules], stdin=subprocess.PIPE,
                pass_fds=[number], start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=60)
        self._folder.cleanup()

    @property
    def command(self) -> list[str]:
        """The words that are `moegrow` to a shell, or to whoever starts programs himself."""
        return [sys.executable, "-I", "-S", forked.__file__, self._socket]

    def begin(self, *arguments: object, folder: Path, stdin: str | IO[bytes] = "") -> Begun:
        return Begun(self._socket, [*map(str, arguments)], folder, stdin)
