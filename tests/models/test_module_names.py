"""Names of modules under the maps: every copy is named, and nothing else."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from time import process_time

import alter
import pytest
import torch

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.families.read_layout import read_layout
from moegrow.growth import Growth
from moegrow.model_config.module_names import ModuleNames

LAYERS, EXPERTS = (0, 0, 1, 1, 2, 2, 3, 3), (0, 1, 2, 3, 0, 1, 2, 3)


@pytest.fixture(scope="module")
def names(checkpoint):
    """The names of a model of 4 layers and 4 experts that grows along both axes."""
    return names_in(read_layout(open_checkpoint(checkpoint())))


@pytest.fixture(scope="module")
def without_the_last(checkpoint):
    return names_in(read_layout(open_checkpoint(checkpoint())), (0, 1, 1, 2))


def names_in(layout, layers=LAYERS, experts=EXPERTS):
    nothing = Growth.none(layers=layout.layers, experts=layout.experts, top_k=2)
    return ModuleNames(layout, replace(nothing, layers=layers, experts=experts))


@pytest.mark.parametrize(
    "text",
    [
        "lm_head", "Linear", "re:.*lm_head", "mlp.gate", "model.layers.*.self_attn",
        r"re:.*layers\.\d+\.mlp\.experts\.[0-9]+\.w1", "re:.*w[13]$", "re:.*fc2$",
        r"re:.*mlp\.experts.*", "", "1.2.3", r"re:model\.layers\.[^.]+\.mlp.*",
        "re:.*layers.*self_attn", "re:model.layers.+mlp.gate",
        # What is numbered by another word: vision towers, and prediction layers that are not there.
        "visual.blocks.3.attn", r"re:.*visual\.blocks\.3\..*", r"re:visual\.blocks\.[0-9]+",
        r"re:model.visual.blocks.(0|1).attn", "mtp.0.mlp.gate",
    ],
)  # fmt: skip
def test_what_names_no_single_layer_stays(names, text):
    assert names.expand(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.layers.1.mlp.gate", ["model.layers.2.mlp.gate", "model.layers.3.mlp.gate"]),
        ("layers.1.mlp", ["layers.2.mlp", "layers.3.mlp"]),
        ("*.layers.3.mlp.*", ["*.layers.6.mlp.*", "*.layers.7.mlp.*"]),
        ("*layers.3*", ["*layers.6*", "*layers.7*"]),
        # An expression that is not marked, as AutoRound has them.
        (".*layers.2.mlp.gate", [".*layers.(?:4|5).mlp.gate"]),
        ("mlp.experts.3.up_proj", ["mlp.experts.3.up_proj", "mlp.experts.7.up_proj"]),
        (
            "model.layers.0.mlp.experts.2.w1",
            [f"model.layers.{n}.mlp.experts.{e}.w1" for n in (0, 1) for e in (2, 6)],
        ),
        # Behind the last layer: of a prediction layer whose weights are not there.
        ("model.layers.4.mlp", ["model.layers.8.mlp"]),
        # Another naming of the same stack.
        (
            "thinker.model.layers.0.mlp",
            ["thinker.model.layers.0.mlp", "thinker.model.layers.1.mlp"],
        ),
    ],
)
def test_a_name_is_repeated_for_every_copy(names, text, expected):
    assert names.expand(text) == expected


def modules(layers, experts):
    for layer in range(layers):
        yield f"model.layers.{layer}.self_attn.q_proj", (layer, None)
        for expert in range(experts):
            yield f"model.layers.{layer}.mlp.experts.{expert}.w1", (layer, expert)


@pytest.mark.parametrize(
    "pattern",
    [
        r".*layers\.1\.mlp\..*", r"model.layers.0.mlp.experts.2.w1", r".*layers\.(0|3)\..*",
        r".*\.layers\.[0-1]\.self_attn\..*", r".*layers\.([0-9]|1[0-9])\.self_attn.*",
        r"model\.layers\.2\..*experts\.(?:1|3)\.w[13]", r"(model|x)\.layers\.1\.self_attn.*",
        r".*layers\.\d\.mlp\.experts\.0\..*", r".*(layers\.0\.self|layers\.3\.mlp).*",
        # Expressions that match the beginning of a name, and no layer of ten or more in the source.
        r".*layers\.1", r".*layers\.1.*", r".*layers.[12].*w1", r".*(layers\.0|layers\.3)\.mlp",
        r"^(?!.*layers\.1).*", r".*layers\.2$|.*experts\.1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("layers", [LAYERS, (3, 1, 1, 0, 2), (*range(4), *range(4), *range(4))])
def test_a_regular_expression_matches_the_copies_of_what_it_matched(checkpoint, pattern, layers):
    names = names_in(read_layout(open_checkpoint(checkpoint())), layers)
    (new,) = names.expand(f"re:{pattern}")
    before = {place for name, place in modules(4, 4) if re.match(pattern, name)}
    assert before
    new = new.removeprefix("re:")
    for name, (layer, expert) in modules(len(layers), 8):
        store = layers[layer], None if expert is None else EXPERTS[expert]
        assert bool(re.match(new, name)) == (store in before), name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (r"re:.*\.[0-2]\.mlp", "numbers that are not behind"),
        (r"re:model\.layers\.(?!0\.).*", "in the place of a number"),
        (r"re:.*\.3\.mlp", "numbers that are not behind"),
        (r"re:.*s\.3\.mlp", "numbers that are not behind"),
        (r"re:.*[Ll]ayers\.3\.mlp", "numbers that are not behind"),
        (r"re:(?i)model\.LAYERS\.3\.mlp", "numbers that are not behind"),
        ("*.3.mlp", "numbers that are not behind"),
        ("*.3.*", "numbers that are not behind"),
        (r"re:model\.layers\.(0\.mlp|1\.self_attn)\..*", "in the place of a number"),
        (r"re:.*layers\.[5-2]\.mlp", "no regular expression"),
        (r"re:.*layers\.(0+)+\.mlp", "in the place of a number"),
        ("encoder.layers.0.mlp", "is not there"),
    ],
)
def test_what_cannot_be_made_to_mean_the_copies_is_refused(names, text, why):
    with pytest.raises(MoegrowError, match=why) as refused:
        names.expand(text)
    assert repr(text) in refused.value.message
    assert "dtype='bf16'" in refused.value.hint


def test_a_beginning_that_is_that_of_several_numbers_is_refused_or_means_them_all(checkpoint):
    """What matches from the start, and does not end a number: 1 is that of 10, 11 and so on."""
    source = read_layout(open_checkpoint(checkpoint(num_hidden_layers=12)))
    layers = tuple(layer for layer in range(12) for _ in range(2))
    names = names_in(source, layers)
    for text in (r"re:.*layers\.1", r"re:.*(layers\.1|x)"):
        with pytest.raises(MoegrowError, match="begins those of other layers"):
            names.expand(text)
    assert names.expand(r"re:.*layers\.5") == [r"re:.*layers\.(?:10|11)\b"]
    (both,) = names.expand(r"re:.*layers\.1.*mlp")
    found = [n for n in range(24) if re.match(both[3:], f"model.layers.{n}.mlp")]
    assert found == [2, 3, 20, 21, 22, 23]
    assert names.expand(r"re:.*layers\.1\.mlp") == [r"re:.*layers\.(?:2|3)\.mlp"]


def test_a_name_for_one_module_alone_cannot_stand_for_two(names):
    with pytest.raises(MoegrowError, match="2 copies, where one name can stand"):
        names.rewritten({"router": "model.layers.0.mlp.gate"})
    assert names.rewritten({"a": ["lm_head", {"model.layers.1.x": 5}], "b": None}) == {
        "a": ["lm_head", {"model.layers.2.x": 5, "model.layers.3.x": 5}], "b": None,
    }  # fmt: skip


def test_names_in_the_value_of_a_name_are_those_of_its_own_copy(names):
    """As exl3 lists the tensors of each module, under the name of the module."""
    up, down = "model.layers.1.mlp.experts.2.up", "model.layers.1.mlp.experts.2.down"
    told = {up: {"stored": {f"{up}.w": {"shape": [2, 3]}}, "all": [f"{up}.w", "x"], "like": down}}
    assert names.rewritten({"tensor_storage": told})["tensor_storage"] == {
        (key := f"model.layers.{layer}.mlp.experts.{expert}.up"): {
            "stored": {f"{key}.w": {"shape": [2, 3]}},
            "all": [f"{key}.w", "x"],
            "like": f"model.layers.{layer}.mlp.experts.{expert}.down",
        }
        for layer in (2, 3)
        for expert in (2, 6)
    }


def test_other_numbers_in_the_value_of_a_name_are_those_of_every_copy(names):
    told = {"layers.1.experts.2": ["layers.1.w", "layers.1.experts.0", "layers.0.experts.2"]}
    expected = {
        f"layers.{layer}.experts.{expert}": [
            f"layers.{layer}.w", f"layers.{layer}.experts.0", f"layers.{layer}.experts.4",
            *(f"layers.{other}.experts.{each}" for other in (0, 1) for each in (2, 6)),
        ]
        for layer in (2, 3)
        for expert in (2, 6)
    }  # fmt: skip
    assert names.rewritten(told) == expected
    nested = {"layers.1": {"experts.2": {"deep": [{"layers.1.experts.2.w": r"re:.*layers\.1\.w"}]}}}
    assert names.rewritten(nested) == {
        f"layers.{layer}": {
            f"experts.{expert}": {
                "deep": [{f"layers.{layer}.experts.{expert}.w": rf"re:.*layers\.(?:{layer})\.w"}]
            }
            for expert in (2, 6)
        }
        for layer in (2, 3)
    }


def test_experts_of_other_layers_are_others_also_where_layers_stay(checkpoint):
    layout = read_layout(open_checkpoint(checkpoint()))
    wide = names_in(layout, range(4))
    told = {"layers.1.experts.2": {"layers.1.experts.2.w": 0, "layers.3.experts.2.w": 0}}
    assert wide.rewritten(told) == {
        f"layers.1.experts.{expert}": {
            f"layers.1.experts.{expert}.w": 0, "layers.3.experts.2.w": 0, "layers.3.experts.6.w": 0,
        }
        for expert in (2, 6)
    }  # fmt: skip


def test_what_was_rewritten_is_rewritten_again(names, without_the_last):
    for text in (r"re:.*layers\.3", r"re:.*layers\.(0|3)\.mlp", r"re:.*layers\.[1-2].*w1"):
        (once,) = names.expand(text)
        (twice,) = names.expand(once)
        for new, old in enumerate(LAYERS):
            ends = (f"layers.{new}.mlp.w1", f"layers.{old}.mlp.w1")
            assert bool(re.match(twice[3:], ends[0])) == bool(re.match(once[3:], ends[1]))
    (none,) = without_the_last.expand(r"re:.*layers\.3\.mlp")
    assert not re.match(none[3:], "layers.3.mlp")
    assert names.expand(none) == [none]


def test_a_number_at_the_end_never_begins_those_of_others(checkpoint):
    """Some readers take a name for the beginning of others: layer 1 for layer 10."""
    layout = read_layout(open_checkpoint(checkpoint()))
    short, long = names_in(layout), names_in(layout, (0, *([1] * 11), 2, 3))
    assert short.expand("model.layers.1") == ["model.layers.2", "model.layers.3"]
    assert short.expand("model.layers.1*") == ["model.layers.2*", "model.layers.3*"]
    with pytest.raises(MoegrowError, match="begins those of other layers"):
        names_in(layout, (0, 1, *([2] * 10), 3)).expand("model.layers.1")
    starred = names_in(layout, (0, 1, *([2] * 10), 3)).expand("model.layers.1*")
    assert starred == ["model.layers.1.*"]
    assert len(long.expand("model.layers.1*")) == 11


def test_layers_of_another_model_in_the_checkpoint_keep_their_numbers(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["visual.layers.0.fc.weight"] = torch.zeros(2, 2)
    names = names_in(read_layout(open_checkpoint(source)))
    assert names.expand("visual.layers.0.fc") == ["visual.layers.0.fc"]
    assert names.expand("model.layers.0.fc") == ["model.layers.0.fc", "model.layers.1.fc"]
    for text in ("layers.0.fc", r"re:.*layers\.0\.fc"):
        with pytest.raises(MoegrowError, match="several stacks"):
            names.expand(text)


def test_prediction_layers_behind_the_last_stay_behind_it(checkpoint, tmp_path):
    source = alter.copy(checkpoint("deepseek_v3"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["num_nextn_predict_layers"] = 1
    layout = read_layout(open_checkpoint(source))
    assert names_in(layout).expand("model.layers.4.eh_proj") == ["model.layers.8.eh_proj"]
    assert names_in(layout).expand(r"re:.*layers\.4\.eh_proj") == [r"re:.*layers\.(?:8)\.eh_proj"]


def test_more_names_than_any_config_has_are_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("moegrow.model_config.module_names.MOST_NAMES", 10)
    names = names_in(read_layout(open_checkpoint(checkpoint())))
    with pytest.raises(MoegrowError, match="more than 10 modules"):
        names.rewritten([f"model.layers.{layer}.mlp.experts.1.w1" for layer in range(4)])


@pytest.mark.parametrize(
    "value",
    [
        ["model.layers.0." + "x" * 1_000_000] * 9, {"model.layers.0": ["x" * 9_000_000]},
        {"model.layers.0": {"experts.0": [0] * 1_100_000}},
    ],
    ids=["names", "values of names", "values"],
)  # fmt: skip
def test_a_config_that_would_be_too_large_to_be_read_is_refused(names, value):
    with pytest.raises(MoegrowError, match="take more than 16777216 characters, or 700000 values"):
        names.rewritten(value)


@pytest.mark.parametrize(
    "value",
    [
        ["re:" + r"layers\." * 50_000], ["re:" + "(layers." * 30_000],
        ["re:" + "x.3." * 100_000], ["re:.*layers." + "(|1)" * 30], ["re:.*layers." + "1?" * 5000],
        [f"re:layers.[0-3]{'[0-9]' * (n % 100)}.{n}" for n in range(20_000)],
        [f"model.layers.{n % 4}.mlp.experts.{n % 4}.w{n}" for n in range(15_000)],
        ["model." * 100_000 + "layers.3.x"], ["." * 300_000], ["*" * 300_000],
        [f"stack{n}.layers.3.x" for n in range(20_000)], ["re:.*layers." + "(" * 1000 + ")" * 1000],
        ["re:.*layers.(" + "1|" * 100_000 + "2)"], ["re:.*layers." + "1" * 200_000],
    ],
    ids=range(14),
)  # fmt: skip
def test_what_would_take_for_ever_is_rewritten_or_refused_at_once(checkpoint, value):
    names = names_in(read_layout(open_checkpoint(checkpoint())))
    started = process_time()
    with suppress(MoegrowError):
        names.rewritten(value)
    assert process_time() - started < 3


def test_names_of_as_many_layers_as_there_may_be_take_no_time(checkpoint):
    layers = tuple(number % 4 for number in range(100_000))
    names = names_in(read_layout(open_checkpoint(checkpoint())), layers)
    started = process_time()
    assert len(names.expand("model.layers.1.x")) == 25_000
    for text in (r"re:.*layers\.1\.x", r"re:.*layers\.[12]\.x", r"re:.*layers\.1.*"):
        assert names.expand(text)[0].count("|") in (24_999, 49_999)
    assert process_time() - started < 3


def test_what_a_config_says_stays_text_for_text_where_nothing_is_named(checkpoint, tmp_path):
    import moegrow

    source = alter.copy(checkpoint(), tmp_path)
    text = (source / "config.json").read_text()
    told = '  "quantization_config": {"ignore":   ["lm_head"], "bits": 4e0},\n'
    (source / "config.json").write_text(text.replace("{\n", "{\n" + told, 1))
    assert told in moegrow.depth(source).config
    assert json.loads(moegrow.depth(source).config)["quantization_config"]["bits"] == 4
