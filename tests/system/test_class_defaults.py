"""What families leave to defaults is what the config classes of transformers say."""

import class_defaults
import pytest
import transformers

from moegrow.families import layer_rules
from moegrow.families.registry import find_family, known_types

# The list of another key decides these, or they are counted from the last layer.
OTHERWISE = {
    "llama4": {"layer_types"},
    "llama4_text": {"layer_types"},
    "muse_spark": {"layer_types", "layer_rope_theta"},
    "muse_spark_text": {"layer_types", "layer_rope_theta"},
}


def test_the_defaults_are_those_of_the_config_classes():
    assert class_defaults.FILE.read_text() == class_defaults.file()


@pytest.mark.parametrize("model_type", known_types())
def test_lists_that_a_config_class_derives_are_what_the_family_says(model_type):
    family = find_family(model_type)
    used = class_defaults.CLASSES.get(model_type, model_type)
    cls = type(transformers.CONFIG_MAPPING[used]().get_text_config())
    key = next((key for key in family.config.layers if key in family.config.defaults), "")
    for layers in (11, 12) if key else ():
        derived = cls(**{key: layers}).to_dict()
        mlps = derived.get("mlp_layer_types") or ["sparse"] * layers
        moe = frozenset(layer for layer, kind in enumerate(mlps) if kind != "dense")
        model = layer_rules.LayeredConfig({**family.config.defaults, key: layers}, layers, moe)
        indexer = family.depth.shared_indexer  # derived from the tensors
        skipped = {*OTHERWISE.get(model_type, ()), *([indexer.key] if indexer else [])}
        for name, value in derived.items():
            is_list = isinstance(value, list) and len(value) == layers and name not in skipped
            # What is alike in all layers need not be said.
            if not is_list or value.count(value[0]) == layers:
                continue
            form = family.config.per_layer[name]
            if form.form == "list":
                assert layer_rules.entries(model, name, form) == value
