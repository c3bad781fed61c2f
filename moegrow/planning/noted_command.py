"""Parse a command that a plan notes: from a shell, behind a pipe, or from Python."""

import shlex
from dataclasses import dataclass
from enum import Enum

_PIPE, _CALL = "| ", "moegrow."


class Form(Enum):
    """How a command was given."""

    SHELL = "shell"
    PIPED = "piped"
    PYTHON = "python"


@dataclass(frozen=True)
class NotedCommand:
    """A command as a plan notes it: how it was given, its words in a shell, and its whole text."""

    form: Form
    words: tuple[str, ...]
    text: str

    @property
    def prints_plan(self) -> bool:
        """Whether its output is a plan."""
        return "--plan" in self.words


def read_command(text: str) -> NotedCommand:
    """The command of a text, which may come from anyone's plan.

    >>> read_command("| moegrow width --plan").form
    <Form.PIPED: 'piped'>
    >>> read_command("moegrow.depth(source)").words
    ()
    """
    if text.startswith(_CALL):
        return NotedCommand(Form.PYTHON, (), text)
    form = Form.PIPED if text.startswith(_PIPE) else Form.SHELL
    try:
        words = shlex.split(text.removeprefix(_PIPE))
    except ValueError:  # a quote that nothing ends
        words = []
    return NotedCommand(form, tuple(words), text)


def noted(words: list[str], *, is_piped: bool) -> str:
    """The text of a command that was typed, for a plan.

    >>> noted(["moegrow", "width", "--plan"], is_piped=True)
    '| moegrow width --plan'
    """
    return (_PIPE if is_piped else "") + shlex.join(words)
