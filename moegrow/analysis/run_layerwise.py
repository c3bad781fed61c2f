"""Run a model with transformers, with one layer's weights in memory at a time."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from moegrow.analysis.model_image import Image, drawn_image
from moegrow.analysis.model_weights import (
    ModelWeights,
    Progress,
    build,
    check_weights,
    library,
    reason,
)
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.families.layout import Layout
from moegrow.kernels.reader import SourceReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True)
class ModelOutputs:
    """What a model computed for some tokens, in float32.

    `logits` are [sequences, tokens, vocabulary]; of a model without a head they are its last
    states, [sequences, tokens, hidden], and `has_head` is false. Each of `states` is what a layer
    hands on to the next, [sequences, tokens, …]. `chosen` has, for the layers that show it, the
    experts of each token, [sequences · tokens, top-k]. `alive` is the most bytes of weights that
    the model held at once.
    """

    logits: "Tensor"
    states: tuple["Tensor", ...]
    chosen: Mapping[int, "Tensor"]
    alive: int
    has_head: bool


def run_layers(
    layout: Layout,
    tokens: Sequence[Sequence[int]],
    progress: Progress = lambda count: None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> ModelOutputs:
    """What the model of a checkpoint in a folder here computes for sequences of equal length.

    The weights outside the layers stay in memory; those of each layer are read when it is its turn,
    and let go of behind it. `progress` is called with the bytes that were read, and the model with
    `arguments` beside the tokens. Raises MoegrowError where transformers cannot build the model,
    or does not find its weights.
    """
    checkpoint = layout.checkpoint
    _check_readable(layout)
    lib = library()
    with warnings.catch_warnings(), lib.torch.no_grad(), SourceReader(checkpoint) as source:
        warnings.simplefilter("ignore")
        weights = ModelWeights(lib, layout, source)
        model = _Model(lib, layout, build(lib, layout), weights, progress)
        with model.watched():
            try:
                result = model.module(
                    input_ids=lib.torch.tensor(tokens), use_cache=False, **arguments
                )
            except (MoegrowError, OSError, MemoryError):
                raise
            except Exception as error:
                # The model's own code runs on a stranger's config, and may fail in any way.
                raise MoegrowError(
                    f"transformers cannot run {checkpoint.name}: {reason(error)}"
                ) from error
    has_head = "logits" in result
    found = result.logits if has_head else result.last_hidden_state
    if not bool(lib.torch.isfinite(found).all()):
        raise MoegrowError(
            f"the {'logits' if has_head else 'last states'} of {checkpoint.name} are not all finite"
            " numbers",
            f"moegrow inspect --values {quote(checkpoint.location)} shows NaN and infinity in its"
            " weights",
        )
    return ModelOutputs(found.float(), tuple(model.states), model.chosen, model.alive, has_head)


def image_for(layout: Layout, text: Sequence[int]) -> Image | None:
    """An image in the middle of a text, made for the model of a checkpoint in a folder here.

    None where the model takes none. Raises MoegrowError as `run_layers` does.
    """
    if not layout.facts.takes_images:
        return None
    _check_readable(layout)
    lib = library()
    with warnings.catch_warnings(), lib.torch.no_grad(), SourceReader(layout.checkpoint) as source:
        warnings.simplefilter("ignore")
        weights = ModelWeights(lib, layout, source)
        model = _Model(lib, layout, build(lib, layout), weights, lambda count: None)
        return drawn_image(lib, model.module, text)


def _check_readable(layout: Layout) -> None:
    """Refuse what is far away, or loaded by transformers otherwise than it is stored."""
    checkpoint = layout.checkpoint
    if not Path(checkpoint.location).exists():
        raise MoegrowError(
            Parameter("compare_logits")
            + f" reads weights layer by layer, and {checkpoint.location} is far away",
            "download it, and name its folder with " + Parameter("source"),
        )
    check_weights(layout)
    if layout.family.router.kind == "skip":
        raise MoegrowError(
            Parameter("compare_logits")
            + f" cannot run {layout.family.name}: transformers sets a bias of its routers"
            " anew when it loads them",
            "verify it without " + Parameter("compare_logits"),
        )


@dataclass
class _Model:
    """A model without contents, and which tensors of the checkpoint fill which layer of it."""

    lib: Any
    layout: Layout
    module: Any
    weights: ModelWeights
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
            "verify it without " + Parameter("compare_logits"),
        )  # fmt: skip

    def load(self, layer: int | None) -> None:
        """Fill a layer, or what is outside of all, with its weights in float32."""
        tensors = self.weights.taken(self.names[layer], self.progress)
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
            hook = partial(self._enter, number)
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(layer.register_forward_hook(self._leave))
            for name, part in layer.named_modules():
                if name.rpartition(".")[2] == "experts":
                    hook = partial(self._choose, number)
                    handles.append(part.register_forward_pre_hook(hook, with_kwargs=True))
        yield
        for handle in handles:
            handle.remove()

    def _enter(self, number: int, layer: Any, given: Any, named: Mapping[str, Any]) -> None:
        self.load(number)
        if number and self.layout.family.depth.addressed:
            # What another part adds behind a layer belongs to what that layer hands on.
            state = given[0] if given else named["hidden_states"]
            self.states[-1] = state.detach().clone()

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
        """Where in the model each weight of the checkpoint ends up, by its plain name there."""
        loading, module = self.lib.loading, self.module
        conversions = self.lib.conversions(module)
        renamings = [one for one in conversions if isinstance(one, loading.WeightRenaming)]
        converters = [one for one in conversions if isinstance(one, loading.WeightConverter)]
        known, prefix = module.state_dict(), module.base_model_prefix
        targets = {}
        for name in self.weights.stored:
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
            for tensor, stored in self.weights.stored.items()
            if (place := self.layout.places.get(stored))
            and targets[tensor].startswith(f"{name}.{place.layer}.")
        )
        if not found:
            raise MoegrowError(
                Parameter("compare_logits")
                + f" cannot run {self.layout.checkpoint.name}: transformers keeps its"
                f" {self.layout.layers} layers elsewhere than in one list"
            )
        (name, _), *_ = found.most_common(1)
        return name
