"""Prediction layers that a checkpoint has and its config does not count."""

from collections.abc import Iterator

from moegrow.families.family import lookup
from moegrow.families.settings import promised_predictions
from moegrow.families.structure import Layout


def facts(layout: Layout) -> Iterator[str]:
    """What becomes of prediction layers behind the last that loaders leave aside, if there are any.

    transformers takes no prediction layers, and engines those that the config counts: so these are
    carried along, and are right where the key is set later.
    """
    counted = promised_predictions(layout.config, layout.family)
    if layout.prediction_layers > counted:
        keys = layout.family.config.prediction_layers
        key = next((key for key in keys if lookup(layout.config, key) is not None), None)
        says = f"{key} is {lookup(layout.config, key)}" if key else f"it has no {' or '.join(keys)}"
        count = layout.prediction_layers
        yield (
            f"config.json counts {counted} prediction layers ({says}), and the weights have {count}"
            " behind the last layer: they grow with the model and stay behind its last layer, and"
            f" the config still counts {counted}"
        )
