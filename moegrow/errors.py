"""The one kind of error that a person sees: a message, and a hint with the next thing to type."""

from collections.abc import Iterable, Sequence

SHOWN = 10
LONGEST = 20_000  # characters of a message: what it names may be anyone's, and as long as they like


class MoegrowError(Exception):
    """Something is wrong that the user can mend.

    `message` names the file, tensor or flag and the values that disagree;
    `hint` is the next thing to type, or "" where there is none to give.
    `headline` is the message without the list that may stand below it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]}… and {len(message) - LONGEST} more characters"
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.headline = message


class ListedError(MoegrowError):
    """An error with a list below its headline, which the text `leads` into."""

    def __init__(self, headline: str, lines: Iterable[str], hint: str = "", leads: str = ":"):
        super().__init__("\n".join([headline + leads, *lines]), hint)
        self.headline = headline[:LONGEST]


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


def raise_all(what: str, problems: Sequence[str], hint: str = "") -> None:
    """Raise one MoegrowError that lists every problem, if there are any.

    Reporting them together saves the user from mending one per run. After the first ten
    only the number of the others is given.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise MoegrowError(f"{what}: {problems[0]}", hint)
    lines = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    raise ListedError(what, lines, hint)
