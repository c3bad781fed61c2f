"""The one kind of error that a person sees: a message, and a hint with the next thing to type."""

from collections.abc import Sequence

SHOWN = 10


class MoegrowError(Exception):
    """Something is wrong that the user can mend.

    `message` names the file, tensor or flag and the values that disagree;
    `hint` is the next thing to type, or "" where there is none to give.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MoegrowError):
    """The command itself is wrong (exit code 2), whatever the checkpoint holds."""


def printable(text: str) -> str:
    r"""The text with what would steer a terminal spelled out, lines and tabs as they are.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" else mark.encode("unicode_escape").decode()
        for mark in text
    )


def one_line(text: str) -> str:
    r"""The text as `printable` has it, line ends and tabs spelled out too.

    >>> one_line("a\nerror: b")
    'a\\nerror: b'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def raise_all(what: str, problems: Sequence[str], hint: str = "") -> None:
    """Raise one MoegrowError that lists every problem, if there are any.

    Reporting them together saves the user from mending one per run. After the first ten
    only the number of the others is given.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise MoegrowError(f"{what}: {problems[0]}", hint)
    lines = [f"{what}:", *(f"  {problem}" for problem in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    raise MoegrowError("\n".join(lines), hint)
