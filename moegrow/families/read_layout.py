"""Read the layout of a checkpoint by the names of its family."""

from collections.abc import Iterable, Iterator

from moegrow.checkpoint import unsupported
from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.errors import MoegrowError, Parameter, raise_all
from moegrow.families.dense_layers import dense_problems
from moegrow.families.layout import Layout
from moegrow.families.missing_tensors import check_merged, lacking_problems
from moegrow.families.moe_blocks import block_problems, packed_problems, stray_problems
from moegrow.families.name_variants import with_prefixes_of
from moegrow.families.registry import find_family, read_family
from moegrow.families.schema import Family
from moegrow.families.settings import (
    extra,
    layer_count,
    model_type,
    setting,
    text_config,
)
from moegrow.families.tensor_names import TensorRole, locator, named


def read_layout(checkpoint: Checkpoint, *, family_text: str = "") -> Layout:
    """The layout of a checkpoint, by the family of its config's model_type.

    `family_text` is a family file to read it by instead of those that moegrow knows.

    Raises MoegrowError where a tensor of a MoE block is not classified, an expert is missing
    from 0..E-1, or the config disagrees with the tensors; it names all that is wrong.
    """
    check_merged(checkpoint.name, checkpoint.tensors)
    try:
        return _layout(checkpoint, family_text)
    except MoegrowError:
        found = None if family_text else unsupported.of_tensors(checkpoint.tensors)
        if found is None:
            raise
        raise MoegrowError(
            f"{checkpoint.name} holds {found.what}", found.hint.format(place=checkpoint.location)
        ) from None


def _layout(checkpoint: Checkpoint, family_text: str) -> Layout:
    name = model_type(checkpoint.config)
    family = read_family(family_text, name) if family_text else find_family(name)
    nested, config = text_config(checkpoint.config, family)
    found = _located(family, checkpoint.tensors)
    outside = [name for name, place in found.items() if place is None]
    fitted = with_prefixes_of(family, outside)
    if fitted is not family:
        family = fitted
        found |= _located(family, outside)
    places = {name: place for name, place in found.items() if place}
    numbers = {place.layer for place in places.values() if not place.is_prediction}
    if not numbers:
        raise MoegrowError(
            f"{checkpoint.name} has no layers that are named as in {family.name}:"
            f" {' or '.join(family.tensors.layers)}…",
            f"its tensors are named like {next(iter(checkpoint.tensors))}",
        )
    layers = layer_count(config, family)
    layout = Layout(
        checkpoint=checkpoint,
        family=family,
        config=config,
        nested=nested,
        places=places,
        layers=layers,
        experts=setting(config, family.config.experts, "number of experts"),
        top_k=setting(config, family.config.top_k, "number of experts per token"),
        extra=extra(config, family),
        moe_layers=frozenset(
            place.layer
            for place in places.values()
            if place.role == "experts" and not place.is_prediction and place.layer < layers
        ),
        prediction_layers=max(0, max(numbers) + 1 - layers),
    )
    problems = [
        *_count_problems(layout, numbers),
        *_twice_problems(layout),
        *block_problems(layout),
        *stray_problems(family, found),
        *packed_problems(layout),
    ]
    # Where more is wrong, layers lack what nobody wonders about.
    problems = problems or list(lacking_problems(layout))
    hint = (
        "where tensors are missing, get the checkpoint again; where it holds others than models of"
        " its family do, a file can say what they are, and which are optional: "
        + Parameter("family", "FILE.toml")
        + " (docs/adding-a-family.md)"
    )
    what = f"{checkpoint.name} is not laid out as {family.name}"
    raise_all(what, problems, "" if family_text else hint)
    return layout


def _located(family: Family, names: Iterable[str]) -> dict[str, TensorRole | None]:
    """Where each of the tensors stands; None for those outside all layers."""
    locate = locator(family)
    return {name: locate(name) for name in names}


def _predict(layout: Layout) -> bool:
    """Whether all layers behind the last have what only prediction layers have."""
    is_mark = named(layout.family.tensors.predicting)
    behind: dict[int, bool] = {}
    for place in layout.places.values():
        if place.layer >= layout.layers and not place.is_prediction:
            behind[place.layer] = behind.get(place.layer, False) or is_mark(place.suffix[1:])
    return all(behind.values())


def _twice_problems(layout: Layout) -> Iterator[str]:
    """Layers that stand in the checkpoint twice, under two prefixes of the base model."""
    main = [
        stack for stack in layout.stacks if f"{stack}{{layer}}." in layout.family.tensors.layers
    ]
    seen: dict[tuple[int, str], str] = {}
    for stack in main if len(main) > 1 else ():
        for layer, tensors in layout.stacks[stack].items():
            for spec, place in tensors:
                first = seen.setdefault((layer, place.suffix), spec.name)
                if first != spec.name:
                    yield f"{first} and {spec.name} are the same tensor of the model"
                    break


def _count_problems(layout: Layout, numbers: set[int]) -> Iterator[str]:
    """Where the numbers of layers that the tensors show are not those of the config."""
    if layout.top_k > layout.experts:
        yield f"config.json asks for {layout.top_k} experts per token of {layout.experts}"
    if not layout.moe_layers:
        yield "no layer has experts"
    missing = [number for number in range(layout.layers) if number not in numbers]
    if missing:
        yield (
            f"config.json says {layout.layers} layers, and tensors of layer {missing[0]}"
            f" are missing{f' (and of {len(missing) - 1} more)' if missing[1:] else ''}"
        )
    yield from dense_problems(layout.layered, layout.family.config.per_layer)
    promised = layout.facts.promised_predictions
    if layout.prediction_layers > promised and not _predict(layout):
        yield (
            f"config.json says {layout.layers} layers"
            + (f" and {promised} for multi-token prediction" if promised else "")
            + f", and there are tensors of layer {max(numbers)}"
        )
