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
        self._begun = 0

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
        self._begun += 1
        return int(self._ask([*map(str, arguments)], str(stdin)))

    def end(self) -> Ended:
        """Wait for the command that was begun last."""
        code = int(self._ask(None, ""))
        out, err = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
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
    import moegrow.cli
    import moegrow.difference
    import moegrow.show
    import moegrow.verbs
    import moegrow.writer
    from moegrow.noise import quantiles

    # What a process does once, this one has done: the table of the noise, and what the parser of
    # the command line imports when it first reads one.
    quantiles()
    sys.argv = ["moegrow", "width", "/nowhere"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        moegrow.cli.main()
    child = 0
    for line in sys.stdin:
        arguments, stdin = json.loads(line)
        if arguments is None:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if not child:
            for number, (name, flags) in enumerate(
                [(stdin, os.O_RDONLY)]
                + [(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
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
