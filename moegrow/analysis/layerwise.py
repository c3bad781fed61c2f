"""Run a checkpoint through transformers with the weights of one layer in memory at a time."""

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from moegrow.errors import MoegrowError, raise_all
from moegrow.families.layout import Layout
from moegrow.source.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

INSTALL = "pip install 'moegrow[logits]'"

# What a config may say of how a model is run. Some of it names code that would be fetched, and none
# of it may differ between the two models that are compared.
NOT_TAKEN = (
    "auto_map", "dtype", "torch_dtype", "transformers_weights", "custom_generate",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
NUMBERS = (*FLOATS, "I64", "I32", "BOOL")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What a model computed for some tokens, in float32.

    `logits` are [sequences, tokens, vocabulary], and each of `states` what a layer hands on to the
    next, [sequences, tokens, …]. `chosen` has, for the layers that show it, the experts of each
    token, [sequences · tokens, top-k]. `alive` is the most bytes of weights that the model held
    at once.
    """

    logits: "Tensor"
    states: tuple["Tensor", ...]
    chosen: Mapping[int, "Tensor"]
    alive: int


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


def run_layers(
    layout: Layout, tokens: Sequence[Sequence[int]], progress: Progress = lambda count: None
) -> Outcome:
    """What the model of a checkpoint in a folder here computes for sequences of equal length.

    The weights outside the layers stay in memory; those of each layer are read when it is its turn,
    and let go of behind it. `progress` is called with the bytes that were read. Raises
    MoegrowError where transformers cannot build the model, or does not find its weights.
    """
    checkpoint = layout.checkpoint
    _check_readable(checkpoint, layout)
    lib = library()
    with warnings.catch_warnings(), lib.torch.no_grad():
        warnings.simplefilter("ignore")
        model = _Model(lib, layout, _build(lib, checkpoint), progress)
        with model.watched():
            try:
                found = model.module(input_ids=lib.torch.tensor(tokens), use_cache=False).logits
            except (MoegrowError, OSError, MemoryError):
                raise
            except Exception as error:
                # The model's own code runs on a stranger's config, and may fail in any way.
                raise MoegrowError(
                    f"transformers cannot run {checkpoint.name}: {_reason(error)}"
                ) from error
    if not bool(lib.torch.isfinite(found).all()):
        raise MoegrowError(
            f"the logits of {checkpoint.name} are not all finite numbers",
            f"moegrow inspect --values {checkpoint.location} shows NaN and infinity in its weights",
        )
    return Outcome(found.float(), tuple(model.states), model.chosen, model.alive)


def _check_readable(checkpoint: Checkpoint, layout: Layout) -> None:
    """Refuse what is far away, quantised, or loaded by transformers otherwise than it is stored."""
    if not Path(checkpoint.location).exists():
        raise MoegrowError(
            f"--logits reads weights layer by layer, and {checkpoint.location} is far away",
            "download it, and name its folder with --source",
        )
    odd = sorted({spec.dtype for spec in checkpoint.tensors.values()} - set(NUMBERS))
    if odd or "quantization_config" in {**checkpoint.config, **layout.config}:
        raise MoegrowError(
            f"{checkpoint.name} is quantised{f' ({odd[0]})' if odd else ''}, and --logits runs"
            f" models of {', '.join(FLOATS)} alone",
            "dequantise it first, or verify it without --logits",
        )
    if layout.family.router.kind == "skip":
        raise MoegrowError(
            f"--logits cannot run {layout.family.name}: transformers sets a bias of its routers"
            " anew when it loads them",
            "verify it without --logits",
        )


def _build(lib: Any, checkpoint: Checkpoint) -> Any:
    """The model by the checkpoint's config, with weights that have shapes and no contents."""
    auto = lib.transformers
    try:
        config = auto.AutoConfig.for_model(**_plain(checkpoint.config))
        kinds = (auto.AutoModelForCausalLM, auto.AutoModelForImageTextToText)
        kind = next((kind for kind in kinds if type(config) in kind._model_mapping), None)
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
            f"transformers {auto.__version__} cannot build {checkpoint.name}: {_reason(error)}"
        ) from error
    return model.eval()


