"""Build the model of a checkpoint's config with transformers, and give it the stored weights."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from moegrow.dtypes import PLAIN
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.families.layout import Layout
from moegrow.families.quantisation import KEYS
from moegrow.kernels.reader import SourceReader
from moegrow.planning.plan import Piece
from moegrow.quant.formats import Quantised, Weight

if TYPE_CHECKING:
    from torch import Tensor


INSTALL = "pip install 'moegrow[logits]'"

# What a config may say of how a model is run. Some of it names code that would be fetched, and none
# of it may differ between the two models that are compared. What it says of quantisation is true
# of the weights as they are stored, and not of those that are decoded.
NOT_TAKEN = (
    "auto_map", "dtype", "torch_dtype", "transformers_weights", "custom_generate",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    *KEYS,
)  # fmt: skip


def library() -> Any:
    """torch and what is used of transformers and accelerate, imported when it is first needed.

    Raises MoegrowError, with what to type, where they are not installed.
    """
    # Kernels would be fetched from the Hub where their loader is installed.
    os.environ.setdefault("USE_HUB_KERNELS", "0")
    try:
        torch, transformers = import_module("torch"), import_module("transformers")
        accelerate, safetensors = import_module("accelerate"), import_module("safetensors")
        conversions = import_module("transformers.conversion_mapping")
        loading = import_module("transformers.core_model_loading")
        modeling = import_module("transformers.modeling_utils")
        found = SimpleNamespace(
            torch=torch, transformers=transformers, safe_open=safetensors.safe_open,
            init_empty_weights=accelerate.init_empty_weights, loading=loading,
            conversions=conversions.get_model_conversion_mapping,
            LoadStateDictConfig=modeling.LoadStateDictConfig,
        )  # fmt: skip
    except (ImportError, AttributeError) as error:
        raise MoegrowError(
            Parameter("compare_logits") + f" needs more libraries: {error}", INSTALL
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return found


def build(lib: Any, layout: Layout) -> Any:
    """The model by the checkpoint's config, with weights that have shapes and no contents.

    Raises MoegrowError where transformers cannot build it.
    """
    auto, checkpoint = lib.transformers, layout.checkpoint
    try:
        config = auto.AutoConfig.for_model(**_plain(checkpoint.config))
        kind = _kind(auto, config, layout.facts.classes)
        if kind is None:
            raise MoegrowError(
                Parameter("compare_logits") + f" cannot run {checkpoint.name}: transformers"
                f" {auto.__version__} has no causal language model of type {config.model_type}"
            )
        # Buffers are computed from the config and not all stored, so they are real from the start.
        with lib.init_empty_weights(include_buffers=False):
            model = kind.from_config(
                config, dtype=lib.torch.float32, attn_implementation="eager",
                experts_implementation="eager", trust_remote_code=False,
            )  # fmt: skip
    except MoegrowError:
        raise
    except Exception as error:
        raise MoegrowError(
            f"transformers {auto.__version__} cannot build {checkpoint.name}: {reason(error)}"
        ) from error
    return model.eval()


def _kind(auto: Any, config: Any, named: tuple[str, ...] | None) -> Any:
    """The auto class that builds a model of the config: of several, the one of the checkpoint's own
    class, which may have no head, else the one that takes images; None where there is none."""
    with_head = (auto.AutoModelForImageTextToText, auto.AutoModelForCausalLM)
    kinds = [kind for kind in (*with_head, auto.AutoModel) if type(config) in kind._model_mapping]
    for kind in kinds:
        if named and kind._model_mapping[type(config)].__name__ in named:
            return kind
    return next((kind for kind in kinds if kind in with_head), None)


def _plain(value: Any) -> Any:
    """A config without what is NOT_TAKEN, at any depth, and with infinities as numbers."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"__float__"}:  # how transformers writes what JSON has no word for
        return float(value["__float__"])
    return {key: _plain(inner) for key, inner in value.items() if key not in NOT_TAKEN}


