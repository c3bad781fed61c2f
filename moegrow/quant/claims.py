"""Check what a quantisation config claims against how the weights are stored."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.dtypes import PLAIN
from moegrow.files.linear_regex import Budget, Pattern, joined
from moegrow.quant.detect import find_quantised
from moegrow.quant.formats import Quantised, Weight
from moegrow.quant.scheme import Schemes

Told = Mapping[str, Any]

# The formats that each method can load. Of a method that is not here nothing is known.
_FORMATS: Mapping[str, frozenset[str]] = {
    "awq": frozenset({"AWQ"}),
    "compressed-tensors": frozenset(
        {"fp8 with scales", "int8 with scales", "NVFP4", "MXFP4", "packed integers"}
    ),
    "fbgemm_fp8": frozenset({"fp8 with scales"}),
    # DeepSeek-V4 has experts in MXFP4 under it.
    "fp8": frozenset({"fp8 with block scales", "fp8 with scales", "MXFP4"}),
    "gptq": frozenset({"GPTQ"}),
    "modelopt": frozenset({"fp8 with scales", "int8 with scales", "NVFP4", "MXFP4"}),
    "modelopt_fp4": frozenset({"NVFP4", "MXFP4"}),
    "mxfp4": frozenset({"MXFP4"}),
}
# Methods of which some loaders take plain weights as they are, or quantise them while loading.
_ON_LOAD = frozenset({"bitsandbytes", "hqq", "quanto", "torchao"})
# Methods whose loaders build quantised modules, and fail or compute nonsense with plain weights.
_STORED = frozenset(
    {
        *_FORMATS, "aqlm", "auto-round", "bitnet", "eetq", "exl2", "exl3", "fp_quant", "higgs",
        "mxfp8", "nvfp4", "quark", "spqr", "vptq",
    }
)  # fmt: skip

# Under which keys a method lists the modules that it leaves out.
_LEFT_OUT = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")
MOST_NAMED, MOST_GROUPS = 3, 32  # modules in one message, and groups that are looked at


def method_of(told: Told) -> str:
    """The method that a config names, in lower case; bitsandbytes may say it by a switch alone."""
    if told.get("load_in_4bit") is True or told.get("load_in_8bit") is True:
        return "bitsandbytes"
    return str(told.get("quant_method", "")).lower()


def speaks_of_weights(told: Told) -> bool:
    """Whether a config says that weights are stored quantised, and not only caches or nothing."""
    method = method_of(told)
    if method == "compressed-tensors":
        groups = told.get("config_groups")
        schemes = groups.values() if isinstance(groups, Mapping) else ()
        has_weights = any(isinstance(one, Mapping) and one.get("weights") for one in schemes)
        is_compressed = told.get("quantization_status", "compressed") == "compressed"
        return has_weights and is_compressed and told.get("format") != "dense"
    if method.startswith("modelopt"):
        algorithm = told.get("quant_algo")
        inner = told.get("quantization")
        if isinstance(inner, Mapping):
            algorithm = algorithm or inner.get("quant_algo")
        groups = told.get("config_groups")
        return bool(groups) or (bool(algorithm) and algorithm != "NO_QUANT")
    if method == "quark":
        general = told.get("global_quant_config")
        has_general = isinstance(general, Mapping) and bool(general.get("weight"))
        return has_general or bool(told.get("layer_quant_config"))
    return True


def problems(checkpoint: Checkpoint, told: Told, quantised: Quantised) -> Iterator[str]:
    """Where weights are not stored as a config says: loaders fail, or compute something else."""
    method = method_of(told)
    if not speaks_of_weights(told) or method not in _STORED:
        return
    if not quantised.weights and not quantised.unknown:
        yield f"it says {method!r}, and no weight is quantised: all are plain"
        return
    known = _FORMATS.get(method)
    if known is None:
        return
    stored: Mapping[str, Weight] = quantised.weights
    if all(one.problem for one in stored.values()):
        stored = _of_another_method(checkpoint, told, method) or stored
    formats = {weight.format for weight in stored.values()}
    if formats and not formats & known:
        name = next(iter(stored))
        yield (
            f"it says {method!r}, and {len(stored)} weights are stored as"
            f" {' and '.join(sorted(formats))}, such as {name}"
        )
        return
    yield from _parts(checkpoint, told, quantised)


def facts(told: Told, quantised: Quantised, *, is_in_config: bool) -> Iterator[str]:
    """What is worth knowing of a config that does not fit the weights, and harms no loader."""
    method = method_of(told)
    if speaks_of_weights(told) and not quantised.weights and not quantised.unknown:
        if method in _ON_LOAD:
            yield (
                f"quantization_config says {method!r} of plain weights: some loaders quantise them"
                " as they load, others take them as they are or refuse them"
            )
        elif method not in _STORED or not is_in_config:
            yield (
                f"what is said of quantisation by {method!r} is copied, and no weight is quantised"
            )
    yield from _idle_groups(told, quantised)


def _of_another_method(checkpoint: Checkpoint, told: Told, method: str) -> Mapping[str, Weight]:
    """The weights that another method would decode; GPTQ and AWQ have names in common."""
    for other in ("gptq", "awq"):
        if other != method:
            found = find_quantised(checkpoint, [{**told, "quant_method": other}]).weights
            whole = {name: one for name, one in found.items() if not one.problem}
            if whole and len(whole) == len(found):
                return whole
    return {}


def _parts(checkpoint: Checkpoint, told: Told, quantised: Quantised) -> Iterator[str]:
    """Single modules that are stored quantised and said to be plain, or the other way round."""
    modules = {one.values.removesuffix(one.ending): name for name, one in quantised.weights.items()}
    try:
        left_out = _LeftOut(told)
        wrong = [module for module in modules if left_out.names(module)]
        if wrong:
            yield (
                f"it leaves out {_some(wrong)}, and their weights are quantised: they would be"
                " loaded as plain numbers, without their scales"
            )
        chosen = _targets(told)
        plain = [
            module
            for module in _plain_of_their_kind(checkpoint, quantised, modules)
            if not left_out.may_name(module) and chosen(module)
        ]
    except ValueError:
        # An expression that cannot be matched says nothing here.
        return
    if plain:
        yield (
            f"it does not leave out {_some(plain)}, whose weights are plain while others of their"
            " kind are quantised: loaders would look for scales"
        )


def _plain_of_their_kind(
    checkpoint: Checkpoint, quantised: Quantised, modules: Collection[str]
) -> list[str]:
    """Modules with a plain matrix whose names differ from quantised ones in numbers alone."""
    endings = {one.becomes for one in quantised.weights.values()}
    plain = [
        module
        for name, spec in checkpoint.tensors.items()
        if spec.dtype in PLAIN and len(spec.shape) > 1
        for ending in sorted(endings)
        if name.endswith(ending) and (module := name.removesuffix(ending)) not in modules
    ]
    # Few are plain, and of those many that are quantised few end like one of them.
    lasts = set(map(_last, plain))
    kinds = {_NUMBER.sub("*", module) for module in modules if _last(module) in lasts}
    return [module for module in plain if _NUMBER.sub("*", module) in kinds]


def _last(module: str) -> str:
    """The last part of a module's name, where all numbers are one."""
    last = module.rpartition(".")[2]
    return "*" if last.isdecimal() else last


