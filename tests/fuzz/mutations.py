"""Structured damage: what a stranger may have written instead of what was there."""

import json
import re
from random import Random
from typing import Any

# Values that have broken readers of files before.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, 10**400, 0.0,
    -0.5, 0.5, 1e308, 1e999, -1e999, "", " ", "0", "²", "nan", "-1", "9" * 20, "../x",
    "/etc/passwd", "\0", "\x1b[2J", "\u202e", "\ud800", "ü" * 40, "a" * 2000, "*" * 30,
    [], {}, [[]], {"": None},
    [0] * 5, [None], ["x"], [[[[[[[[[[0]]]]]]]]]], "{layer}", "{expert}", "model.layers.{layer}.",
]  # fmt: skip

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> list[Path]:
    """The path of every value within a JSON value, the outermost left out."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found: list[Path] = []
    for key, item in inner[:300]:
        found += [(*path, key), *places(item, (*path, key))]
    return found


def damage(value: Any, random: Random) -> Any:
    """The JSON value with one thing in it changed; the value itself may be spent."""
    paths = places(value)
    if not paths:
        return random.choice(NASTY)
    path = random.choice(paths)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, old = path[-1], holder[path[-1]]
    kind = random.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(random.choice(NASTY))[:50]] = old
    elif kind == 2 and isinstance(holder, list):
        holder *= random.choice([2, 3, 50])
    elif kind == 3 and type(old) in (int, float):
        holder[key] = _other_number(old, random)
    elif kind == 4 and isinstance(old, str) and old:
        at = random.randrange(len(old))
        holder[key] = old[:at] + str(random.choice(NASTY))[:20] + old[at + random.randrange(2) :]
    elif kind == 5:
        other = value
        for step in random.choice(paths):
            other = other[step]
        # As text and back, so that nothing holds itself.
        holder[key] = json.loads(json.dumps(other))
    elif kind == 6 and isinstance(old, list):
        random.shuffle(old)
    else:
        holder[key] = random.choice(NASTY)
    return value


def _other_number(number: float, random: Random) -> Any:
    try:
        return random.choice([number + 1, number - 1, -number, number * 2, number / 2, str(number)])
    except OverflowError:
        return 0


def damaged_json(text: str, random: Random) -> str:
    """A JSON text with one to three changes, now and then to the text instead of its values."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        try:
            text = json.dumps(damage(json.loads(text), random))
        except (ValueError, RecursionError):
            text = damaged_text(text, random)
    return damaged_text(text, random) if not random.randrange(8) else text


def damaged_text(text: str, random: Random) -> str:
    """A text with a piece cut out, doubled, or replaced by something nasty."""
    first = random.randrange(len(text) + 1)
    last = min(len(text), first + random.choice([0, 1, 1, 2, 5, 50]))
    inserted = random.choice(
        ["", text[first:last] * 2, *map(str, NASTY[:40]), "NaN", "1e999", "[" * 99]
    )
    return text[:first] + inserted + text[last:]


def damaged_lines(text: str, random: Random) -> str:
    """Lines of JSON with one of them changed, gone, or there twice."""
    lines = text.split("\n")
    at = 0 if not random.randrange(3) else random.randrange(len(lines))
    kind = random.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        lines[at] = lines[random.randrange(len(lines))]
    else:
        lines[at] = damaged_json(lines[at], random)
    return "\n".join(lines)


def damaged_header(content: bytes, random: Random) -> bytes:
    """A safetensors file with its header changed, or its length, or some of its bytes."""
    length = int.from_bytes(content[:8], "little")
    kind = random.randrange(10)
    if kind == 0:
        at = random.randrange(len(content) + 1)
        return content[:at] + random.randbytes(random.randrange(9)) + content[at + 1 :]
    if kind == 1:
        return (
            random.choice([0, 1, 7, length // 2, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
            + content[8:]
        )
    if kind == 2:
        return content[: random.randrange(len(content) + 1)]
    text = content[8 : 8 + length].decode("utf-8", "replace")
    raw = damaged_json(text, random).encode("utf-8", "replace")
    return len(raw).to_bytes(8, "little") + raw + content[8 + length :]


def damaged_toml(text: str, random: Random) -> str:
    """A family file with a value exchanged, a line gone or doubled, or a piece of text replaced."""
    lines = text.split("\n")
    at = random.randrange(len(lines))
    kind = random.randrange(6)
    values = [
        "0", "-1", "1000000000000", "1e999", "nan", '""', '"*"', '"x.*.*.*.y"', "[]", "{}", "true",
        '["{layer}."]', '["l.{layer}."]', '["*"]', '["{expert}"]', "1979-05-27", "[[[[[]]]]]",
        '{ key = "x", default = 0 }', '"\\u001b[2J"', '"a.b.c"', '"num_hidden_layers"', '"softmax"',
    ]  # fmt: skip
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, random.choice(lines))
    elif kind in (2, 3):
        lines[at] = re.sub(r"=.*", lambda _: "= " + random.choice(values), lines[at], count=1)
    elif kind == 4:
        return damaged_text(text, random)
    else:
        quoted = re.findall(r'"[^"]*"', text) or ['""']
        old, new = random.choice(quoted), random.choice([*quoted, *values[5:8]])
        return text.replace(old, new, 1)
    return "\n".join(lines)
