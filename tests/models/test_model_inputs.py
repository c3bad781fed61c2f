"""The tokens that models are compared on are those of the texts, or always the same ones."""

import contextlib
import json

import alter
import pytest
from test_logits import grow, nursery  # noqa: F401

import moegrow
from moegrow.analysis import model_inputs
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout

WORDS = ["the", "cat", "sat", "on", "a", "mat"]


def with_tokenizer(folder, words=WORDS):
    """A tokenizer of words beside the weights, as transformers saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[UNK]", *words])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)


def test_prompts_are_read_by_the_tokenizer_in_the_folder(run, checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with_tokenizer(source)
    grown = grow(source, tmp_path / "grown", ("width", {"noise": 0}))
    done = run(
        "verify", grown, "--logits", "--prompt", "the cat sat on the mat", "--prompt", "a cat",
        "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["logits"]["tokens"] == 8
    assert document["logits"]["ok"]
    with pytest.raises(MoegrowError, match="makes no tokens of ''"):
        moegrow.compare_logits(grown, prompts=[""])


def test_padding_behind_a_short_prompt_changes_nothing(checkpoint, tmp_path):
    source = alter.copy(checkpoint("qwen3_next"), tmp_path)
    with_tokenizer(source)
    grown = grow(source, tmp_path / "grown", ("width", {"noise": 0.05}))
    long, short = "the cat sat on a mat and sat on", "the cat"
    alone = moegrow.compare_logits(grown, prompts=[short])
    both = moegrow.compare_logits(grown, prompts=[short, long])
    other = moegrow.compare_logits(grown, prompts=[long])
    assert alone.tokens + other.tokens == both.tokens
    assert both.kl * both.tokens == pytest.approx(
        alone.kl * alone.tokens + other.kl * other.tokens, rel=1e-3
    )


def test_code_of_a_tokenizer_is_not_run(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with_tokenizer(source)
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with alter.table(source / "tokenizer_config.json") as config:
        config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        config["tokenizer_class"] = "Evil"
    grown = grow(source, tmp_path / "grown", ("width", {}))
    with contextlib.suppress(MoegrowError):
        moegrow.compare_logits(grown, prompts=["a cat"])
    assert (grown / "evil.py").exists()
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_tokenizer_says_so(checkpoint, tmp_path):
    grown = grow(checkpoint(), tmp_path / "grown", ("width", {}))
    with pytest.raises(MoegrowError, match="makes no tokens of 'a cat'") as raised:
        moegrow.compare_logits(grown, prompts=["a cat"])
    assert raised.value.hint == "leave prompts out to run random tokens"


def test_a_tokenizer_of_another_vocabulary_is_refused(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with_tokenizer(source, [f"word{number}" for number in range(100)] + ["cat"])
    grown = grow(source, tmp_path / "grown", ("width", {}))
    with pytest.raises(MoegrowError, match=r"gives token 101, and .* says vocab_size 64"):
        moegrow.compare_logits(grown, prompts=["cat"])


def test_a_prompt_without_logits_is_wrong_usage(run, checkpoint, tmp_path):
    grow(checkpoint(), tmp_path / "grown", ("width", {}))
    assert "--prompt is for --logits" in run("verify", "grown", "--prompt", "a", code=2).stderr


def test_drawn_tokens_are_the_same_each_time_and_none_that_means_something(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    special = list(range(5, 60))
    with alter.table(source / CONFIG) as config:
        config["image_token_id"], config["stop_token_ids"] = special[0], special[1:]
    layout = read_layout(open_checkpoint(source))
    found = model_inputs.drawn(layout)
    assert found == model_inputs.drawn(layout)
    assert {len(sequence) for sequence in found} == {model_inputs.LENGTH}
    assert len(found) == model_inputs.SEQUENCES
    used = {number for sequence in found for number in sequence}
    assert used <= set(range(layout.config["vocab_size"])) - set(special)
    assert len(used) > 2