def _plain(value: Any) -> Any:
    """A config without what is NOT_TAKEN, at any depth, and with infinities as numbers."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"__float__"}:  # how transformers writes what JSON has no word for
        return float(value["__float__"])
    return {key: _plain(inner) for key, inner in value.items() if key not in NOT_TAKEN}


def _reason(error: Exception) -> str:
    """The first line of what a library complains of, which may be long."""
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[:300]}".rstrip(": ")


@dataclass
class _Model:
    """A model without contents, and which tensors of the checkpoint fill which layer of it."""

    lib: Any
    layout: Layout
    module: Any
    progress: Progress
    states: list["Tensor"] = field(default_factory=list)
    chosen: dict[int, "Tensor"] = field(default_factory=dict)
    alive: int = 0

    def __post_init__(self) -> None:
        targets = self._targets()
        self.prefix = self._find_layers(targets)
        self.layers = self.module.get_submodule(self.prefix)
        self.names: dict[int | None, list[str]] = defaultdict(list)
        for name, target in targets.items():
            head, _, rest = target.partition(f"{self.prefix}.")
            number = rest.partition(".")[0]
            self.names[int(number) if not head and number.isdecimal() else None].append(name)
        self.load(None)
        self.module.tie_weights()
        raise_all(
            f"{self.layout.checkpoint.name} lacks weights that transformers expects",
            [
                name for name, weight in self.module.named_parameters()
                if weight.is_meta and not name.startswith(f"{self.prefix}.")
            ],
        )  # fmt: skip

    def load(self, layer: int | None) -> None:
        """Fill a layer, or what is outside of all, with its weights in float32."""
        opened = {}
        tensors = {}
        folder = Path(self.layout.checkpoint.origin.location)
        for name in self.names[layer]:
            spec = self.layout.checkpoint.tensors[name]
            # Opened anew for each layer: what is mapped into memory stays there until it is closed.
            if spec.file not in opened:
                opened[spec.file] = self.lib.safe_open(folder / spec.file, "pt")
            tensors[name] = opened[spec.file].get_slice(name)
            self.progress(spec.stop - spec.start)
        found, _ = self.lib.loading.convert_and_load_state_dict_in_model(
            self.module,
            tensors,
            self.lib.LoadStateDictConfig(
                dtype=self.lib.torch.float32, weight_mapping=self.lib.conversions(self.module)
            ),
        )
        place = f"{self.prefix}.{layer}."
        missing = [name for name in found.missing_keys if name.startswith(place)]
        raise_all(
            f"the weights of {self.layout.checkpoint.name} are not those that transformers expects",
            [
                *(f"{name} is missing" for name in sorted(missing) if layer is not None),
                *(
                    f"{name} is {list(shape)} and should be {list(expected)}"
                    for name, shape, expected in sorted(found.mismatched_keys)
                ),
                *(f"{name}: {problem}" for name, problem in found.conversion_errors.items()),
            ],
        )
        held = sum(w.nbytes for w in self.module.parameters() if not w.is_meta)
        self.alive = max(self.alive, held)

    def let_go(self, layer: Any) -> None:
        """Forget the weights of a layer."""
        torch = self.lib.torch
        for name, weight in list(layer.named_parameters()):
            owner, _, last = name.rpartition(".")
            empty = torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
            setattr(layer.get_submodule(owner), last, empty)

    @contextmanager
    def watched(self) -> "Iterator[None]":
        """Layers take their weights when they are called, and say what they compute."""
        handles = []
        for number, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(partial(self._enter, number)))
            handles.append(layer.register_forward_hook(self._leave))
            for name, part in layer.named_modules():
                if name.rpartition(".")[2] == "experts":
                    hook = partial(self._choose, number)
                    handles.append(part.register_forward_pre_hook(hook, with_kwargs=True))
        yield
        for handle in handles:
            handle.remove()

    def _enter(self, number: int, layer: Any, given: Any) -> None:
        self.load(number)

    def _leave(self, layer: Any, given: Any, result: Any) -> None:
        state = result if self.lib.torch.is_tensor(result) else result[0]
        self.states.append(state.detach().clone())
        self.let_go(layer)

    def _choose(self, number: int, experts: Any, given: Any, named: Mapping[str, Any]) -> None:
        """The experts of each token, from the call of those: the one table of whole numbers."""
        torch = self.lib.torch
        for value in (*given, *named.values()):
            if torch.is_tensor(value) and value.dtype in (torch.int64, torch.int32):
                self.chosen.setdefault(number, value.detach().reshape(-1, value.shape[-1]).clone())

    def _targets(self) -> dict[str, str]:
        """Where in the model each tensor of the checkpoint ends up, by its name there."""
        loading, module = self.lib.loading, self.module
        conversions = self.lib.conversions(module)
        renamings = [one for one in conversions if isinstance(one, loading.WeightRenaming)]
        converters = [one for one in conversions if isinstance(one, loading.WeightConverter)]
        known, prefix = module.state_dict(), module.base_model_prefix
        targets = {}
        for name in self.layout.checkpoint.tensors:
            new, _ = loading.rename_source_key(name, renamings, converters, prefix, known)
            if new not in known and name in known:
                new, _ = loading.rename_source_key(name, [], [], prefix, known)
            targets[name] = new
        return targets

    def _find_layers(self, targets: Mapping[str, str]) -> str:
        """The name of the list of layers: the one in whose entries the layers' tensors end up."""
        lists = [
            name
            for name, part in self.module.named_modules()
            if isinstance(part, self.lib.torch.nn.ModuleList) and len(part) == self.layout.layers
        ]
        found: Counter[str] = Counter(
            name
            for name in lists
            for tensor, place in self.layout.places.items()
            if targets[tensor].startswith(f"{name}.{place.layer}.")
        )
        if not found:
            raise MoegrowError(
                f"--logits cannot run {self.layout.checkpoint.name}: transformers keeps its"
                f" {self.layout.layers} layers elsewhere than in one list"
            )
        (name, _), *_ = found.most_common(1)
        return name
