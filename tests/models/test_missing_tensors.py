"""Adapters that are not merged are refused with a way that works; merged ones grow."""

import alter
import pytest
import tiny
import torch

from moegrow.errors import MoegrowError
from moegrow.families.missing_tensors import check_merged


def test_experts_wrapped_by_lora_are_refused_with_the_way_to_merge(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".experts." in name]:
            weight = tensors.pop(name)
            stem = name.removesuffix("weight")
            tensors[f"{stem}base_layer.weight"] = weight
            tensors[f"{stem}lora_A.default.weight"] = torch.randn(4, weight.shape[1])
            tensors[f"{stem}lora_B.default.weight"] = torch.randn(weight.shape[0], 4)
    done = run("width", source, "-o", "grown", code=1)
    assert "not merged" in done.stderr
    assert "base_layer, lora_A, lora_B" in done.stderr
    assert "merge_and_unload()" in done.stderr
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default",
        "model.embed_tokens.lora_embedding_A.default",
        "lm_head.modules_to_save.default.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
    ],
)
def test_every_part_of_an_adapter_is_known(name):
    with pytest.raises(MoegrowError, match="not merged into its weights: 1 tensors"):
        check_merged("it", ["model.norm.weight", name])


def test_names_that_only_look_like_it_pass():
    check_merged("it", ["model.lora_Alpha.weight", "base_layers.0.weight", "xlora_A.weight"])


def test_the_hint_works_when_it_is_followed(checkpoint, run, tmp_path):
    import peft

    model = tiny.load(checkpoint())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.get_base_model().save_pretrained(tmp_path / "wrapped")
    assert "PeftModel" in run("width", "wrapped", "-o", "x", code=1).stderr
    merged = peft.PeftModel.from_pretrained(tiny.load(checkpoint()), tmp_path / "adapter")
    merged.merge_and_unload().save_pretrained(tmp_path / "merged")
    run("width", "--noise", "0", "merged", "-o", "grown")
