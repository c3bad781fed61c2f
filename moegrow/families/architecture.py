"""Recognise checkpoints of another architecture than their family describes."""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from moegrow.families.schema import Config, Family, Rule, Setting

# What follows a type's name in the names of its classes, in lower case: heads and base models.
_HEAD = re.compile(r"(thinker)?(text|vision|lm)?(model|pretrainedmodel|lmheadmodel|for[a-z]\w*)")

# Words that keys are made of which say something of layers one by one, or of a rhythm of layers.
_WORDS = {
    "block", "blocks", "dense", "depth", "end", "every", "first", "freq", "frequency", "idx",
    "idxs", "ids", "indexes", "indices", "interval", "last", "layer", "layers", "offset",
    "pattern", "period", "share", "skip", "start", "step", "stride",
}  # fmt: skip
# Words of keys that are about something else in spite of those.
_OTHER = {"eps", "epsilon", "init", "norm", "time", "token", "tokens", "vocab"}

# Lists that any config may have and that are never about layers: names of classes, tokens that end
# a text or must not be drawn, names of outputs.
_NEVER_PER_LAYER = (
    "architectures", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "eos_token_id",
    "keys_to_ignore_at_inference", "pad_token_id", "suppress_tokens",
)  # fmt: skip

# Tables that are about something else: other models, positions, how weights are stored, labels.
_TABLES = re.compile(
    r"(.*(vision|audio|video|image|talker|thinker|speech|wav).*|rope_.*|quantization_config"
    r"|compression_config|generation_config|.*label.*|task_specific_params)"
)


def other_classes(config: Config, family: Family) -> list[str]:
    """The classes under `architectures` that are not of the model type of the family.

    A class is of the type where its name begins with that of the type, or with one that the family
    lists, whatever head is on top: `Qwen3MoeModel` and `Qwen3MoeForSequenceClassification` are of
    qwen3_moe. Nothing is said of a config that names no classes.
    """
    named = classes(config)
    if not named:
        return []
    stems = [
        _plain(stem) for stem in (family.name.removesuffix("_text"), *family.config.architectures)
    ]

    def is_known(name: str) -> bool:
        plain = _plain(name.removeprefix("FSDP"))
        return any(plain.startswith(stem) and _HEAD.fullmatch(plain[len(stem) :]) for stem in stems)

    return [name for name in named if name and not is_known(name)]


def classes(config: Config) -> tuple[str, ...] | None:
    """The names under `architectures`, or None where that is no list."""
    named = config.get("architectures")
    if not isinstance(named, list):
        return None
    return tuple(name for name in named if isinstance(name, str))


def _plain(name: str) -> str:
    """A name as types and classes have it in common: `kimi_k25` and `KimiK25` are one."""
    return name.replace("_", "").lower()


def named_keys(family: Family) -> frozenset[str]:
    """Every config key that the family file names, also those of rules."""
    keys = family.config
    found = {
        *keys.layers, *keys.experts, *keys.top_k, *keys.layers_lists, *keys.doubled_layers,
        *keys.prediction_layers, *keys.shared_experts, *keys.not_per_layer, *keys.per_layer,
        *keys.spellings, *keys.spellings.values(), family.depth.copies_first,
    }  # fmt: skip
    for form in keys.per_layer.values():
        found |= {form.step, form.unless, form.when, *_keys_of(form.rule)}
        if isinstance(form.offset, Setting):
            found.add(form.offset.key)
    if indexer := family.depth.shared_indexer:
        found |= {indexer.key, indexer.pattern}
    return frozenset(found - {""})


def _keys_of(rule: Rule | None) -> Iterator[str]:
    """The config keys that a rule reads."""
    if rule:
        yield from (rule.below, rule.when)
        settings = (rule.every, rule.start, rule.before)
        yield from (one.key for one in settings if isinstance(one, Setting))


def _named(family: Family) -> frozenset[str]:
    """Config keys that are known to speak of layers or not to."""
    return named_keys(family).union(_NEVER_PER_LAYER)


def unnamed_lists(config: Config, family: Family, lengths: Collection[int]) -> dict[str, list[Any]]:
    """Lists of some lengths at the top of a language model's config that nobody names."""
    named = _named(family)
    return {
        key: value
        for key, value in config.items()
        if isinstance(value, list) and len(value) in lengths and key not in named
    }


def unnamed_keys(config: Config, family: Family, layers: int) -> dict[str, Any]:
    """Keys of a language model's config that seem to speak of its layers and that nobody names.

    They are those whose name has a word such as "layer" or "interval" and whose value could be
    about layers, and lists that could be numbers of layers, or have an entry for each.
    """
    named = _named(family)
    return {
        key: value
        for key, value in _entries(config)
        if key not in named
        and key.partition(".")[0] not in named
        and (_speaks(key.rpartition(".")[2], value, layers) or _lists_layers(key, value, layers))
    }


def _entries(config: Config, path: str = "", deeper: int = 3) -> Iterator[tuple[str, Any]]:
    """The values of a config by the paths of their keys, without tables about something else."""
    for key, value in config.items():
        if not isinstance(value, Mapping):
            yield path + key, value
        elif deeper and not _TABLES.fullmatch(key):
            yield from _entries(value, f"{path}{key}.", deeper - 1)


def _speaks(key: str, value: Any, layers: int) -> bool:
    """Whether a key's words are those of layers, and its value may be a number or list of them."""
    words = set(key.lower().split("_"))
    if not words & _WORDS or words & _OTHER:
        return False
    if isinstance(value, list):
        return bool(value)
    return type(value) is int and 1 < value <= layers


def _lists_layers(key: str, value: Any, layers: int) -> bool:
    """Whether a list has an entry for each layer, or some layers' numbers in their order."""
    if not isinstance(value, list) or set(key.lower().split("_")) & _OTHER:
        return False
    if len(value) == layers > 1:
        return True
    if len(value) < 2 or not all(type(entry) is int and 0 <= entry <= layers for entry in value):
        return False
    return all(a < b for a, b in pairwise(value))
