"""The command `report`."""

from pathlib import Path
from typing import Annotated

import typer

from moegrow.cli.options import JsonOption, QuietOption
from moegrow.cli.terminal import check_outside, print_json, read_source
from moegrow.errors import MoegrowError, UsageError
from moegrow.options import LinksOption


def report(
    grown: Annotated[
        str | None, typer.Argument(help="The folder of a grown checkpoint.", show_default=False)
    ] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE.html", help="Where the page goes."),
    ] = "report.html",
    source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", show_default=False, help="The source, if it has moved."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify the result first, and show what was found.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Read only a little of each layer for the norms.")
    ] = False,
    links_to: LinksOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw up a page about a grown checkpoint: one file of HTML that loads nothing."""
    import moegrow
    from moegrow.analysis import html_report, report_contents
    from moegrow.checkpoint.locate import user_path
    from moegrow.cli import summaries
    from moegrow.cli.terminal import phase
    from moegrow.files.atomic import durable

    folder = read_source(grown)
    if not isinstance(folder, str):
        raise UsageError("report takes the folder of a grown checkpoint, not a plan")
    target = user_path(output)
    _check_target(target, force=force)
    check_outside(target, user_path(folder), "-o")
    verified = None
    if verify:
        size = sum(file.stat().st_size for file in user_path(folder).glob("*.safetensors"))
        with phase("verifying", size, quiet=quiet) as progress:
            verified = moegrow.verify(folder, source, links_to=links_to or (), progress=progress)
        if not verified.ok:
            summaries.verified(verified, folder)
    with phase("reading norms", quiet=quiet):
        told = report_contents.gather(
            folder, source, sample=sample, links_to=links_to or (), verified=verified
        )
    check_outside(target, told.plan.source.folder, "-o")
    text = html_report.render(told).encode("utf-8", "backslashreplace")
    with durable(target) as file:
        file.write(text)
    ok = None if verified is None else verified.ok
    if as_json:
        print_json({"path": str(target.absolute()), "bytes": len(text), "ok": ok})
    else:
        print(target)
    if ok is False:
        raise typer.Exit(1)


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse to write over what is there, or where nothing can be, before anything is read."""
    if target.is_dir() or not target.absolute().parent.is_dir():
        what = "is a folder" if target.is_dir() else "is in no folder that exists"
        raise MoegrowError(f"{target} {what}", "give the name of a file with -o")
    if target.exists() and not force:
        raise MoegrowError(f"{target} exists already", "use --force, or another -o")
    if target.exists() and not target.is_file():
        # Replacing a device by a file would leave the machine without it.
        raise MoegrowError(f"{target} is no plain file", "give another name with -o")
