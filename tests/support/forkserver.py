"""The process behind `forks`: it imports everything once, and forks for each command asked for.

A child goes on as `python -m moegrow` does, through moegrow's own __main__ to its end. It is asked
for over a socket, by its three standard streams as descriptors, the length of a request, and the
request in JSON. The answers are JSON lines: the number of the child, and how it ended.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

import stops

Request = dict[str, Any]

# What Python reads when it starts, or a library when it is imported: no child can read it again.
EARLY = (
    "PYTHON", "LC_", "LANG", "LD_", "OPENBLAS_", "OMP_", "MKL_", "NUMBA_", "TYPER_", "_TYPER_STAND",
)  # fmt: skip
HUB = "huggingface_hub"  # reads where the Hub is, which many tests say, and transformers needs it
EARLY_WITH_HUB = ("TORCH", "CUDA_", "TRANSFORMERS_", "ACCELERATE_", "USE_", "HF_", "HOME", "XDG_")
# What moegrow, or the Hub's library, imports when a command needs it.
OFTEN = ("rich.progress", "rich.table", "httpx2", "tqdm.auto", "filelock", "yaml")
OF_MAIN = {"OPENBLAS_NUM_THREADS": "1"}  # moegrow's main sets it where it is not, before numpy


def import_all(modules: list[str]) -> None:
    """Do what every moegrow process does once: imports, and the table of the noise."""
    import moegrow

    os.environ.update(OF_MAIN | os.environ)
    for name in modules:
        importlib.import_module(name)
    if HUB not in sys.modules:
        sys.modules[HUB] = None  # so whoever needs it is not imported now
    for found in pkgutil.walk_packages(moegrow.__path__, "moegrow."):
        if not found.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # nor who needs an extra that is not installed
                importlib.import_module(found.name)
    if not sys.modules[HUB]:
        del sys.modules[HUB]
    from moegrow.kernels.noise import quantiles

    quantiles()
    # What the parser of the command line imports when it first reads one.
    sys.argv[1:] = ["width", "/nowhere"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        runpy.run_module("moegrow", run_name="__main__", alter_sys=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def early(environment: dict[str, str]) -> dict[str, str]:
    names = EARLY + (EARLY_WITH_HUB if HUB in sys.modules else ())
    return OF_MAIN | {name: environment[name] for name in environment if name.startswith(names)}


class Server:
    """Connections, and the children that were forked for them."""

    def __init__(self, listener: socket.socket, environment: dict[str, str]) -> None:
        self._environment = environment
        self._children: dict[int, socket.socket] = {}
        self._opened: list[socket.socket] = []
        self._ready = selectors.DefaultSelector()
        self._ready.register(0, selectors.EVENT_READ, lambda _: self._end())
        woken, wake = socket.socketpair()
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        self._opened.append(wake)
        self._watch(woken, self._reap)
        self._watch(listener, self._accept)

    def serve(self) -> Request:
        """Fork for whoever asks, until standard input ends; gives a request, in its child alone."""
        while True:
            for key, _ in self._ready.select():
                if request := key.data(key.fileobj):
                    return request

    def _watch(self, opened: socket.socket, act: Any) -> None:
        self._opened.append(opened)
        self._ready.register(opened, selectors.EVENT_READ, act)

    def _forget(self, connection: socket.socket) -> None:
        self._opened.remove(connection)
        self._ready.unregister(connection)
        connection.close()

    def _accept(self, listener: socket.socket) -> None:
        self._watch(listener.accept()[0], self._fork)

    def _fork(self, connection: socket.socket) -> Request | None:
        """Fork for a request; gives it in the child."""
        length, streams, _, _ = socket.recv_fds(connection, 8, 3)
        if not length:
            return self._forget(connection)
        with connection.makefile("rb") as file:
            request: Request = json.loads(file.read(int.from_bytes(length, "big")))
        if early(request["environment"]) != self._environment:
            answer(connection, refused=True)
        else:
            assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
            child = os.fork()
            if not child:
                self._close()
                become(request, streams)
                return request
            self._children[child] = connection
            self._ready.modify(connection, selectors.EVENT_READ, self._hang_up)
            answer(connection, child=child)
        for stream in streams:
            os.close(stream)
        return None

    def _hang_up(self, connection: socket.socket) -> None:
        """Nobody waits for the child any more, if there still is one."""
        for child, its in self._children.items():
            if its is connection:
                kill(child)
        self._forget(connection)

    def _reap(self, woken: socket.socket) -> None:
        woken.recv(4096)
        while self._children:
            child, status, usage = os.wait4(-1, os.WNOHANG)
            if not child:
                break
            code, peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
            seconds = usage.ru_utime + usage.ru_stime
            answer(self._children.pop(child), code=code, peak=peak, seconds=seconds)

    def _end(self) -> NoReturn:
        for child in self._children:
            kill(child)
        os._exit(0)

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._ready.close()
        for opened in self._opened:
            opened.close()


def answer(connection: socket.socket, **told: object) -> None:
    with contextlib.suppress(OSError):  # who asked may have gone
        connection.sendall(json.dumps(told).encode() + b"\n")


def kill(child: int) -> None:
    for end in (os.kill, os.killpg):  # just after the fork, it has no group of its own
        with contextlib.suppress(ProcessLookupError):
            end(child, signal.SIGKILL)


def become(request: Request, streams: list[int]) -> None:
    """Be as a process that has just begun: its streams, folder, environment and arguments."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    encoding, errors = sys.__stdout__.encoding, sys.__stdout__.errors
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "backslashreplace" if number == 2 else errors
        stream = open(number, mode, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=number == 2 or stream.line_buffering)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.path.insert(0, request["folder"])
    sys.argv[1:] = request["arguments"]
    if wish := os.environ.get(stops.STOP):
        stops.install(wish)


def run_to_the_end() -> NoReturn:
    """Run moegrow, and end as Python does, but for what it takes apart on its way out."""
    code: object = 0
    try:
        runpy.run_module("moegrow", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        code = 120  # as Python says it
    os._exit(code if isinstance(code, int) else int(bool(code)))


def main() -> NoReturn:
    number, *modules = sys.argv[1:]
    environment = dict(os.environ)
    sys.path.pop(0)  # the folder of the tests
    import_all([*OFTEN, *modules])
    gc.freeze()  # what a child never looks at again, it need not copy
    Server(socket.socket(fileno=int(number)), early(environment)).serve()
    run_to_the_end()


if __name__ == "__main__":
    main()
