"""Draw a test image for a model that takes images, and the tokens for it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moegrow.analysis.model_weights import reason

SIDE = 2  # of the drawn image, in tokens, where a model takes images of any size


@dataclass(frozen=True)
class Image:
    """A sequence of tokens with places for an image, and what the model is called with beside it.

    `tokens` has the place of the image at `start`, `length` tokens long. `problem` says why no
    image can be made for a model that takes images; there are no tokens then.
    """

    tokens: tuple[int, ...] = ()
    start: int = 0
    length: int = 0
    inputs: Mapping[str, Any] | None = None
    problem: str = ""

    def arguments(self, lib: Any, *, sequences: int, longest: int) -> dict[str, Any]:
        """What to call a model with whose last of so many sequences is that of the image."""
        if self.inputs is None:
            return {}
        kinds = lib.torch.zeros(sequences, longest, dtype=lib.torch.long)
        kinds[-1, self.start : self.start + self.length] = 1
        return {name: kinds if value is None else value for name, value in self.inputs.items()}


def drawn_image(lib: Any, module: Any, text: Sequence[int]) -> Image | None:
    """An image for a model whose weights outside the layers are there; None where it takes none.

    Its pixels are drawn, always the same, and it stands in the middle of the tokens `text`. How
    many tokens stand for it is asked of the model itself, which makes its features.
    """
    features = getattr(module, "get_image_features", None) or getattr(
        getattr(module, "model", None), "get_image_features", None
    )
    takes = inspect.signature(type(module).forward).parameters
    vision = getattr(module.config, "vision_config", None)
    if features is None or vision is None or "pixel_values" not in takes:
        return None
    config = module.config
    token = _token(config, "image_token_id", "image_token_index")
    rows = module.get_input_embeddings().weight.shape[0]
    if token is None or token >= rows:
        return Image(problem=f"config.json says no token of its {rows} that stands for images")
    problem = ""
    for shape, more in _candidates(lib, vision, inspect.signature(features).parameters):
        generator = lib.torch.Generator().manual_seed(0)
        inputs = {"pixel_values": lib.torch.randn(shape, generator=generator), **more}
        try:
            length = _rows(lib, features(**inputs))
        except Exception as error:  # the model says in its own way that it takes another shape
            problem = problem or reason(error)
            continue
        before = _token(config, "vision_start_token_id", "image_start_token_id", "boi_token_id")
        behind = _token(config, "vision_end_token_id", "image_end_token_id", "eoi_token_id")
        head = [*text[: len(text) // 2], *(one for one in [before] if one and one < rows)]
        tail = [*(one for one in [behind] if one and one < rows), *text[len(text) // 2 :]]
        kinds = ("mm_token_type_ids", "moe_mm_token_type_ids")
        return Image(
            tokens=(*head, *[token] * length, *tail),
            start=len(head),
            length=length,
            inputs={**inputs, **{name: None for name in kinds if name in takes}},
        )
    return Image(problem=f"no drawn image fits it ({problem})")


def _token(config: Any, *names: str) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((one for one in found if type(one) is int and one >= 0), None)


def _candidates(
    lib: Any, vision: Any, takes: Mapping[str, Any]
) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Shapes of pixels that models take, with what goes with them; the model itself chooses."""
    torch = lib.torch

    def size(*names: str, default: int) -> int:
        found = next((value for name in names if (value := getattr(vision, name, None))), default)
        return int(found[0] if isinstance(found, list | tuple) else found)

    patch = size("patch_size", default=14)
    channels = size("in_channels", "in_chans", "num_channels", "n_channels", default=3)
    times = size("temporal_patch_size", "patch_temporal", default=1)
    merge = size("spatial_merge_size", "merge_size", "merge_kernel_size", default=2)
    pixels, side = channels * patch * patch, SIDE * merge
    if "image_grid_thw" in takes:
        grid = {"image_grid_thw": torch.tensor([[1, side, side]])}
        many = side * side
        yield (many, times * pixels), grid
        yield (many, pixels), grid
        yield (many, channels, patch, patch), grid
        yield (many, channels, times, patch, patch), grid
    elif "image_position_ids" in takes:
        side = SIDE * size("pooling_kernel_size", default=1)
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
        yield (1, side * side, pixels), {"image_position_ids": places[None]}
    elif "image_sizes" in takes:
        edge = side * patch
        yield (1, channels, edge, edge), {"image_sizes": torch.tensor([[edge, edge]])}
    else:
        edge = size("image_size", default=patch)
        yield (1, channels, edge, edge), {}
        yield (SIDE, channels, times, patch, patch), {}
        yield (SIDE, times, patch, patch, channels), {}


def _rows(lib: Any, features: Any) -> int:
    """How many tokens the features of an image stand for."""
    found = getattr(features, "pooler_output", None)
    if found is None:
        found = getattr(features, "last_hidden_state", features)
    parts = [found] if lib.torch.is_tensor(found) else list(found)
    return sum(part.numel() // part.shape[-1] for part in parts)
