"""What travels beside the weights, what stays behind, and why."""

import json

import alter
import pytest

from moegrow.checkpoint.listing import Listed, RemoteFile
from moegrow.checkpoint.local_store import LocalFolder
from moegrow.checkpoint.side_files import side_files
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError

WEIGHTS = "model.safetensors"
MODULES = json.dumps(
    [{"idx": n, "path": path} for n, path in enumerate(["", "1_Pooling", "2_Dense"])]
)


class Far(Listed):
    """Files far away, in memory."""

    def __init__(self, files):
        super().__init__(
            "hf://org/name@1", {name: RemoteFile(len(text)) for name, text in files.items()}
        )
        self._texts = files

    def check(self, name):
        pass

    def read_into(self, name, start, view):
        view[:] = self._texts[name].encode()[start : start + len(view)]


@pytest.fixture(params=["here", "far"])
def sorted_out(request, tmp_path):
    """What travels, and what stays behind by the first word of its reason, of some files."""

    def sorted_out(files, weights=(WEIGHTS,)):
        files = {CONFIG: "{}", **dict.fromkeys(weights, ""), **files}
        store = Far(files)
        if request.param == "here":
            for name, text in files.items():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(text)
            store = LocalFolder(tmp_path)
        found = side_files(store, weights)
        return set(found.travel), dict(found.left)

    return sorted_out


def test_a_training_state_stays_behind_as_a_whole(sorted_out):
    state = (
        "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt",
        "training_args.bin", "latest", "zero_to_fp32.py", "optimizer.bin", "random_states_0.pkl",
        "global_step5/mp_rank_00_model_states.pt",
    )  # fmt: skip
    travel, left = sorted_out(dict.fromkeys((*state, "tokenizer.json", "train.log"), "x"))
    assert travel == {"tokenizer.json", "train.log"}
    assert left.keys() == {name.partition("/")[0] for name in state}
    (reason,) = set(left.values())
    assert "training" in reason.says


def test_modules_of_sentence_transformers_come_along_with_their_weights(sorted_out):
    files = {
        "modules.json": MODULES,
        "config_sentence_transformers.json": "{}",
        "1_Pooling/config.json": "{}",
        "2_Dense/config.json": "{}",
        "2_Dense/model.safetensors": "x",
        "2_Dense/pytorch_model.bin": "x",
    }
    travel, left = sorted_out(files)
    assert travel == set(files)
    assert not left
    travel, left = sorted_out(files | {"modules.json": "[]"})
    assert "2_Dense/model.safetensors" not in travel
    assert {"1_Pooling", "2_Dense"} <= left.keys()


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"path": 1}]', '[{"path": "../x"}]', "["])
def test_modules_that_make_no_sense_are_refused(sorted_out, text):
    with pytest.raises(MoegrowError):
        sorted_out({"modules.json": text})


def test_what_belongs_to_weights_that_stay_behind_stays_too(sorted_out):
    travel, left = sorted_out(
        {
            "original/consolidated.00.pth": "x", "original/tokenizer.model": "x",
            "onnx/model.onnx": "x", "onnx/settings.json": "x",
            "lora/adapter_config.json": "{}", "lora/adapter_model.safetensors": "x",
            "vae/diffusion.safetensors": "x", "vae/vocab.txt": "x",
            "pytorch_model.bin": "x", "params.json": "{}", "docs/a.md": "x",
        }
    )  # fmt: skip
    assert travel == {"docs/a.md"}
    assert left.keys() == {
        "original/",
        "onnx/",
        "lora/",
        "vae/",
        "pytorch_model.bin",
        "params.json",
    }
    assert [name for name, reason in left.items() if reason.is_warning] == ["lora/"]


def test_another_checkpoint_in_a_folder_stays_behind(sorted_out):
    travel, left = sorted_out({"checkpoint-500/config.json": "{}", "checkpoint-500/a.txt": "x"})
    assert not travel
    assert left.keys() == {"checkpoint-500"}


def test_what_lies_beside_weights_in_their_own_folder_travels(sorted_out):
    travel, left = sorted_out(
        {INDEX: "{}", "w/notes.txt": "x", "w/old.bin": "x"}, weights=("w/a.safetensors",)
    )
    assert travel == {"w/notes.txt"}
    assert left.keys() == {"w/old.bin"}


def test_what_is_moegrows_own_stays_behind_without_a_word(sorted_out):
    files = ("README.md", "moegrow-plan.jsonl", "moegrow-digests.jsonl", INDEX, ".gitattributes")
    assert sorted_out(dict.fromkeys(files, "x")) == (set(), {})


def test_a_pointer_of_git_lfs_does_not_travel(sorted_out):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 4999\n"
    with pytest.raises(MoegrowError, match=r"tokenizer\.json is a git-lfs pointer") as error:
        sorted_out({"tokenizer.json": pointer})
    assert "git lfs pull" in error.value.hint


def test_more_than_ten_thousand_files_are_no_reason_to_refuse(tmp_path):
    for name in ("log", "wandb"):
        (tmp_path / name).mkdir()
        for number in range(6_000):
            (tmp_path / name / f"{number}.txt").touch()
    found = side_files(LocalFolder(tmp_path), ())
    assert len(found.travel) == 6_000
    assert [name for name, _ in found.left] == ["wandb"]
    for number in range(6_000, 11_000):
        (tmp_path / "log" / f"{number}.txt").touch()
    assert len(side_files(LocalFolder(tmp_path), ()).travel) == 11_000


def test_what_stays_behind_is_said_in_one_line_and_an_adapter_is_a_warning(
    run, checkpoint, tmp_path
):
    source = alter.copy(checkpoint(), tmp_path)
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "a.gguf"):
        (source / name).write_text("x")
    (source / "adapter_config.json").write_text("{}")
    done = run("depth", source, "-o", "out", "--json")
    document = json.loads(done.stdout)
    (note,) = document["notes"]
    assert "optimizer.pt, rng_state.pth, scheduler.pt and 1 more (" in note
    assert "a.gguf" in note
    (warning,) = [text for text in document["warnings"] if "adapter" in text]
    assert warning.startswith("adapter_config.json stays behind")
    assert f"source: {note}" in done.stderr
    assert {"trainer_state.json", "adapter_config.json"}.isdisjoint(
        path.name for path in (tmp_path / "out").iterdir()
    )
