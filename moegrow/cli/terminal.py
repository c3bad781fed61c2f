"""Between the command line and the terminal: input, output, progress bars and error messages."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from moegrow.errors import MoegrowError, UsageError, choose, printable
from moegrow.planning.noted_command import noted


def is_watched(*, quiet: bool) -> bool:
    """Whether somebody watches: standard error is a terminal that can move its cursor."""
    moves = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return not quiet and moves and sys.stderr.isatty()


@contextmanager
def phase(what: str, total: int | None = None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for one phase of a command, gone when it ends; gives what is called with more bytes.

    Without `total` it only says what goes on. There is no bar where nobody watches.
    """
    if not is_watched(quiet=quiet):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn]
    if total is None:
        columns = [SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()]
    else:
        columns = [
            TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(),
            TransferSpeedColumn(), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]  # fmt: skip
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True, expand=total is not None) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


TOGETHER = 256  # lines


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to a reader that may have had enough, such as `head`."""
    try:
        rest = iter(lines)
        # Many lines at once: the stream encodes each piece of text that it is given by itself.
        while part := [*islice(rest, TOGETHER)]:
            sys.stdout.write("\n".join(part) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain about the closed pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def columns() -> int | None:
    """How many columns standard output shows; None where it is no terminal, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def read_source(source: str | None) -> Any:
    """What a SOURCE argument means: a path, or the lines of a plan or a path on standard input."""
    if source is not None and source != "-":
        return source
    if source is None and sys.stdin.isatty():
        raise UsageError("no SOURCE was given", "name a checkpoint's folder, or pipe a plan in")
    from moegrow.planning.plan_file import lines_of, take_lines

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


def command_line(source: str | None, read: Any) -> str:
    """The command as it was typed, so that it can be typed again: `| moegrow …` behind a pipe.

    A path that came in on standard input is named like any other. Whether an earlier run was gone
    on with, and how many processes wrote the result, makes no difference to it, so that is left
    out, and so is a token, which is nobody's business.
    """
    typed = [word for word in _lasting(sys.argv[1:]) if word not in ("--resume", "--finish")]
    if source in (None, "-") and isinstance(read, str):
        typed = [word for word in typed if word != "-"] + [read]
    return noted(["moegrow", *typed], is_piped=not isinstance(read, str))


def _lasting(typed: Iterable[str]) -> Iterator[str]:
    """What was typed, without those options that have a value and are not to be kept."""
    words = iter(typed)
    for word in words:
        option, is_joined, _ = word.partition("=")
        if option not in ("--token", "--shards"):
            yield word
        elif not is_joined:
            next(words, None)


def check_target(target: Path, option: str, endings: Sequence[str]) -> None:
    """Raise MoegrowError where a picture could not be written, before anything is read."""
    if target.suffix.lower() not in endings:
        raise UsageError(
            f"{option} {target}: its name should end in {' or '.join(endings)}",
            f"write {option} {target.stem or 'picture'}{endings[0]}",
        )
    if not target.absolute().parent.is_dir():
        raise MoegrowError(f"{option} {target} is in no folder that exists", "make it first")
    if target.is_dir():
        raise MoegrowError(f"{option} {target} is a folder", "give the name of a file")
    if not os.access(target.absolute().parent, os.W_OK):
        raise MoegrowError(f"{option} {target} cannot be written", "give a place that can be")


def check_outside(target: Path, folder: Path | None, option: str) -> None:
    """Raise MoegrowError where a file would be written into the folder of a checkpoint."""
    if folder and target.absolute().parent.resolve().is_relative_to(folder.resolve()):
        raise MoegrowError(
            f"{target} is in the checkpoint {folder.name}, into which nothing is written",
            f"give another place with {option}",
        )


@contextmanager
def writing(target: Path, option: str) -> Iterator[None]:
    """What the system has against a file is told of it, not of the one that becomes it."""
    try:
        yield
    except OSError as error:
        raise MoegrowError(f"{option} {target} cannot be written: {error.strerror}") from None


def print_json(document: Any) -> None:
    """Print a Struct, a dataclass or a table as an indented JSON document, in ASCII alone."""
    import msgspec

    # The hook meets numbers of numpy.
    print_lines([json.dumps(msgspec.to_builtins(document, enc_hook=float), indent=2)])


def usage_problem(error: Any) -> tuple[str, str]:
    """Message and hint for what the parser of the command line refuses."""
    message = str(error.format_message()).partition(" (Possible options")[0]
    message = message.partition(". Did you mean")[0]
    message = message.replace("Value error, ", "")
    context: Any = getattr(error, "ctx", None)
    see = f"see {context.command_path if context else 'moegrow'} --help"
    if found := re.search(r"No such option: (\S+)", message):
        known = [name for param in context.command.params for name in param.opts]
        return message, choose(found[1], known, see)
    if found := re.search(r"No such command '(.*)'", message):
        return message, choose(found[1], context.command.commands, see)
    if found := re.search(r"'([^']*)' is not one of (.*?)\.?$", message):
        return message, choose(found[1], re.findall(r"'([^']*)'", found[2]), see)
    return message, see


def complain(message: str, hint: str) -> None:
    """One message, then one hint, as people read them."""
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    print(f"error: {printable(message.rstrip('.'))}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
