"""Make moegrow/families/defaults.toml: what config classes say where config.json has no such key.

`python tests/support/class_defaults.py` writes the file from the transformers that is installed;
test_class_defaults.py holds the file against it, so that a new release shows what it changes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

import moegrow
from moegrow.families.registry import DEFAULTS, find_family, known_types
from moegrow.families.schema import ConfigKeys, Router, Setting

FILE = Path(moegrow.__file__).parent / "families" / DEFAULTS

# Types that transformers loads by the config class of another, or whose own class is not of a
# language model with experts.
CLASSES = {"kimi_k2": "deepseek_v3", "mistral3": "mistral4"}

HEADER = """\
# What the config classes of transformers say where config.json has no such key: of each model type
# the keys that its family file names. Made by tests/support/class_defaults.py, and held against it.
"""


def file() -> str:
    """The text of the file."""
    parts = [HEADER]
    for name in known_types():
        if found := defaults(name):
            lines = [f"{_key(key)} = {_toml(value)}" for key, value in found.items()]
            parts.append("\n".join([f"[{name}]", *lines, ""]))
    return "\n".join(parts)


def defaults(model_type: str) -> dict[str, Any]:
    """The defaults that count for a model type: plain ones that no other key decides."""
    family = find_family(model_type)
    cls = transformers.CONFIG_MAPPING[CLASSES.get(model_type, model_type)]
    usual, other = cls().get_text_config(), None
    layers = {key: 12 for key in family.config.layers if _read(usual, key) is not None}
    with contextlib.suppress(Exception):  # a class may not take another number of layers
        other = type(usual)(**layers)
    found: dict[str, Any] = {}
    for spellings in _keys(family.config, family.router):
        for key in spellings:
            value = _read(usual, key)
            is_plain = type(value) in (bool, int, float, str)
            is_own = key in layers or other is None or _read(other, key) == value
            if is_plain and is_own:
                found.setdefault(key, value)
                break
    return dict(sorted(found.items()))


def _keys(config: ConfigKeys, router: Router) -> Iterator[tuple[str, ...]]:
    """The keys that a family file names, all spellings of one together."""
    yield from (config.experts, config.top_k, config.layers)
    settings = [router.scores, router.normalised, router.exponent, router.scaling]
    keys = [router.extra]
    if router.groups:
        keys += [router.groups.count, router.groups.kept, router.groups.when]
    for key, form in config.per_layer.items():
        settings.append(form.offset)
        keys.append(form.step)
        # Where another key stands for it, the class does not read it.
        if form.form not in ("list", "numbers", "table") and not form.unless:
            keys.append(key)
        if form.rule:
            settings += [form.rule.every, form.rule.start, form.rule.before]
            keys += [form.rule.below, form.rule.when]
    keys += [setting.key for setting in settings if isinstance(setting, Setting)]
    yield from ((key,) for key in keys if key and not key.startswith("/"))


def _read(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
    return config


def _key(key: str) -> str:
    return f'"{key}"' if "." in key else key


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    FILE.write_text(file())
