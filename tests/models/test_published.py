"""The layouts of the Hub, where they differ from both that transformers writes.

What a case publishes is first loaded by transformers, so that the layout is one that it reads.
Two that it does not read itself are held against their tensors, or unpacked, here: LongCat-Flash
without weights for zero experts, and gpt-oss in MXFP4. Kimi-K2 as `kimi_k2` needs remote code;
test_families.py says that it is grown as `deepseek_v3` is.
"""

import json
from pathlib import Path

import alter
import pytest
import tiny
import torch
import transformers
from families_page import TYPES
from interposed import interpose, layers
from published import LAYOUTS, merge, publish
from test_families import NOT_PLAIN, TOLERANCE
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from moegrow.families.registry import find_family
from moegrow.families.schema import Setting


def grown_config(folder: Path):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(scope="module")
def source(checkpoint, layout, tmp_path_factory):
    """The published checkpoint, which transformers reads as it reads the saved one."""
    saved = checkpoint(layout.family, **layout.settings)
    source = publish(saved, layout, tmp_path_factory.mktemp("published") / "published")
    assert tiny.distance(tiny.logits(saved), tiny.logits(source)) < 1e-5
    return source


def test_depth_in_a_published_layout(layout, source, run, tmp_path):
    plain = layout.family not in NOT_PLAIN
    run("depth", *([] if plain else ["--new-layers", "identity"]), source, "-o", "grown")
    model = tiny.load(source)
    if plain:
        count = len(layers(model))
        model = interpose(model, tuple(layer for layer in range(count) for _ in range(2)))
    assert tiny.distance(tiny.logits(model), tiny.logits(tmp_path / "grown")) < 1e-5
    assert grown_config(tmp_path / "grown") == merge(grown_config(source), layout.deeper)


def test_width_in_a_published_layout(layout, source, run, tmp_path):
    run("width", "--noise", "0", source, "-o", "grown")
    tolerance = TOLERANCE.get(layout.family, 1e-4)
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < tolerance
    assert grown_config(tmp_path / "grown") == merge(grown_config(source), layout.wider)


SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """A model that thinks, talks and sounds: the thinker is what grows."""
    thinker = json.loads((tiny.CONFIGS / "qwen3_omni_moe_thinker.json").read_text())
    config = {
        "model_type": "qwen3_omni_moe",
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "thinker_config": thinker,
        "talker_config": {
            "accept_hidden_layer": 3, "spatial_merge_size": 2, "thinker_hidden_size": 32,
            "num_code_groups": 3,
            "text_config": SMALL | {
                "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8,
                "rope_parameters": thinker["text_config"]["rope_parameters"],
            },
            "code_predictor_config": SMALL | {"num_hidden_layers": 1, "num_code_groups": 3},
        },
        "code2wav_config": {
            "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "codebook_size": 8,
            "num_quantizers": 3, "decoder_dim": 16, "upsample_rates": [2], "upsampling_ratios": [2],
        },
    }  # fmt: skip
    return tiny.save(config, tmp_path_factory.mktemp("omni") / "qwen3_omni_moe")


def heard(model):
    """What the thinker hands on to the talker."""
    tokens = torch.arange(3, 27).reshape(1, 24)
    with torch.no_grad():
        states = model.thinker(input_ids=tokens, output_hidden_states=True).hidden_states
    return states[model.config.talker_config.accept_hidden_layer]


def test_the_thinker_of_an_omni_model_grows_and_its_talker_does_not(omni, run, tmp_path):
    old = tiny.load(omni)
    # Feature maps of an image are added behind the first two layers.
    kept = ("--keep-first", "2")
    plan = run("depth", "--new-layers", "identity", *kept, omni, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    new = tiny.load(tmp_path / "grown")
    assert tiny.distance(tiny.logits(old.thinker), tiny.logits(new.thinker)) < 1e-4
    assert tiny.distance(heard(old), heard(new)) < 1e-4
    before, after = tiny.tensors(omni), tiny.tensors(tmp_path / "grown")
    beside = {name for name in before if not name.startswith("thinker.")}
    assert beside == {name for name in after if not name.startswith("thinker.")}
    assert all(tiny.same_bytes(before[name], after[name]) for name in beside)
    text = {"num_hidden_layers": 6, "num_experts": 8, "num_experts_per_tok": 4}
    assert grown_config(tmp_path / "grown") == merge(
        grown_config(omni),
        {"thinker_config": {"text_config": text}, "talker_config": {"accept_hidden_layer": 4}},
    )


def test_depth_of_the_thinker_equals_one_interposed_in_memory(omni, run, tmp_path):
    run("depth", omni, "-o", "grown")
    reference = interpose(tiny.load(omni).thinker, (0, 0, 1, 1, 2, 2, 3, 3))
    grown = tiny.load(tmp_path / "grown").thinker
    assert tiny.distance(tiny.logits(reference), tiny.logits(grown)) < 1e-5


def test_a_language_model_published_inside_another_type_grows(run, tmp_path):
    text = json.loads((tiny.CONFIGS / "mistral4.json").read_text())
    vision = json.loads((tiny.CONFIGS / "mistral_large4.json").read_text())["vision_config"]
    config = {
        "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"],
        "text_config": text, "vision_config": vision, "image_token_index": 60,
    }  # fmt: skip
    source = tiny.save(config, tmp_path / "mistral3")
    assert "language_model.model.layers.0.mlp.gate_proj.weight" in tiny.tensors(source)
    run("depth", source, "-o", "deep")
    reference = interpose(tiny.load(source), (0, 0, 1, 1, 2, 2, 3, 3))
    assert tiny.distance(tiny.logits(reference), tiny.logits(tmp_path / "deep")) < 1e-5
    run("width", "--noise", "0", source, "-o", "wide")
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "wide")) < 1e-4


