"""Multi-token-prediction layers of every family that has a place for them, grown with the rest."""

import json
import re
from typing import NamedTuple

import alter
import pytest
import tiny
import torch
import transformers
from transformers.modeling_layers import MtpModel

import moegrow
from moegrow.families.registry import find_family

# Behind the last layer, under the names of the layers.
BEHIND = "behind"


class Case(NamedTuple):
    """Where a model type keeps a prediction layer, and what its config says of it.

    `inside` is what stands between the layer's number and the names of a layer; `lists` are keys
    of the config that get an entry for the prediction layer behind those of the layers.
    """

    model_type: str
    stack: str
    settings: dict
    inside: str = ""
    lists: tuple = ()
    known: bool = True  # whether transformers leaves it aside wherever it stands


NEXTN = {"num_nextn_predict_layers": 1}
CASES = [
    # transformers knows some of these by the number of the layer that the published model has.
    Case("deepseek_v3", BEHIND, NEXTN, known=False),
    Case("kimi_k25", BEHIND, {"num_nextn_predict_layers": 1, "num_mtp_layers": 1}, known=False),
    Case("deepseek_v32", BEHIND, NEXTN, known=False),
    Case("glm4_moe", BEHIND, NEXTN, known=False),
    Case("glm4_moe_lite", BEHIND, NEXTN, known=False),
    Case("glm4v_moe", BEHIND, NEXTN, known=False),
    Case("glm_moe_dsa", BEHIND, NEXTN, known=False),
    Case("glm5_next", BEHIND, NEXTN, known=False),
    Case("hy_v3", BEHIND, NEXTN, known=False),
    Case("dots3_note_text", BEHIND, NEXTN, known=False),
    Case("bailing_hybrid", BEHIND, NEXTN, known=False),
    Case("kimi_linear", BEHIND, NEXTN, known=False),
    Case("minimax_m2", BEHIND, {"num_mtp_modules": 1}, known=False),
    Case("step3p7", BEHIND, NEXTN, lists=("layer_types", "mlp_layer_types", "swiglu_limits")),
    Case("dots3_note_text", "model.mtp.layers.", {}),
    Case("exaone_moe", "mtp.layers.", NEXTN),
    Case("mimo_v2_flash", "model.mtp.layers.", {}),
    Case("hy_v4", "model.mtp_layers.", NEXTN),
    Case("deepseek_v4", "mtp.", NEXTN),
    Case("ernie4_5_moe", "model.mtp_block.", NEXTN),
    Case("inkling_text", "model.mtp.layers.", {"mtp_local_layer_ids": [0]}, "transformer_block."),
    Case("inkling_mm_model", "model.mtp.layers.", {"num_mtp_layers": 1}, "transformer_block."),
    Case("longcat_flash", "model.mtp.layers.", {}, "transformer_layer."),
    Case("mellum", "mtp.layers.", {"num_nextn_predict_layers": 1, "mtp_layer_types": ["full_attention"]}),  # noqa: E501
    Case("minimax_m3_vl", "language_model.model.mtp.layers.", {"num_mtp_modules": 1}, "transformer_layer."),  # noqa: E501
    Case("minimax_m3_vl_text", "model.mtp.layers.", {"num_mtp_modules": 1}, "transformer_layer."),
    Case("mistral_large4", "mtp_dspark.layers.", {}),
    Case("nemotron_h", "mtp.layers.", NEXTN | {"mtp_layers_block_type": ["moe"]}),
    Case("qwen3_next", "mtp.layers.", {}),
    Case("qwen3_5_moe", "mtp.layers.", {"mtp_num_hidden_layers": 1}),
    Case("qwen3_5_moe_text", "mtp.layers.", {"mtp_num_hidden_layers": 1}),
    Case("qwen4_exp_text", "mtp.layers.", {}),
]  # fmt: skip

# What leads into a prediction layer and out of it: no part of a usual layer.
AROUND = {
    "enorm.weight": (32,),
    "hnorm.weight": (32,),
    "eh_proj.weight": (32, 64),
    "embed_tokens.weight": (64, 32),
    "shared_head.norm.weight": (32,),
    "shared_head.head.weight": (64, 32),
}


