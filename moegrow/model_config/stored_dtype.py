"""Rewrite the config of a model whose weights change their stored dtype."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moegrow.checkpoint.checkpoint import QUANT_FILES
from moegrow.dtypes import TORCH
from moegrow.errors import MoegrowError, Parameter
from moegrow.families.layout import Layout
from moegrow.families.quantisation import KEYS
from moegrow.files import json_edit
from moegrow.growth import Growth
from moegrow.model_config import quantization_config
from moegrow.planning.plan import Storage

_DTYPE_KEYS = ("torch_dtype", "dtype")


def stored_config(
    text: str, storage: Storage, *, leaves_quantised: bool, experts: list[str]
) -> str:
    """The text of a config with what it says of dtypes and of quantisation as it will be.

    `experts` are the modules that are no longer quantised though others are. Raises MoegrowError
    where the config's method has no place to say so.
    """
    config = json_edit.loads(text, "config.json", infinities=True, is_shallow=True)
    changes: dict[json_edit.Path, Any] = {}
    if storage.dtype:
        changes = dict.fromkeys(_dtypes(config), TORCH[storage.dtype])
    for path in list(_quantisations(config)):
        if not leaves_quantised:
            text = json_edit.remove(text, path)
            continue
        table: Any = config
        for key in path:
            table = table[key]
        changes[path] = _without(table, experts)
    return json_edit.replace(text, changes)


def expert_modules(layout: Layout, growth: Growth) -> list[str]:
    """The modules of a grown model that hold routed experts, in the order of its layers.

    Those of prediction layers come last: what is decoded is decoded there too.
    """
    found: dict[int, set[str]] = {}
    own: set[str] = set()
    for place in layout.places.values():
        if place.role == "experts":
            is_single = place.expert is not None
            inner = place.before.rstrip(".") if is_single else place.suffix.rpartition(".")[0]
            if place.is_prediction:
                own.add(f"{place.stack}{place.layer}{inner}")
            else:
                found.setdefault(place.layer, set()).add(f"{place.stack}{{}}{inner}")
    layers = [*growth.layers, *sorted(layer for layer in found if layer >= layout.layers)]
    modules = [
        pattern.format(new)
        for new, old in enumerate(layers)
        for pattern in sorted(found.get(old, ()))
    ]
    return [*modules, *sorted(own)]


def _dtypes(table: Mapping[str, Any], path: json_edit.Path = ()) -> Iterator[json_edit.Path]:
    """Every place where a config says in which dtype weights are."""
    for key, value in table.items():
        if isinstance(value, dict) and key not in KEYS:
            yield from _dtypes(value, (*path, key))
        elif key in _DTYPE_KEYS and value in TORCH.values():
            yield (*path, key)


def _quantisations(table: Mapping[str, Any], path: json_edit.Path = ()) -> Iterator[json_edit.Path]:
    for key, value in table.items():
        if key in KEYS:
            yield (*path, key)
        elif isinstance(value, dict):
            yield from _quantisations(value, (*path, key))


def _without(table: Any, modules: list[str], *, method: str = "", inner: str = "") -> Any:
    """A quantisation config that leaves some modules out, in the words of its method.

    It may not name that; the list of them stands in its table `inner`, if it has one.
    """
    told = table if isinstance(table, dict) else {}
    method = str(told.get("quant_method", method))
    if method not in _LEFT_OUT:
        raise MoegrowError(
            f"the experts alone cannot be dequantised: moegrow does not know how a config of the"
            f" method {method!r} leaves modules out",
            "dequantise all: " + Parameter("dtype", "bf16"),
        )
    key, spelled = _LEFT_OUT[method]
    if isinstance(told.get(inner), dict):
        key = "exclude_modules"
        return {**told, inner: {**told[inner], key: _with(told[inner].get(key), spelled, modules)}}
    if key == "dynamic":
        before = told.get(key)
        kept = before if isinstance(before, dict) else {}
        return {**told, key: {**{spelled(name): {} for name in modules}, **kept}}
    return {**told, key: _with(told.get(key), spelled, modules)}


def _with(before: Any, spelled: Callable[[str], str], modules: list[str]) -> list[Any]:
    return [*(before if isinstance(before, list) else []), *map(spelled, modules)]


def _inside(name: str) -> str:
    """A regular expression for what is inside a module, as compressed-tensors marks one."""
    return "re:" + name.replace(".", "\\.") + "\\..*"


# Under which key a method lists what it leaves out, and how a module is named there.
_LEFT_OUT: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "fp8": ("modules_to_not_convert", lambda name: name),
    "fbgemm_fp8": ("modules_to_not_convert", lambda name: name),
    "compressed-tensors": ("ignore", _inside),
    "modelopt": ("ignore", lambda name: f"{name}*"),
    "gptq": ("dynamic", lambda name: "-:" + _inside(name).removeprefix("re:")),
    "awq": ("modules_to_not_convert", lambda name: f"{name}."),
}


def quant_files(
    layout: Layout, growth: Growth, *, leaves_quantised: bool, experts: list[str]
) -> dict[str, str | None]:
    """The files beside the config as they will be: without the experts, or None for one that goes,
    since nothing is quantised any more."""
    texts = layout.quantisation.texts_beside
    if not leaves_quantised:
        return dict.fromkeys(texts)
    grown = quantization_config.grown_files(layout, growth)
    found: dict[str, str | None] = {}
    for name, before in texts.items():
        text = grown.get(name, before)
        table = json_edit.loads(text, name, is_shallow=True)
        new = _without(table, experts, method=QUANT_FILES[name], inner="quantization")
        changes: dict[json_edit.Path, Any] = {
            (key,): value for key, value in new.items() if value != table.get(key)
        }
        found[name] = json_edit.replace(text, changes)
    return found