def test_packed_experts_grow_with_their_scales(checkpoint, run, tmp_path):
    """gpt-oss is published in MXFP4: 32 weights in 16 bytes, and an exponent for them."""
    source = alter.copy(checkpoint("gpt_oss", intermediate_size=32), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inside, outside = tensors.pop(name).shape
            groups = (experts, outside, inside // 32)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*groups, 16)).to(torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(123, 126, groups).to(torch.uint8)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "mxfp4"}
        config["experts_per_token"] = 2
    run("depth", source, "-o", "deep")
    run("width", "--noise", "0", source, "-o", "wide")
    assert tiny.text_config(tmp_path / "wide")["experts_per_token"] == 4
    source, deep, wide = (
        unpacked(folder) for folder in (source, tmp_path / "deep", tmp_path / "wide")
    )
    reference = interpose(tiny.load(source), (0, 0, 1, 1, 2, 2, 3, 3))
    assert tiny.distance(tiny.logits(reference), tiny.logits(deep)) < 1e-5
    assert tiny.distance(tiny.logits(source), tiny.logits(wide)) < 1e-4


def unpacked(folder):
    """The checkpoint with experts in float32, by transformers' own function: loading needs more."""
    with alter.weights(folder) as tensors:
        for blocks in [name for name in tensors if name.endswith("_blocks")]:
            name = blocks.removesuffix("_blocks")
            tensors[name] = convert_moe_packed_tensors(
                tensors.pop(blocks), tensors.pop(f"{name}_scales"), dtype=torch.float32
            )
    with alter.table(folder / "config.json") as config:
        del config["quantization_config"]
    return folder


def test_zero_experts_without_weights_stay_without(checkpoint, run, tmp_path):
    """LongCat-Flash is published so; transformers allocates weights for zero experts and fails."""
    source = alter.copy(checkpoint("longcat_flash"), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".experts.4." in name or ".experts.5." in name]:
            del tensors[name]
    old = tiny.tensors(source)
    plan = run("depth", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    new = tiny.tensors(tmp_path / "grown")
    for layer in range(4):
        for matrix in ("gate", "up", "down"):
            for expert in range(8):
                stem = f"mlp.experts.{{}}.{matrix}_proj.weight"
                copy = new[f"model.layers.{layer}.{stem.format(expert)}"]
                assert tiny.same_bytes(
                    copy, old[f"model.layers.{layer // 2}.{stem.format(expert % 4)}"]
                )
        router = "mlp.router.classifier.weight"
        experts, zero = old[f"model.layers.{layer // 2}.{router}"].split([4, 2])
        expected = torch.cat([experts, experts, zero, zero])
        assert tiny.same_bytes(new[f"model.layers.{layer}.{router}"], expected)
    assert not [name for name in new if ".experts.8." in name]
    outside, added = 3, 4 * 4 * 3
    assert len(new) == 2 * len(old) - outside + added


@pytest.mark.parametrize("model_type", TYPES)
def test_every_spelling_that_a_config_class_reads_is_known(model_type):
    config = json.loads((tiny.CONFIGS / f"{model_type}.json").read_text())
    text = transformers.AutoConfig.for_model(**config).get_text_config()
    family = find_family(model_type)
    keys, router = family.config, family.router
    settings = (router.scores, router.normalised, router.exponent, router.scaling)
    named = {setting.key for setting in settings if isinstance(setting, Setting)} | {router.extra}
    named |= {router.groups.count, router.groups.kept} if router.groups else set()
    for pair in text.attribute_map.items():
        for spellings in (keys.layers, keys.layers_lists, keys.experts, keys.top_k):
            assert len(set(pair) & set(spellings)) in (0, 2), pair
        for key, other in (pair, pair[::-1]):
            assert key not in named or other in named or keys.spellings.get(other) == key, pair
            assert key not in keys.per_layer or other in keys.per_layer, pair