def last_moe_layer(tensors):
    """What the names of the layers begin with, and the number of the last with experts."""
    found = [re.match(r"(.*?(?:layers|blocks)\.)(\d+)\.", name) for name in tensors if "expert" in name]  # noqa: E501  # fmt: skip
    numbers = {int(match[2]) for match in found if match}
    return found[0][1], max(numbers)


def layer_of(tensors, prefix):
    """The tensors of one layer by their names within it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}  # noqa: E501  # fmt: skip


def language(config):
    return config.get("text_config", config)


def count_layers(config):
    listed = config.get("layers_block_type")
    return len(listed) if listed else config.get("num_layers") or config["num_hidden_layers"]


def with_prediction(case, source, folder):
    """The checkpoint with the last layer that has experts once more as a prediction layer."""
    source = alter.copy(source, folder)
    with alter.table(source / "config.json") as config:
        text = language(config)
        layers = count_layers(text)
        text |= case.settings
        for key in case.lists:
            text[key] = [*text[key], text[key][-1]]
    with alter.weights(source) as tensors:
        stack, last = last_moe_layer(tensors)
        prefix = f"{stack}{layers}." if case.stack == BEHIND else f"{case.stack}0."
        whole = layer_of(tensors, f"{stack}{last}.")
        tensors |= {prefix + case.inside + name: tensor for name, tensor in whole.items()}
        tensors |= {prefix + name: torch.randn(shape) for name, shape in AROUND.items()}
        if case.stack.endswith(".layers."):
            tensors[case.stack.replace("layers.", "norm.weight")] = torch.ones(32)
    return source, prefix


def load(folder):
    """The model as transformers loads it, and what it did not expect; nothing may be missing."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    unexpected = report.pop("unexpected_keys")
    assert not any(report.values()), report
    return model.eval(), unexpected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model_type}-{case.stack}")
