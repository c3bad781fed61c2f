"""Texts that are made to take time or memory, for each kind of text that moegrow reads."""

import hashlib
import json

from moegrow.files.json_edit import MOST_SHALLOW, MOST_VALUES
from moegrow.files.untrusted import MOST_WIDE

MIB = 1 << 20
GRIN = "\U0001f600"  # makes each character of its text take four bytes


def keys(count, key="{:07d}"):
    """A JSON table of so many keys."""
    return "{" + ",".join(f'"{key.format(number)}":0' for number in range(count)) + "}"


def tables(count, table='{"b":{"c":{"d":{"a":0}}}}'):
    """A JSON list of equal values, `count` in all with those within them."""
    inner = sum(map(table.count, ",[{")) + 1
    return "[" + ",".join([table] * (count // inner)) + "]"


def wide(size):
    """A JSON text of so many bytes."""
    return f'"{GRIN}{"a" * size}"'


# JSON values that are just small enough to be read, in time and memory the worst that are known:
# of a text that is looked into, such as a config, and of another.
WORST = {"keys": keys(MOST_SHALLOW - 2000), "tables": tables(MOST_SHALLOW - 2000)}
WORST_READ = {"keys": keys(MOST_VALUES - 2000), "tables": tables(MOST_VALUES - 2000)}

VALUES = {
    **WORST,
    **{f"{name}, more": value for name, value in WORST_READ.items()},
    "long keys": keys(MOST_VALUES - 2000, "{:050d}"),
    "longer keys": keys(MOST_SHALLOW - 2000, "{:0135d}"),
    "many longer keys": keys(MOST_VALUES - 2000, "{:075d}"),
    "texts": tables(MOST_VALUES - 2000, '"aaaaaaaaa"'),
    "numbers": tables(MOST_VALUES - 2000, "1000000"),
    "lists": tables(MOST_VALUES - 2000, "[]"),
    "wide texts": "[" + ",".join([wide(5)] * (MIB - 2000)) + "]",
    "wide keys": "{" + ",".join(f'"{n:07d}{GRIN}":0' for n in range(MIB)) + "}",
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep tables": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a key twice": '{"a":1,"a":2}',
    "a wide text": wide(12 * MIB),
    "a wider text": wide(MOST_WIDE - 5000),
    "a text too wide": wide(60 * MIB),
    "a text that an escape makes wide": f'"\\ud83d\\ude00{"a" * (12 * MIB)}"',
    "a longer one": f'"\\ud83d\\ude00{"a" * (60 * MIB)}"',
    "a text without end": '"' + "a" * (90 * MIB) + '"',
    "escapes": '"' + "\\u00e9" * (2 * MIB) + '"',
    "half a character": '"\\ud800"',
    "a number without end": "9" * 100_000,
    "a large number": "9" * 4000,
    "no number": "NaN",
    "infinity": "-Infinity",
    "a float": "1e400",
    "not closed": '{"a": [',
}  # fmt: skip

PATTERNS = {
    "optional marks": ".?" * 30 + "." * 30 + "X",
    "bars": "(.|.)" * 60 + "X",
    "parentheses": "(" * 1000 + ")" * 1000,
    "a long one": "layers\\." * 8000,
    "one too long": "layers\\." * 100_000,
    "repeats": "(a+)+" * 1000,
    "counted": "((a{100}){100}){100}",
    "ahead": "(?!" * 20_000,
    "classes": "[" * 60_000,
    "numbers": "layers." + "(1|" * 20_000,
    "empty": "",
}

DOTTED = "a" + ".a" * 20_000 + " = 1\n"

TOML = {
    "a dotted key": DOTTED,
    "a dotted header": "[" + "a." * 20_000 + "a]\n",
    "many dotted keys": "".join(f"a{n}.b.c.d.e.f.g.h = 1\n" for n in range(9000)),
    "many tables": "".join(f"[a{n}]\n" for n in range(20_000)),
    "deep lists": "x = " + "[" * 30_000 + "]" * 30_000,
    "deep tables": "x = " + "{a=" * 20_000 + "1" + "}" * 20_000,
    "a long text": "x = '" + "a" * 200_000 + "'",
    "a number without end": "x = " + "9" * 50_000,
    "a large number": "x = 0x" + "f" * 50_000,
    "quotes": '"' * 200_001,
}

CARDS = {
    "deep": "a: " + "[" * 50_000,
    "references": "a: &a [1]\n" + "".join(
        f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(60)
    ),
    "a long text": "license: " + "a" * (2 * MIB),
    "many keys": "".join(f"k{n}: 1\n" for n in range(20_000)),
    "a number": "license: " + "9" * 100_000,
    "tabs": "\t" * 100_000,
    "brackets": "a: " + "{" * 1000 + "}" * 1000 + "\nb: " + "[]," * 30_000,
}  # fmt: skip


def json_with(text, key, value):
    """A JSON object with the text of a value at a key; the other keys stay."""
    table = {name: old for name, old in json.loads(text).items() if name != key}
    rest = json.dumps(table)[1:-1]
    return f'{{"{key}": {value}{", " if rest else ""}{rest}}}'


def digests(header, *lines):
    """A file of digests that says of itself that it is as it was written."""
    above = "".join(f"{line}\n" for line in (header, *lines))
    return (
        above
        + json.dumps({"above": hashlib.sha256(above.encode()).hexdigest()}).replace(": ", ":")
        + "\n"
    )


def header(text):
    """A safetensors file with this header and no data."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw
