"""The entry point: all commands, and the exit code of each error."""

import gc
import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import moegrow
from moegrow.cli import grow, inspection, norms, report, run
from moegrow.cli.options import JsonOption, spread
from moegrow.cli.terminal import complain, print_json, usage_problem
from moegrow.errors import InterruptedRun, MoegrowError, UsageError, spell
from moegrow.options import as_flag

INTERRUPTED = 130  # what shells say of a command that was stopped by Ctrl-C

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Grow a trained Mixture-of-Experts checkpoint: deeper, wider, or both in one pass.",
)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"moegrow {moegrow.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder to make; it must not exist.")
    ] = "moegrow-demo",
    as_json: JsonOption = False,
) -> None:
    """Make a small MoE checkpoint, grow it in depth and width in one pass, and verify it."""
    from moegrow.cli.demo import run_demo

    source, grown = run_demo(Path(folder))
    if as_json:
        print_json({"source": str(source.absolute()), "path": str(grown.absolute())})
    else:
        print(grown)


# In the order in which --help lists them.
for command in (
    grow.depth, grow.width, grow.convert, grow.apply, run.run, run.recipes, inspection.inspect,
    inspection.advise, norms.norms, norms.map_, inspection.verify, inspection.diff, report.report,
    demo,
):  # fmt: skip
    app.command(command.__name__.rstrip("_"))(spread(command))


def main() -> NoReturn:
    """Run the command line; every error that a user can cause ends as a message and a hint."""
    # A plan is up to a million frozen values and no cycles: looking for those as often as Python
    # does took a third of the time.
    gc.set_threshold(10_000_000, 100, 100)
    # Nothing here is linear algebra, and the threads for it are busy while they wait for work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called, as by `>&-`
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Names come from strangers: what is no text is shown escaped and never stops a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    # Newer versions of Typer carry their own click: its base class is found by descent.
    click_error: type[Exception]
    click_error = typer.BadParameter.__mro__[2]
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = app(standalone_mode=False, prog_name="moegrow")
        sys.stdout.flush()
        if code == INTERRUPTED:
            # Newer versions of Typer turn the exception into this code.
            raise KeyboardInterrupt
    except MoegrowError as error:
        complain(spell(error.said, as_flag), spell(error.advice, as_flag))
        codes = {UsageError: 2, InterruptedRun: INTERRUPTED}
        code = codes.get(type(error), 1)
    except click_error as error:
        complain(*usage_problem(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; nothing was published", "run the command again")
        code = INTERRUPTED
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}", "")
        code = 1
    sys.exit(code or 0)
