"""Read settings of the language model from a config, which may have them in a sub-config."""

from collections.abc import Iterable, Mapping
from typing import Any

from moegrow.errors import MoegrowError, Parameter
from moegrow.families.schema import Config, Family, lookup, number

MOST = 1_000_000  # layers or experts that a config may speak of


def present(config: Config, spellings: Iterable[str]) -> list[str]:
    """The spellings of a setting that the config uses; none is ever added beside another."""
    return [key for key in spellings if lookup(config, key) is not None]


def promised_predictions(config: Config, family: Family) -> int:
    """How many multi-token-prediction layers the config speaks of."""
    return max((number(config, key) for key in family.config.prediction_layers), default=0)


def text_config(config: Config, family: Family) -> tuple[tuple[str, ...], Config]:
    """The keys and the part of the config that describes the language model."""
    for path in family.config.nested:
        found = lookup(config, path)
        if isinstance(found, Mapping):
            _check_inner(found, path, family)
            return tuple(path.split(".")), _spelled(found, family)
    return (), _spelled(config, family)


def _check_inner(config: Config, path: str, family: Family) -> None:
    """A composite may hold a language model of any type, and the family describes one of them."""
    inner, known = config.get("model_type"), family.config.inner
    if known and inner is not None and inner not in known:
        raise MoegrowError(
            f"config.json is of {family.name} around {inner!r} ({path}.model_type), and moegrow"
            f" knows {family.name} around {' or '.join(known)} alone",
            f"describe {family.name} around {inner} in a file of your own, and give it with"
            " " + Parameter("family", "FILE.toml") + " (docs/adding-a-family.md)",
        )


def _spelled(config: Config, family: Family) -> Config:
    """The config, with what it spells otherwise also under the key that the family file uses."""
    spelled = dict(config)
    for spelling, key in family.config.spellings.items():
        value = config.get(spelling)
        if value is None:
            continue
        if spelled.get(key) not in (None, value):
            raise MoegrowError(
                f"config.json disagrees with itself: {key} {config[key]!r}, {spelling} {value!r}"
            )
        spelled[key] = value
    return _completed(spelled, family)


def _completed(config: dict[str, Any], family: Family) -> Config:
    """The config with the values that count for the keys that it leaves out.

    A key that is there and null says something else than one that is not there.
    """
    keys = family.config
    alike = [keys.experts, keys.top_k, (*keys.layers, *keys.doubled_layers, *keys.layers_lists)]
    for key, value in keys.defaults.items():
        spellings = next((names for names in alike if key in names), (key,))
        if not any(_is_said(config, name) for name in spellings):
            _say(config, key, value)
    return config


def _is_said(config: Config, key: str) -> bool:
    table, _, last = key.rpartition(".")
    found = lookup(config, table) if table else config
    return isinstance(found, Mapping) and last in found


def _say(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, or one in a table, without changing the tables of the config as it was read."""
    table, _, rest = key.partition(".")
    if not rest:
        config[key] = value
        return
    found = config.get(table)
    inner = dict(found) if isinstance(found, Mapping) else {}
    _say(inner, rest, value)
    config[table] = inner


def model_type(config: Config) -> str:
    found = config.get("model_type")
    if not isinstance(found, str):
        raise MoegrowError(
            "config.json names no model_type", "add the one that transformers would load it by"
        )
    return found


def layer_count(config: Config, family: Family) -> int:
    """The number of layers, also of models that only list their layers."""
    for key in present(config, family.config.layers_lists):
        listed = lookup(config, key)
        if not isinstance(listed, list | str):
            raise MoegrowError(f"config.json: {key} is {listed!r}, not a list of layers")
        return _sensible(len(listed), f"the length of {key}", "number of layers")
    for key in present(config, family.config.doubled_layers):
        if not present(config, family.config.layers):
            return _sensible(number(config, key) // 2, f"half of {key}", "number of layers")
    return setting(config, family.config.layers, "number of layers")


def extra(config: Config, family: Family) -> int:
    """The number of rows of the router behind those of the experts."""
    key = family.router.extra
    if not key or not number(config, key):
        return 0
    return _sensible(number(config, key), key, "number of rows of the router")


def setting(config: Config, spellings: Iterable[str], what: str) -> int:
    """The number under any of the spellings; those that are present must agree.

    A list with one number per layer counts as that number where all are equal.
    """
    found = {}
    for key in present(config, spellings):
        value = lookup(config, key)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        found[key] = _sensible(value, key, what)
    if not found:
        raise MoegrowError(f"config.json does not say the {what}: no {' or '.join(spellings)}")
    if len(set(found.values())) > 1:
        told = ", ".join(f"{key} {value}" for key, value in found.items())
        raise MoegrowError(f"config.json disagrees with itself on the {what}: {told}")
    return int(next(iter(found.values())))


def _sensible(value: Any, key: str, what: str) -> int:
    """A number of layers or experts, which others count up to."""
    if type(value) is not int or not 0 < value <= MOST:
        raise MoegrowError(f"config.json: {key} is {value!r}, not a sensible {what}")
    return value
