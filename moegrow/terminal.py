"""What stands between the command line and the terminal: input, piped output, complaints."""

import os
import shlex
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

from moegrow.errors import MoegrowError, UsageError, printable


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to a reader that may have had enough, such as `head`."""
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain about the closed pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_source(source: str | None) -> Any:
    """What a SOURCE argument means: a path, or the lines of a plan or a path on standard input."""
    if source is not None and source != "-":
        return source
    if source is None and sys.stdin.isatty():
        raise UsageError("no SOURCE was given", "name a checkpoint's folder, or pipe a plan in")
    from moegrow.planfile import lines_of, take_lines

    rest = lines_of(sys.stdin)
    first = next(rest, "")
    if first.lstrip().startswith("{"):
        return take_lines(chain([first], rest))
    if not first.strip():
        raise MoegrowError(
            "nothing came in on standard input", "the command before this one may have failed"
        )
    if any(line.strip() for line in rest):
        raise MoegrowError(
            "standard input is neither a plan nor one line with a path",
            f"it begins with {first.strip()[:60]!r}",
        )
    return first.rstrip("\n")


def command_line() -> str:
    return shlex.join(["moegrow", *sys.argv[1:]])


def usage_message(error: Any) -> str:
    return str(error.format_message())


def help_for(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "moegrow --help"


def complain(message: str, hint: str) -> None:
    """One message, then one hint, as people read them."""
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    print(f"error: {printable(message.rstrip('.'))}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
