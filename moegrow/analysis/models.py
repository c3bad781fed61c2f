"""The model of a checkpoint's config, built by transformers, with weights that have no contents."""

import os
from collections.abc import Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from moegrow.config.quantconfig import KEYS
from moegrow.errors import MoegrowError
from moegrow.source.checkpoint import Checkpoint

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
        raise MoegrowError(f"--logits needs more libraries: {error}", INSTALL) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return found


def build(lib: Any, checkpoint: Checkpoint) -> Any:
    """The model by the checkpoint's config, with weights that have shapes and no contents.

    Raises MoegrowError where transformers cannot build it.
    """
    auto = lib.transformers
    try:
        config = auto.AutoConfig.for_model(**_plain(checkpoint.config))
        kind = _kind(auto, config, checkpoint)
        if kind is None:
            raise MoegrowError(
                f"--logits cannot run {checkpoint.name}: transformers"
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


def _kind(auto: Any, config: Any, checkpoint: Checkpoint) -> Any:
    """The auto class that builds a model of the config: of several, the one of the checkpoint's own
    class, which may have no head, else the one that takes images; None where there is none."""
    with_head = (auto.AutoModelForImageTextToText, auto.AutoModelForCausalLM)
    kinds = [kind for kind in (*with_head, auto.AutoModel) if type(config) in kind._model_mapping]
    named = checkpoint.config.get("architectures")
    for kind in kinds:
        if isinstance(named, list) and kind._model_mapping[type(config)].__name__ in named:
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
