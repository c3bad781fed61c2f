"""A model deepened in memory, layer by layer, with no help from moegrow: what depth must equal."""

import copy

import torch
import transformers


def interpose(
    model: transformers.PreTrainedModel, layer_map: tuple[int, ...]
) -> transformers.PreTrainedModel:
    """A copy of the model whose new layer `i` is old layer `layer_map[i]`.

    Every list of the text config with one entry per layer is mapped too, and every module is
    told its new number.
    """
    model = copy.deepcopy(model)
    config = model.config.get_text_config()
    old_count = len(layers(model))
    for name, value in vars(config).copy().items():
        if isinstance(value, list) and len(value) == old_count:
            vars(config)[name] = [value[old] for old in layer_map]
    for holder in model.modules():
        for name, child in list(holder.named_children()):
            if child is layers(model):
                deeper = torch.nn.ModuleList(copy.deepcopy(child[old]) for old in layer_map)
                setattr(holder, name, deeper)
                break
    for number, layer in enumerate(layers(model)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    for module in model.modules():
        if hasattr(module, "first_kv_shared_layer_idx"):
            shared = config.num_kv_shared_layers
            module.first_kv_shared_layer_idx = len(layer_map) - shared
    for name in ("num_hidden_layers", "num_layers", "n_layers"):
        if name in vars(config):
            vars(config)[name] = len(layer_map)
    return model


def layers(model: transformers.PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of the language model, not of a vision or audio tower."""
    for name, module in model.named_modules():
        is_tower = any(word in name for word in ("vision", "visual", "audio"))
        is_list = isinstance(module, torch.nn.ModuleList) and name.endswith(("layers", "blocks"))
        if is_list and not is_tower:
            return module
    raise AssertionError("no layers found")