def test_prediction_layers_are_renumbered_and_their_experts_grow(case, checkpoint, run, tmp_path):
    source, old_prefix = with_prediction(case, checkpoint(case.model_type), tmp_path)
    old = tiny.tensors(source)
    old_config = tiny.text_config(source)
    can_be_silent = not find_family(case.model_type).depth.identity_is_not
    kind = "identity" if can_be_silent else "copy"
    plan = run("depth", "--new-layers", kind, source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    run("verify", "grown")
    new, config = tiny.tensors(tmp_path / "grown"), tiny.text_config(tmp_path / "grown")
    layers = count_layers(old_config)
    assert count_layers(config) == 2 * layers

    stack, last = last_moe_layer(tiny.tensors(checkpoint(case.model_type)))
    prefix = f"{stack}{2 * layers}." if case.stack == BEHIND else old_prefix
    found = layer_of(new, prefix)
    for name in AROUND:
        assert tiny.same_bytes(found.pop(name), old[old_prefix + name])
    # It was a copy of a layer before, and is one of that layer grown.
    grown = layer_of(new, f"{stack}{2 * last}.")
    assert found.keys() == {case.inside + name for name in grown}
    assert all(tiny.same_bytes(found[case.inside + name], grown[name]) for name in grown)
    assert expert_count(found) == 2 * expert_count(layer_of(old, old_prefix))
    behind = range(2 * layers + (case.stack == BEHIND), 4 * layers)
    assert not any(name.startswith(f"{stack}{number}.") for number in behind for name in new)
    if case.stack != BEHIND:
        assert not any(name.startswith(f"{case.stack}1.") for name in new)

    for key in case.lists:
        assert len(config[key]) == 2 * layers + 1
        assert config[key][-1] == old_config[key][-1]
    for key, value in case.settings.items():
        assert config[key] == value

    plain = tiny.logits(checkpoint(case.model_type))
    before, ignored = load(source)
    assert torch.equal(tiny.logits(before), plain)
    after, unexpected = load(tmp_path / "grown")
    assert bool(ignored) == (not case.known)
    if case.known:
        assert not unexpected
    else:
        assert {memory_name(name) for name in unexpected} == {
            memory_name(name).replace(f".{layers}.", f".{2 * layers}.", 1) for name in ignored
        }
        assert all(f".{2 * layers}." in name for name in unexpected)
    if can_be_silent:
        assert tiny.distance(plain, tiny.logits(after)) < 3e-4


@pytest.mark.parametrize("value", [0, None, "absent"])
def test_prediction_layers_that_the_config_does_not_count_grow_and_are_told(
    value, checkpoint, run, tmp_path
):
    case = Case("glm4_moe", BEHIND, NEXTN)
    source, prefix = with_prediction(case, checkpoint("glm4_moe"), tmp_path)
    with alter.table(source / "config.json") as config:
        del config["num_nextn_predict_layers"]
        if value != "absent":
            config["num_nextn_predict_layers"] = value
    plan = run("depth", source, "--plan").stdout
    done = run("width", "--noise", "0", "-o", "grown", stdin=plan)
    # The summary breaks its lines where they end.
    assert "counts 0 prediction layers" in " ".join(done.stderr.split())
    new = tiny.tensors(tmp_path / "grown")
    found = layer_of(new, "model.layers.8.")
    assert prefix == "model.layers.4."
    assert AROUND.keys() < found.keys()
    assert expert_count(found) == 2 * expert_count(layer_of(tiny.tensors(source), prefix))
    run("verify", "grown")
    load(tmp_path / "grown")


def expert_count(layer):
    """How many experts a layer has, by its own tensors."""
    numbers = {int(match[1]) for name in layer if (match := re.search(r"experts\.(\d+)\.", name))}
    if numbers:
        assert numbers == set(range(len(numbers)))
        return len(numbers)
    (rows,) = {
        len(tensor)
        for name, tensor in layer.items()
        if re.search(r"(?<!shared_)experts\.|moe\.\w+_proj", name) and tensor.dim() == 3
    }
    return rows


def memory_name(name):
    """A name with the experts of a layer taken together."""
    return re.sub(r"experts\.\d+\.", "experts.N.", name)


def test_an_indexer_in_a_prediction_layer_is_not_that_of_the_layer_with_its_number(
    checkpoint, tmp_path
):
    plain = json.loads(moegrow.depth(checkpoint("hy_v4")).config)
    source = alter.copy(checkpoint("hy_v4"), tmp_path)
    with alter.weights(source) as tensors:
        full = layer_of(tensors, "model.layers.3.")
        assert any("indexer" in name for name in full)
        tensors |= {f"model.mtp_layers.2.{name}": tensor for name, tensor in full.items()}
    assert plain["indexer_types"][4:6] == ["shared", "shared"]
    assert json.loads(moegrow.depth(source).config) == plain


def test_the_indexer_of_a_prediction_layer_stays_behind_in_the_list(checkpoint, tmp_path):
    (case,) = (case for case in CASES if case.model_type == "glm_moe_dsa")
    source, _ = with_prediction(case, checkpoint("glm_moe_dsa"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["indexer_types"].append("full")
    found = json.loads(moegrow.depth(source).config)["indexer_types"]
    assert (len(found), found[-1]) == (9, "full")


def prediction(folder, layer):
    """What the prediction layer makes of fixed hidden states, run by transformers."""
    main, _ = load(folder)
    if main._keys_to_ignore_on_load_unexpected and layer is not None:
        # transformers finds the layer by the number that it has in one published model.
        main._keys_to_ignore_on_load_unexpected = [rf"layers\.{layer}\."]
    predictor = MtpModel.from_pretrained(main).eval()
    hidden = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(4, 20).view(2, 8)
    with torch.no_grad():
        return predictor.forward_layer(0, hidden, torch.arange(8)[None], None, input_ids=tokens)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "glm4_moe", "mellum", "step3p7"])
def test_a_grown_prediction_layer_predicts_what_it_did(model_type, checkpoint, run, tmp_path):
    (case,) = (case for case in CASES if case.model_type == model_type)
    source, prefix = with_prediction(case, checkpoint(model_type), tmp_path)
    with alter.weights(source) as tensors:
        if model_type == "mellum":
            names = {"fc": "eh_proj", "pre_fc_norm_embedding": "enorm", "pre_fc_norm_hidden": "hnorm"}  # noqa: E501  # fmt: skip
            tensors |= {f"mtp.{new}.weight": tensors.pop(f"{prefix}{old}.weight") for new, old in names.items()}  # noqa: E501  # fmt: skip
            tensors["mtp.norm.weight"] = tensors.pop(f"{prefix}shared_head.norm.weight")
    plan = run("depth", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    numbers = (4, 8) if case.known is False else (None, None)
    before, after = prediction(source, numbers[0]), prediction(tmp_path / "grown", numbers[1])
    assert tiny.distance(before, after) < 1e-5