def reason(error: Exception) -> str:
    """The first line of what a library complains of, which may be long."""
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[:300]}".rstrip(": ")


NUMBERS = (*PLAIN, "I64", "I32", "BOOL")

Progress = Callable[[int], None]


class ModelWeights:
    """What a model is filled with. `stored` gives for each plain name the tensor that it is of."""

    def __init__(self, lib: Any, layout: Layout, source: SourceReader) -> None:
        """`source` has the files of the checkpoint, which is in a folder here.

        Raises MoegrowError where a weight is quantised in a way that is not decoded.
        """
        self._lib = lib
        self._checkpoint = layout.checkpoint
        self._source = source
        self._quantised = check_weights(layout)
        owned = self._quantised.owners
        self.stored = {
            self._plain(name): name for name in layout.checkpoint.tensors if name not in owned
        }

    def taken(self, names: list[str], progress: Progress) -> dict[str, Any]:
        """Tensors by name, each read when it is indexed with `...`.

        `progress` is told of their bytes.
        """
        opened: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name in names:
            spec = self._checkpoint.tensors[self.stored[name]]
            weight = self._quantised.weights.get(spec.name)
            count = spec.stop - spec.start
            if weight is not None:
                found[name] = _Decoded(self._lib, self._source, weight)
                parts = (self._checkpoint.tensors[part] for part in weight.companions)
                count += sum(part.stop - part.start for part in parts)
            else:
                # Opened anew for each layer: what is mapped into memory stays there until it is
                # closed.
                if spec.file not in opened:
                    file = Path(self._checkpoint.store.location) / spec.file
                    opened[spec.file] = self._lib.safe_open(file, "pt")
                found[name] = opened[spec.file].get_slice(spec.name)
            progress(count)
        return found

    def _plain(self, name: str) -> str:
        weight = self._quantised.weights.get(name)
        return name if weight is None else name.removesuffix(weight.ending) + weight.becomes


@dataclass(frozen=True)
class _Decoded:
    """A quantised weight that is decoded when it is asked for, so that few are at a time."""

    lib: Any
    source: SourceReader
    weight: Weight

    def __getitem__(self, everything: Any) -> "Tensor":
        weight = self.weight
        rows = weight.shape[0] if weight.shape else 1
        piece = Piece(weight.values, 0, rows)
        numbers = np.empty(weight.shape, np.float32)
        filled = numbers.reshape(-1).view(np.uint8)
        first = 0
        for block in self.source.decoded(piece, weight.decoding):
            filled[first : first + block.size] = block
            first += block.size
        found: Tensor = self.lib.torch.from_numpy(numbers)
        return found


def check_weights(layout: Layout) -> Quantised:
    """What of a checkpoint is quantised; raises MoegrowError where that cannot be decoded."""
    checkpoint, quantised = layout.checkpoint, layout.quantised
    hint = "verify it without " + Parameter("compare_logits")
    known = quantised.weights.keys() | quantised.owners.keys()
    odd = {
        name: f"{name} is stored as {spec.dtype}"
        for name, spec in checkpoint.tensors.items()
        if name not in known and spec.dtype not in NUMBERS
    }
    for name in quantised.unknown:
        odd[name] = f"{name} is stored as {checkpoint.tensors[name].dtype}"
    for name, weight in quantised.weights.items():
        if weight.problem:
            odd[name] = f"{name}: {weight.problem}"
    raise_all(
        f"{checkpoint.name} is quantised in a way that moegrow does not decode, and "
        + Parameter("compare_logits")
        + " runs decoded weights",
        [odd[name] for name in sorted(odd)],
        hint,
    )
    if not quantised.weights and layout.facts.names_quantisation:
        raise MoegrowError(
            f"{checkpoint.name} is quantised by its config.json, and no tensor of it is", hint
        )
    return quantised