def _some(modules: list[str]) -> str:
    more = len(modules) - MOST_NAMED
    return ", ".join(modules[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class _LeftOut:
    """The modules that a config leaves out: those that it surely names, and that it may name."""

    def __init__(self, told: Told) -> None:
        listed = [
            text
            for key in _LEFT_OUT
            if isinstance(told.get(key), list)
            for text in told[key]
            if isinstance(text, str) and text
        ]
        dynamic = told.get("dynamic")
        expressions = [text.removeprefix("re:") for text in listed if text.startswith("re:")]
        if isinstance(dynamic, Mapping):
            expressions += [str(key)[2:] for key in dynamic if str(key).startswith("-:")]
        self._listed = {text for text in listed if not text.startswith("re:")}
        self._ends = tuple(f".{text}" for text in self._listed)
        globs = [text for text in self._listed if "*" in text or "?" in text]
        like_them = (
            re.escape(text).replace(r"\*", ".*").replace(r"\?", ".") + "$" for text in globs
        )
        found = (_joined(expressions), _joined(like_them))
        self._patterns = [pattern for pattern in found if pattern is not None]
        self._budget = Budget()
        self._around: dict[str, bool] = {}

    def names(self, module: str) -> bool:
        """Whether it names a module, or one around it, for every reader of such a config."""
        return self._lists(module) or self._matches(module)

    def _lists(self, module: str) -> bool:
        """Whether it lists a module or one around it by its whole name, of two parts at least."""
        if "." not in module or not self._listed:
            return False
        # Looked up once for all modules that are in the same one.
        if (around := module.rpartition(".")[0]) not in self._around:
            self._around[around] = self._lists(around)
        return module in self._listed or self._around[around]

    def may_name(self, module: str) -> bool:
        """Whether some reader takes it for one that is named, by a beginning, end or part of it."""
        return (
            self._matches(module)
            or any(module.endswith(end) for end in self._ends)
            or any(text.strip("*.") in module for text in self._listed)
        )

    def _matches(self, module: str) -> bool:
        return any(self._budget.begins(pattern, module) for pattern in self._patterns)


def _joined(expressions: Iterable[str]) -> Pattern | None:
    found = list(expressions)
    return joined(found) if found else None


def _targets(told: Told) -> Callable[[str], bool]:
    """Whether a module is one that the config has quantised, before what it leaves out."""
    groups = told.get("config_groups")
    if not isinstance(groups, Mapping):
        return lambda module: True
    return Schemes([told]).is_target


def _idle_groups(told: Told, quantised: Quantised) -> Iterator[str]:
    """Groups of a config whose targets no quantised weight matches."""
    groups = told.get("config_groups")
    if not isinstance(groups, Mapping) or not quantised.weights:
        return
    modules = [one.values.removesuffix(one.ending) for one in quantised.weights.values()]
    for name, group in list(groups.items())[:MOST_GROUPS]:
        if not isinstance(group, Mapping) or not group.get("weights"):
            continue
        schemes = Schemes([{"config_groups": {name: group}}])
        try:
            if not any(map(schemes.is_target, modules)):
                yield (
                    f"quantization_config has a group {str(name)[:60]!r} whose targets are no"
                    " quantised weight of the checkpoint"
                )
        except ValueError:
            continue
