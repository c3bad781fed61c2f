"""Real moegrow processes that begin at once: forks of one that has imported everything already.

Starting Python takes longer than a tiny growth. `Nursery` starts this file once; for every command
it forks, and the child runs moegrow's own main.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self


class Ended(NamedTuple):
    """A process that has ended: its exit code, or minus the signal, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Nursery:
    """A process that forks moegrow, for as long as the `with` lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = 0  # the process that was begun last

    def __enter__(self) -> Self:
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=self._folder,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()

    def begin(self, *arguments: object, stdin: Path | str = os.devnull) -> int:
        """Begin a command in the nursery's folder; gives the number of its process."""
        self._begun = int(self._ask([*map(str, arguments)], str(stdin)))
        return self._begun

    def end(self, process: int | None = None) -> Ended:
        """Wait for a command: the one that was begun last, or that of a process."""
        process = process or self._begun
        code = int(self._ask(None, process))
        said = [self._folder / f"{name}-{process}" for name in ("stdout", "stderr")]
        out, err = (path.read_text() for path in said)
        for path in said:
            path.unlink()
        assert "Traceback" not in err, err
        return Ended(code, out, err)

    def run(self, *arguments: object, stdin: Path | str = os.devnull) -> Ended:
        self.begin(*arguments, stdin=stdin)
        return self.end()

    def _ask(self, *request: Any) -> str:
        assert self._parent.stdin
        assert self._parent.stdout
        print(json.dumps(request), file=self._parent.stdin, flush=True)
        return self._parent.stdout.readline()


def serve() -> None:
    import moegrow.analysis.difference
    import moegrow.cli
    import moegrow.commands.show
    import moegrow.planning.verbs
    import moegrow.writing.writer
    from moegrow.numbers.noise import quantiles

    # What a process does once, this one has done: the table of the noise, and what the parser of
    # the command line imports when it first reads one.
    quantiles()
    sys.argv = ["moegrow", "width", "/nowhere"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        moegrow.cli.main()
    for line in sys.stdin:
        arguments, stdin = json.loads(line)
        if arguments is None:
            _, status = os.waitpid(stdin, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if not child:
            for number, (name, flags) in enumerate(
                [(stdin, os.O_RDONLY)]
                + [
                    (f"{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                    for name in ("stdout", "stderr")
                ]
            ):
                os.dup2(os.open(name, flags, 0o666), number)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.argv = ["moegrow", *arguments]
            code = 99
            try:
                moegrow.cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
