"""Errors that users see: a message, and a hint with the next thing to type."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

SHOWN = 10
LONGEST = 20_000  # characters of a message: what it names may be anyone's, and as long as they like


@dataclass(frozen=True)
class Message:
    """A text with parameters in it, which is put together by +."""

    parts: tuple["str | Parameter", ...]

    def __add__(self, other: "Text") -> "Message":
        return Message(_parts(self) + _parts(other))

    def __radd__(self, other: str) -> "Message":
        return Message((other, *_parts(self)))

    def __str__(self) -> str:
        return spell(self)


@dataclass(frozen=True)
class Parameter:
    """A parameter in a message, perhaps with its value; a command line spells it as a flag.

    >>> str("use " + Parameter("new_layers", "copy") + " or leave out " + Parameter("layers"))
    "use new_layers='copy' or leave out layers"
    """

    name: str
    value: object = None

    def __add__(self, other: "Text") -> Message:
        return Message((self,)) + other

    def __radd__(self, other: str) -> Message:
        return Message((other, self))

    def __str__(self) -> str:
        given = os.fspath(self.value) if isinstance(self.value, os.PathLike) else self.value
        return self.name if given is None else f"{self.name}={given!r}"


Text = str | Parameter | Message


def _parts(text: Text) -> tuple[str | Parameter, ...]:
    return text.parts if isinstance(text, Message) else (text,)


def spell(text: Text, spelled: Callable[[Parameter], str] = str) -> str:
    """The text with its parameters as Python has them, or as they are `spelled` elsewhere."""
    whole = "".join(part if isinstance(part, str) else spelled(part) for part in _parts(text))
    if len(whole) > LONGEST:
        return f"{whole[:LONGEST]}… and {len(whole) - LONGEST} more characters"
    return whole


class MoegrowError(Exception):
    """Something is wrong that the user can mend.

    `message` names the file, tensor or parameter and the values that disagree; `hint` is the next
    thing to type, or "" where there is none to give. `said` and `advice` are the same as values.
    `headline` is the message without the list that may stand below it.
    """

    def __init__(self, message: Text, hint: Text = "") -> None:
        super().__init__(spell(message))
        self.said, self.advice = message, hint
        self.message, self.hint = spell(message), spell(hint)
        self.headline = self.message


class ListedError(MoegrowError):
    """An error with a list below its headline, which the text `leads` into."""

    def __init__(self, headline: Text, lines: Iterable[Text], hint: Text = "", leads: str = ":"):
        message = headline + leads
        for line in lines:
            message = message + "\n" + line
        super().__init__(message, hint)
        self.headline = spell(headline)


class UsageError(MoegrowError):
    """The command itself is wrong (exit code 2), whatever the checkpoint holds."""


class InterruptedRun(MoegrowError):
    """The person, or the system, stopped the run (exit code 130)."""


class UnfinishedError(MoegrowError):
    """A run ended early, and can be gone on with where it has finished shards."""


class OutOfReachError(MoegrowError):
    """A source far away that is not looked for, because no network is to be used."""


def printable(text: str) -> str:
    r"""The text with what would steer a terminal spelled out, lines and tabs as they are.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" else mark.encode("unicode_escape").decode()
        for mark in text
    )


def meant(word: object, known: Iterable[str]) -> str:
    """The word of those known that is most like `word`, or "" where none is.

    >>> meant("interpos", ["interpose", "stack"])
    'interpose'
    """
    from difflib import get_close_matches

    return next(iter(get_close_matches(str(word)[:100], list(known), 1)), "")


def choose(word: object, known: Iterable[str], ask: str = "") -> str:
    """The hint for a word that is none of those known: what was probably meant, and what to do.

    >>> choose("interpos", ["interpose", "stack"])
    'did you mean interpose? known: interpose, stack'
    """
    names = list(known)
    guess = meant(word, names)
    return (f"did you mean {guess}? " if guess else "") + (ask or f"known: {', '.join(names)}")


def one_line(text: str) -> str:
    r"""The text as `printable` has it, line ends and tabs spelled out too.

    >>> one_line("a\nerror: b")
    'a\\nerror: b'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def raise_all(what: Text, problems: Sequence[Text], hint: Text = "") -> None:
    """Raise one MoegrowError that lists every problem, if there are any.

    Reporting them together saves the user from mending one per run. After the first ten
    only the number of the others is given.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise MoegrowError(what + ": " + problems[0], hint)
    lines: list[Text] = ["  " + problem for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    raise ListedError(what, lines, hint)
