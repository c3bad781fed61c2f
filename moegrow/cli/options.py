"""Options that several commands share, and groups of options as one parameter of a command."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from moegrow.errors import Parameter
from moegrow.options import as_flag, describe

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
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is done and why.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


# A command takes a group by one parameter of its type: a field of a group is an option of every
# command that takes it. The steps are groups, too.
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
    What is described by an Option is turned into one of Typer.

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
            parameters[name] = _parameter(name, hints[name], parameter.default)
            continue
        assert isinstance(group, type)
        options = get_type_hints(group, include_extras=True)
        groups[name] = group, [field.name for field in fields(group)]
        for field in fields(group):
            assert field.name not in parameters, f"two options are called {field.name}"
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters[field.name] = _parameter(field.name, options[field.name], default)

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


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    option, kinds, default = describe(hint, default)
    if option.help:
        # Of several types, the first is the one that any text has.
        kind = list[str] if get_origin(kinds[0]) is Sequence else kinds[0]
        default = option.default if option.default is not None else default
        offered = list(option.words)
        described = typer.Option(
            *([as_flag(Parameter(name))] if kind is bool else []),
            metavar=option.metavar, help=option.help,
            show_default=option.rule or default is not None,
            autocompletion=(lambda: offered) if offered else None,
        )  # fmt: skip
        hint = Annotated[kind if default is not None else kind | None, described]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
