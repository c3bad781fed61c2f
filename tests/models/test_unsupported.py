"""Formats that are not read: each is named, with what to do."""

import shlex
import shutil

import alter
import pytest
import torch

from moegrow.checkpoint import unsupported
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 4999999\n"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def refused(source, says="."):
    with pytest.raises(MoegrowError, match=says) as error:
        read_layout(open_checkpoint(source))
    return error.value


FOLDERS = [
    (form, pattern.replace("*", "x"))
    for form in unsupported.formats("folder")
    for pattern in form.files
]


@pytest.mark.parametrize(("form", "name"), FOLDERS, ids=[name for _, name in FOLDERS])
@pytest.mark.parametrize("has_config", [True, False])
def test_a_folder_of_another_format_is_named_for_what_it_is(tmp_path, form, name, has_config):
    if has_config:
        (tmp_path / CONFIG).write_text("{}")
    (tmp_path / "tokenizer.json").write_text("x")
    if "." in name:
        (tmp_path / name).write_text("x")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    error = refused(tmp_path)
    assert f"only {name}: {form.what}" in error.message
    assert error.hint == form.advice(str(tmp_path))


@pytest.mark.parametrize("form", unsupported.formats("tensors"), ids=lambda form: form.holds[0])
def test_tensors_of_another_format_are_named_for_what_they_are(tmp_path, checkpoint, form):
    shutil.copy(checkpoint() / CONFIG, tmp_path)
    names = [f"model.layers.0.mlp{part}x" if part[0] == "." else f"{part}x" for part in form.holds]
    alter.save(tmp_path / "model.safetensors", {name: torch.ones(1) for name in names})
    error = refused(tmp_path)
    assert form.what in error.message
    assert error.hint == form.advice(str(tmp_path))


def test_stacked_experts_of_mlx_are_named(source):
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".experts." in name]:
            before, _, after = name.partition(".experts.")
            _, _, kind = after.partition(".")
            expert = tensors.pop(name)
            tensors.setdefault(f"{before}.switch_mlp.{kind}", expert[None].repeat(8, 1, 1))
    assert "mlx_lm.convert" in refused(source, "switch_mlp").hint


def test_a_file_of_another_format_is_named(tmp_path):
    for name, says in (("model.gguf", "llama.cpp"), ("pytorch_model.bin", "pickles")):
        (tmp_path / name).write_text("x")
        refused(tmp_path / name, says)


def test_an_adapter_alone_needs_no_config_to_be_known(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    alter.save(tmp_path / "adapter_model.safetensors", {"a": torch.zeros(1)})
    assert "merge_and_unload" in refused(tmp_path, "adapter").hint


@pytest.mark.parametrize("name", [CONFIG, INDEX, "shard", "tokenizer.json"])
def test_pointers_of_git_lfs_are_named(source, name):
    file = min(source.glob("*.safetensors")) if name == "shard" else source / name
    file.write_text(POINTER)
    error = refused(source, f"{file.name} is a git-lfs pointer")
    assert "git lfs pull" in error.hint


@pytest.mark.parametrize("model_type", ["mistral", "llama", "qwen3", "deepseek_v9", "gemma"])
def test_a_type_that_is_another_model_is_not_taken_for_a_slip(source, model_type):
    with alter.table(source / CONFIG) as config:
        config["model_type"] = model_type
    assert "did you mean" not in refused(source, "is not known").hint
    with alter.table(source / CONFIG) as config:
        config["model_type"] = "Qwen3-MoE"
    assert "did you mean qwen3_moe?" in refused(source, "is not known").hint


@pytest.mark.parametrize("form", unsupported.formats("folder"), ids=lambda form: form.what)
def test_a_folder_with_a_space_in_its_name_can_be_typed_as_a_hint_has_it(run, tmp_path, form):
    folder = tmp_path / "my model"
    (folder / form.files[0].replace("*", "1")).mkdir(parents=True)
    hint = run("inspect", folder, code=1).stderr.rpartition("hint: ")[2]
    assert "{" not in hint
    if "my model" in hint:
        shown = {shlex.quote(str(folder)), repr(str(folder))}
        for part in hint.split(str(folder))[:-1]:
            assert part[-1] in "'\""
        assert any(text in hint for text in shown)
