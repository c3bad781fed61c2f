"""The options of the command line that several commands share, and the values they take."""

from enum import StrEnum
from typing import Annotated

import typer


class Mode(StrEnum):
    interpose = "interpose"
    stack = "stack"
    expand = "expand"
    overlap = "overlap"


class NewLayers(StrEnum):
    copy = "copy"
    identity = "identity"


class Order(StrEnum):
    append = "append"
    interleave = "interleave"


class RouterCopies(StrEnum):
    noise = "noise"
    copy = "copy"


class Preset(StrEnum):
    orthogonal = "orthogonal"
    upcycling = "upcycling"


Source = Annotated[
    str | None,
    typer.Argument(
        help="A checkpoint's folder, its one .safetensors file, or a plan; left out or -, the"
        " plan or the path that comes in on standard input.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="DIR", show_default=False,
        help="Where the result goes; otherwise ./<source name>-depth2x or the like.",
    ),
]  # fmt: skip
FamilyOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.toml", show_default=False,
        help="How to read a model that moegrow does not know (docs/adding-a-family.md).",
    ),
]  # fmt: skip
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print the plan as JSON lines and write nothing.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen and write nothing.")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace an output that moegrow has written before.")
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a run that did not end: keep its finished shards."),
]
DigestsOption = Annotated[
    bool,
    typer.Option("--digests", help="Keep digests of all bytes, to verify without the source."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, show_default="all cores", help="How many threads to use."),
]
ShardOption = Annotated[
    str, typer.Option(metavar="SIZE", help="The largest file to write, such as 5GB or 500MB.")
]
NoReflinkOption = Annotated[
    bool,
    typer.Option(
        "--no-reflink", help="Write real copies also where the filesystem can share blocks."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
