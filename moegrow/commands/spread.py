"""Options in groups: a command's parameter that is a group of options stands for all of them."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

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
