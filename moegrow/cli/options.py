"""Options that several commands share, and groups of options as one parameter of a command."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from moegrow.checkpoint.store import Access


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


class Rounding(StrEnum):
    nearest = "nearest"
    stochastic = "stochastic"


class Preset(StrEnum):
    orthogonal = "orthogonal"
    upcycling = "upcycling"


Source = Annotated[
    str | None,
    typer.Argument(
        help="A checkpoint's folder, its one .safetensors file, a repository of the Hub"
        " (org/name or org/name@revision), or a plan; left out or -, the plan or the path that"
        " comes in on standard input.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, show_default="all cores, or 8 connections", help="How many threads to use."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", show_default=False,
        help="A token for the Hub; better given in HF_TOKEN, or by hf auth login.",
    ),
]  # fmt: skip
LinksOption = Annotated[
    list[str] | None,
    typer.Option(
        "--links-to", metavar="DIR", show_default=False,
        help="A folder outside the source into which its links may lead; may be given several"
        " times.",
    ),
]  # fmt: skip
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is done and why.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


# A command takes a group by one parameter of its type (spread.py): a field here is an option of
# every command that reads a source, or writes a result.
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read."""

    family: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml", show_default=False,
            help="How to read a model that moegrow does not know (docs/adding-a-family.md).",
        ),
    ] = None  # fmt: skip
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="REV", show_default=False, help="A repository's branch, tag or commit."
        ),
    ] = None
    token: TokenOption = None
    links_to: LinksOption = None

    @property
    def access(self) -> Access:
        """With what the source is opened."""
        return Access(self.token, self.revision, self.links_to or ())


class Dtype(StrEnum):
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class Storing:
    """What weights are written as."""

    dtype: Annotated[
        Dtype | None,
        typer.Option(
            show_default="as in the source",
            help="Write all weights so; quantised ones are decoded.",
        ),
    ] = None
    experts_dtype: Annotated[
        Dtype | None,
        typer.Option(show_default="as the others", help="Write routed experts so."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What becomes of a plan beside a result."""

    plan: Annotated[
        bool, typer.Option("--plan", help="Print the plan as JSON lines and write nothing.")
    ] = False
    save_recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml", show_default=False,
            help="Write down what is done as a recipe for moegrow run.",
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a result is written, and what is said of it."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="DIR", show_default=False,
            help="Where the result goes; otherwise ./<source name>-depth2x or the like.",
        ),
    ] = None  # fmt: skip
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen and write nothing.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace an output that moegrow has written before.")
    ] = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a run that did not end: keep its finished shards."
        ),
    ] = False
    digests: Annotated[
        bool,
        typer.Option("--digests", help="Keep digests of all bytes, to verify without the source."),
    ] = False
    threads: ThreadsOption = None
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", show_default="5GB", help="The largest file to write, such as 500MB."
        ),
    ] = None
    no_reflink: Annotated[
        bool,
        typer.Option(
            "--no-reflink", help="Write real copies also where the filesystem can share blocks."
        ),
    ] = False
    download: Annotated[
        bool,
        typer.Option("--download", help="Put the source into the Hub's cache first, then grow."),
    ] = False
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME", show_default=False,
            help="Upload the result to the Hub when it is written.",
        ),
    ] = None  # fmt: skip
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository of --push a private one.")
    ] = False
    quiet: QuietOption = False
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify the result once it is written.")
    ] = False
    verbose: VerboseOption = False
    as_json: JsonOption = False


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a result is written by several processes."""

    shards: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", show_default=False,
            help="Write every N-th shard from the K-th on; other processes write the others, and"
            " the last one publishes.",
        ),
    ] = None  # fmt: skip
    finish: Annotated[
        bool, typer.Option("--finish", help="Write no shard; publish if all of them are written.")
    ] = False


ALONE = Sharing()  # one process writes all shards and publishes

Command = Callable[..., None]


def spread(command: Command) -> Command:
    """The command with the fields of each group in the place of the group.

    A group is a parameter whose type is a dataclass; its fields are options, with their
    defaults. Typer reads the parameters off the signature, and so sees every option by itself.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Writing:
    ...     output: str | None = None
    ...     force: bool = False
    >>> def apply(plan: str, *, writing: Writing) -> None:
    ...     print(plan, writing)
    >>> inspect.signature(spread(apply))
    <Signature (*, plan: str, output: str | None = None, force: bool = False)>
    >>> spread(apply)(plan="plan.jsonl", output="grown", force=True)
    plan.jsonl Writing(output='grown', force=True)
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = hints[name]
        if not is_dataclass(group):
            parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        assert isinstance(group, type)
        options = get_type_hints(group, include_extras=True)
        groups[name] = group, [field.name for field in fields(group)]
        for field in fields(group):
            assert field.name not in parameters, f"two options are called {field.name}"
            parameters[field.name] = _parameter(field, options[field.name])

    def spread_command(**values: Any) -> None:
        gathered = {
            name: group(**{option: values.pop(option) for option in options})
            for name, (group, options) in groups.items()
        }
        command(**values, **gathered)

    spread_command.__name__ = command.__name__
    spread_command.__doc__ = command.__doc__
    spread_command.__annotations__ = {name: entry.annotation for name, entry in parameters.items()}
    signature = inspect.Signature([*parameters.values()])
    spread_command.__signature__ = signature  # type: ignore[attr-defined]
    return spread_command


def _parameter(field: "Field[Any]", annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
