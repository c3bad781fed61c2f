"""A plan from its JSON lines, which may be a stranger's: read strictly."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from io import TextIOWrapper
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, TextIO

from moegrow.checkpoint.checkpoint import QUANT_FILES
from moegrow.checkpoint.fingerprint import SourceFile
from moegrow.checkpoint.header import BITS
from moegrow.checkpoint.listing import safe
from moegrow.checkpoint.shard_index import MOST_TENSORS
from moegrow.checkpoint.store import CONFIG, MOST_FILES, names_weights, scheme
from moegrow.errors import MoegrowError
from moegrow.files import json_edit, untrusted
from moegrow.files.untrusted import opened
from moegrow.growth import ROUNDINGS, Growth, Noise
from moegrow.maps import NULL, check_size
from moegrow.planning.notes import read_summary
from moegrow.planning.plan import STORED, Output, Piece, Plan, Source, Storage
from moegrow.planning.plan_lines import output_line
from moegrow.quant.decoding import CODECS, SETTINGS, Decoding
from moegrow.recipes.recipe import MOST_STEPS, Step, read_step

# Characters of a plan and of one of its lines: a million tensors of some hundred each, one that is
# put together from all experts that there may be, and a header with the config.
LARGEST_PLAN, LONGEST_TENSOR, LONGEST_LINE = 512 << 20, 16 << 20, 32 << 20

MOST_IN_MEMORY = 64 << 20  # bytes of a plan's lines

MOST_EMPTY = 1000  # lines

# The versions that are read; the highest goes up when an older reader would misunderstand a plan,
# and each plan says the lowest in which it can be written.
FORMATS = (1, 2, 3, 4)


class Texts:
    """Lines that are gone through more than once; so many that memory is short lie in a file."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._file = SpooledTemporaryFile(MOST_IN_MEMORY)  # noqa: SIM115
        self._count = 0
        for line in lines:
            # Halves of characters, which an edited plan may have, come back as they were.
            self._file.write(line.encode("utf-8", "surrogatepass"))
            if not line.endswith("\n"):
                self._file.write(b"\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for line in self._file:
            yield line[:-1].decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Lines:
    """A plan as it came in: its header is understood, the lines of its tensors are not yet.

    `header` is the plan without outputs, `promised` what it says of their number, and `texts`
    are the lines behind it, without line ends.
    """

    header: Plan
    promised: Any
    texts: Texts

    def spell(self, outputs: tuple[Output, ...]) -> bool:
        """Whether the lines are those of these outputs, mark by mark; nothing is parsed."""
        return len(self.texts) == len(outputs) == self.promised and all(
            map(operator.eq, self.texts, map(output_line, outputs))
        )

    def plan(self) -> Plan:
        """The plan that the lines spell out.

        Raises MoegrowError, with the number of the line, where they are not of this format or
        where some are missing. Whether the plan fits its source is for check.py to say.
        """
        outputs = []
        number = 1
        try:
            for number, text in enumerate(self.texts, 2):
                if text.strip():
                    what, most = f"line {number} of the plan", json_edit.MOST_SHALLOW
                    outputs.append(_output(json_edit.loads(text, what, most=most)))
        except _WRONG_KINDS as error:
            raise _malformed(number, error) from None
        if len(outputs) != self.promised:
            raise MoegrowError(
                f"the plan promises {self.promised} tensors and spells out {len(outputs)}",
                "it was cut short: make it again with --plan",
            )
        return replace(self.header, outputs=tuple(outputs))


def from_lines(lines: Iterable[str]) -> Plan:
    """The plan that the lines of its file spell out."""
    return take_lines(lines).plan()


def take_lines(lines: Iterable[str]) -> Lines:
    """The lines of a plan; raises MoegrowError where the first is no header of this format."""
    rest = iter(lines)
    header = json_edit.loads(next(rest, ""), "line 1 of the plan", is_shallow=True)
    version = header.get("moegrow_plan")
    if type(version) is not int or version not in FORMATS:
        raise MoegrowError(
            f"this is not a plan that moegrow can read: moegrow_plan is {version!r}, not"
            f" {', '.join(map(str, FORMATS[:-1]))} or {FORMATS[-1]}",
        )
    try:
        plan = Plan(
            source=_source(header["source"]),
            family=_text(header["family"]),
            growth=_growth(header["growth"]),
            steps=tuple(read_summary(_step(step)) for step in header["steps"]),
            config=_text(header["config"]),
            outputs=(),
            commands=tuple(map(_text, header["commands"])),
            family_text=_text(header.get("family_text", "")),
            files=_files(header.get("files", {})),
            storage=_storage(header.get("storage", {})),
            recipe=_recipe(header),
            metadata=_metadata(header.get("metadata", {})),
        )
    except _WRONG_KINDS as error:
        raise _malformed(1, error) from None
    promised = header.get("outputs")
    if type(promised) is not int or not 0 <= promised <= MOST_TENSORS:
        raise MoegrowError(f"the plan promises {promised!r} tensors, which makes no sense")
    return Lines(plan, promised, Texts(_texts(rest, promised)))


def _texts(lines: Iterator[str], promised: int) -> Iterator[str]:
    """The lines behind the header: those promised, and perhaps some that are empty."""
    found = empty = 0
    for line in lines:
        if len(line) > LONGEST_TENSOR:
            raise MoegrowError(
                f"line {found + empty + 2} of the plan has {len(line)} characters, and the most of"
                f" a tensor is {LONGEST_TENSOR}"
            )
        is_empty = line.isspace() or not line
        found, empty = found + (not is_empty), empty + is_empty
        if found > promised or empty > MOST_EMPTY:
            raise MoegrowError(
                f"the plan promises {promised} tensors and spells out more",
                "make it again with --plan",
            )
        yield line


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a plan in an open file, which may be a stranger's and have no end."""
    return untrusted.lines(file, "the plan", longest=LONGEST_LINE, most=LARGEST_PLAN)


def read_lines(path: Path) -> Lines:
    """The lines of the plan in a file, which may not be a link."""
    with opened(path.parent, path.name) as file:
        return take_lines(lines_of(TextIOWrapper(file, encoding="utf-8", errors="replace")))


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    return read_lines(path).plan()


# What taking values of the wrong kind apart ends in.
_WRONG_KINDS = (
    AttributeError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError,
)  # fmt: skip


def _malformed(number: int, error: Exception) -> MoegrowError:
    return MoegrowError(
        f"line {number} of the plan is malformed: {type(error).__name__} {error}",
        "make the plan again with --plan",
    )


def is_plan(path: Path) -> bool:
    """Whether a file begins as a plan does; nothing is parsed."""
    if not path.is_file() or path.name == CONFIG or names_weights(path.name):
        return False
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _growth(table: dict[str, Any]) -> Growth:
    for what in ("layers", "experts"):
        check_size(len(table[what]), what)
    layers = _numbers(table["layers"])
    experts = tuple(NULL if expert == NULL else _number(expert) for expert in table["experts"])
    silent = set(_numbers(table["silent"]))
    return Growth(
        layers=layers,
        silent=tuple(layer in silent for layer in range(len(layers))),
        experts=experts,
        weight_noise=_noises(table["weight_noise"], len(experts)),
        router_noise=_noises(table["router_noise"], len(experts)),
        top_k=_number(table["top_k"]),
    )


def _noises(runs: list[list[Any]], count: int) -> tuple[Noise | None, ...]:
    noises: list[Noise | None] = [None] * count
    end = 0
    for first, stop, *told in runs:
        if not end <= _number(first) <= _number(stop):
            raise ValueError("runs of noise overlap or run backwards")
        noise, end = _noise(*told), stop
        noises[first : min(stop, count)] = [noise] * (min(stop, count) - first)
    return tuple(noises)


def _noise(kind: Any, amount: Any, seed: Any, rounding: Any = "nearest") -> Noise:
    if kind not in ("normal", "finite", "uniform"):
        raise ValueError(f"noise {kind!r} is neither normal nor finite nor uniform")
    if type(amount) not in (int, float) or not 0 < amount < 1e6:
        raise ValueError(f"a noise of {amount!r} makes no sense")
    if rounding not in ROUNDINGS:
        raise ValueError(f"the rounding {rounding!r} is not known")
    return Noise(kind, float(amount), _number(seed), rounding)


def _source(table: dict[str, Any]) -> Source:
    files = tuple(
        SourceFile(_file_name(file["name"]), _number(file["size"]), _text(file["digest"]))
        for file in table["files"][:MOST_FILES]
    )
    path = _text(table["path"])
    if not scheme(path) and not Path(path).is_absolute():
        raise ValueError(f"the path of the source, {path!r}, is not absolute")
    named = _text(table.get("named", ""))
    if named and not (names_weights(named) and _is_inside(named)):
        raise ValueError(f"{named!r} is not the name of a weight file or of an index")
    return Source(path, _text(table["config_digest"]), files, named)


def _file_name(name: Any) -> str:
    """The name of a file in the source's folder; any other could lead out of it."""
    if not _text(name).endswith(".safetensors") or not _is_inside(name):
        raise ValueError(f"{name!r} is not the name of a weight file")
    return str(name)


def _is_inside(name: str) -> bool:
    try:
        return safe(name) == name
    except MoegrowError:
        return False


def _storage(table: dict[str, Any]) -> Storage:
    _check_keys(table, *Storage._fields)
    if not all(dtype in ("", *STORED) for dtype in table.values()):
        raise ValueError(f"the storage {table!r} is not known")
    return Storage(**table)


def _files(table: dict[str, Any]) -> tuple[tuple[str, str | None], ...]:
    """Texts of files beside the config; only those that speak of quantisation can be others."""
    for name in table:
        if name not in QUANT_FILES:
            raise ValueError(f"{name!r} is no file that a plan can change")
    return tuple((name, None if text is None else _text(text)) for name, text in table.items())


def _metadata(table: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Texts for the headers of weight files; their format is moegrow's to say."""
    if "format" in table:
        raise ValueError("the metadata cannot say the format")
    found = tuple(sorted((key, _text(text)) for key, text in table.items()))
    for text in (text for pair in found for text in pair):
        text.encode()  # an escape for half a character is no text, and raises a ValueError
    return found


def _step(table: dict[str, Any]) -> dict[str, Any]:
    """A step, with what other files rely on in it."""
    step = table | {"says": list(map(_text, table["says"]))}
    counted = {"depth": ["layers"], "width": ["experts", "top_k"]}
    for key in counted.get(_text(step["axis"]), []):
        before, after = step[key]
        step[key] = [_number(before), _number(after)]
        if not before:
            raise ValueError(f"{key} {before} makes no sense")
    return step


def _recipe(header: dict[str, Any]) -> tuple[Step, ...] | None:
    """The steps that a plan notes; None where an older moegrow noted none of those it took."""
    if "recipe" not in header:
        return None if header["steps"] else ()
    steps = header["recipe"]
    if not isinstance(steps, list) or len(steps) > MOST_STEPS:
        raise ValueError("the recipe makes no sense")
    return tuple(read_step(step, "the recipe in line 1 of the plan") for step in steps)


def _output(table: dict[str, Any]) -> Output:
    if table["dtype"] not in BITS:
        raise ValueError(f"the dtype {table['dtype']!r} is not known")
    _check_keys(table, "name", "dtype", "shape", "axis", "pieces")
    pieces = tuple(map(_piece, table["pieces"]))
    shape, axis = _numbers(table["shape"]), _number(table.get("axis", 0))
    if axis and axis >= len(shape):
        raise ValueError(f"there is no axis {axis} in {list(shape)}")
    return Output(_text(table["name"]), table["dtype"], shape, pieces, axis)


def _piece(table: dict[str, Any]) -> Piece:
    start, stop = table["rows"]
    noise = None
    if "noise" in table:
        told = dict(table["noise"])
        seed, rounding = told.pop("seed"), told.pop("rounding", "nearest")
        ((kind, amount),) = told.items()
        noise = _noise(kind, amount, seed, rounding)
    scale, shift = (
        _fraction(table.get("scale", "1")),
        _fraction(table.get("shift", "0")),
    )
    if scale < 0:
        raise ValueError("the scale makes no sense")
    decoding = _decoding(table["decode"]) if "decode" in table else None
    _check_keys(table, "from", "rows", "decode", "noise", "scale", "shift")
    rows = _number(start), _number(stop)
    return Piece(_text(table["from"]), *rows, noise, scale, shift, decoding)


def _decoding(table: dict[str, Any]) -> Decoding:
    _check_keys(table, "codec", "with", *SETTINGS)
    if table["codec"] not in CODECS:
        raise ValueError(f"the codec {table['codec']!r} is not known")
    companions = tuple((role, _text(name)) for role, name in table.get("with", {}).items())
    settings = tuple((key, _number(table[key])) for key in table if key in SETTINGS)
    return Decoding(table["codec"], companions, settings)


@lru_cache(maxsize=1 << 10)
def _fraction(text: Any) -> Fraction:
    """A fraction of whole numbers; Fraction itself would also work out 1e999999999."""
    if not re.fullmatch(r"-?[0-9]{1,18}(/[0-9]{1,18})?", _text(text)):
        raise ValueError(f"{text!r} is not a fraction that makes sense")
    return Fraction(text)


def _check_keys(table: dict[str, Any], *known: str) -> None:
    """A key that is not known could mean something that would be left undone."""
    for key in table:
        if key not in known:
            raise ValueError(f"the key {key!r} is not known")


def _checked(kind: type, what: str, is_good: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind or not is_good(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return check


_number: Callable[[Any], int] = _checked(int, "a number from 0 up", lambda n: 0 <= n < 2**63)
_text: Callable[[Any], str] = _checked(str, "a text", lambda text: True)


def _numbers(values: list[Any]) -> tuple[int, ...]:
    return tuple(map(_number, values))
