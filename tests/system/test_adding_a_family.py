"""A family of the user's own, as docs/adding-a-family.md writes it: the page itself is tested."""

import json
import re
import tomllib

import heron
import numpy as np
import pytest

import moegrow
from moegrow.errors import MoegrowError, UsageError


@pytest.fixture
def source(tmp_path):
    (tmp_path / "heron.toml").write_text(heron.family_text())
    return heron.build(tmp_path / "heron")


def tensors(folder):
    return heron.read(folder)[1]


def distance(a, b):
    """The largest difference of the logits of two checkpoints, in units of their deviation."""
    return np.abs(heron.logits(a) - heron.logits(b)).max() / heron.logits(a).std()


def test_the_page_shows_the_config_and_the_names_of_the_checkpoint(source, monkeypatch, capsys):
    page = heron.PAGE.read_text()
    (shown,) = re.findall(r"^```json\n(.*?)^```$", page, re.M | re.S)
    assert json.loads(shown) == heron.CONFIG
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(source.parent)
    exec(program, {})
    assert f"```text\n{capsys.readouterr().out}```\n" in page


def test_without_the_file_the_hint_leads_to_it(source, run):
    said = run("inspect", "heron", code=1).stderr
    assert "'heron_moe' is not known" in said
    assert "--family FILE.toml (docs/adding-a-family.md)" in said


def test_inspect_counts_by_the_file(source, run):
    facts = json.loads(run("inspect", "heron", "--family", "heron.toml", "--json").stdout)
    assert facts["family"] == "heron_moe"
    assert (facts["layers"], facts["moe_layers"]) == (4, [1, 2, 3])
    assert (facts["experts"], facts["top_k"], facts["router"]) == (4, 2, "sigmoid")
    assert facts["shared_parameters"] == 3 * 3 * heron.SIZE * heron.HIDDEN


def test_depth_repeats_layers_byte_for_byte_and_grows_what_counts_them(source, run, tmp_path):
    run("depth", "heron", "--family", "heron.toml", "--layers", "0,0,1,1-3,2", "-o", "deep")
    assert moegrow.verify(tmp_path / "deep").ok
    layer_map = (0, 0, 1, 1, 2, 3, 2)
    config, new = heron.read(tmp_path / "deep")
    old = tensors(source)
    expected = {name: value for name, value in old.items() if ".h" not in name}
    for layer, original in enumerate(layer_map):
        own = f"trunk.h{original}."
        for name in old:
            if name.startswith(own):
                expected[f"trunk.h{layer}.{name.removeprefix(own)}"] = old[name]
    assert new.keys() == expected.keys()
    assert all(new[name].tobytes() == expected[name].tobytes() for name in new)
    kinds = heron.CONFIG["block_kinds"]
    assert config == heron.CONFIG | {
        "num_blocks": 7, "first_dense_blocks": 2, "block_kinds": [kinds[i] for i in layer_map],
    }  # fmt: skip


def test_identity_layers_keep_the_function(source, tmp_path):
    plan = moegrow.depth(source, family=tmp_path / "heron.toml", new_layers="identity")
    moegrow.apply(plan, tmp_path / "deep")
    assert heron.read(tmp_path / "deep")[0]["num_blocks"] == 8
    assert distance(source, tmp_path / "deep") == 0


@pytest.mark.parametrize(("times", "order"), [(2, "append"), (3, "interleave")])
def test_width_without_noise_keeps_the_function(source, run, tmp_path, times, order):
    run(
        "width", "heron", "--family", "heron.toml", "--experts", f"{times}x", "--noise", "0",
        "--order", order, "-o", "wide",
    )  # fmt: skip
    assert moegrow.verify(tmp_path / "wide").ok
    config, new = heron.read(tmp_path / "wide")
    old = tensors(source)
    moe = {"experts": 4 * times, "experts_per_token": 2 * times, "weight_scale": 2.5 / times}
    assert config == heron.CONFIG | {"moe": moe}
    stores = [j % 4 if order == "append" else j // times for j in range(4 * times)]
    for name in ("trunk.h2.ffn.router.weight", "trunk.h2.ffn.router.load_bias"):
        assert np.array_equal(new[name], old[name][stores])
    for expert, store in enumerate(stores):
        for matrix in ("w_in", "w_gate", "w_out"):
            name = "trunk.h3.ffn.expert_{}.{}.weight"
            assert np.array_equal(new[name.format(expert, matrix)], old[name.format(store, matrix)])
    assert distance(source, tmp_path / "wide") < 1e-12


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("normalised = true", "normalised = false"),
        ('scores = "softmax"', 'scores = "sigmoid"'),
    ],
)
def test_a_wrong_router_shows_in_the_logits(source, tmp_path, wrong, right):
    (tmp_path / "wrong.toml").write_text(heron.family_text().replace(right, wrong))
    plan = moegrow.width(source, family=tmp_path / "wrong.toml", noise=0)
    moegrow.apply(plan, tmp_path / "wide")
    assert distance(source, tmp_path / "wide") > 0.1


def test_a_missing_output_shows_in_identity_layers(source, tmp_path):
    text = heron.family_text().replace('"attn.out.*",', "")
    (tmp_path / "wrong.toml").write_text(text)
    plan = moegrow.depth(source, family=tmp_path / "wrong.toml", new_layers="identity")
    moegrow.apply(plan, tmp_path / "deep")
    assert distance(source, tmp_path / "deep") > 0.1


def test_both_in_one_pass_need_the_file_once(source, run, tmp_path):
    plan = run("depth", "heron", "--family", "heron.toml", "--plan").stdout
    assert json.loads(plan.splitlines()[0])["family_text"] == heron.family_text()
    run("width", "--noise", "0", "-o", "both", stdin=plan)
    run("verify", "both")
    other = moegrow.depth(moegrow.width(source, family=tmp_path / "heron.toml", noise=0))
    moegrow.apply(other, tmp_path / "other")
    for file in (tmp_path / "both").glob("model*"):
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()
    deep = moegrow.depth(source, family=tmp_path / "heron.toml")
    moegrow.apply(deep, tmp_path / "deep")
    assert distance(tmp_path / "deep", tmp_path / "both") < 1e-12


def test_a_plan_is_applied_without_the_file(source, run, tmp_path):
    plan = run("width", "heron", "--family", "heron.toml", "--plan").stdout
    (tmp_path / "heron.toml").unlink()
    run("apply", "-o", "wide", stdin=plan)
    run("verify", "wide")


def test_from_python_the_file_is_an_argument(source, tmp_path):
    plan = moegrow.depth(source, family=tmp_path / "heron.toml")
    wide = moegrow.width(plan, noise=0)
    assert wide.family_text == heron.family_text()
    (tmp_path / "other.toml").write_text(heron.family_text() + "\n# another\n")
    with pytest.raises(UsageError, match="brings its family along"):
        moegrow.width(plan, family=tmp_path / "other.toml")


MISTAKES = {
    "no toml": ("[router]", "[router", "is not valid TOML"),
    "another type": ('["heron_moe"]', '["egret_moe"]', 'write model_types = ["heron_moe"]'),
    "unknown key": ("outputs =", "output =", "the key 'output' is not known"),
    "missing key": ('block = ["ffn."]', "", "the key 'block' is missing"),
    "unknown table": ("[router]", "[routers]", "the key 'routers' is not known"),
    "unclassified": ('balance_bias = ["ffn.router.load_bias"]', "",
                     "trunk.h3.ffn.router.load_bias [4] is in a MoE block"),
    "other layers": ("trunk.h{layer}.", "trunk.layer.{layer}.", "has no layers that are named as"),
    "no router": ('"ffn.router.weight"', '"ffn.gate.weight"', "has experts and no router"),
    "experts by rows": ("ffn.expert_{expert}.*", "ffn.expert_*", "is neither a weight nor a part"),
    "other config key": ('"moe.experts"', '"num_experts"', "does not say the number of experts"),
    "the wrong layers": ("dense = true", "sparse = true",
                         "by first_dense_blocks layer 0 is sparse, and it has no experts"),
    "not a number": ('"num_blocks"', '"block_kinds"', "not a sensible number of layers"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_one_clear_error(source, tmp_path, mistake):
    right, wrong, says = MISTAKES[mistake]
    text = heron.family_text().replace(right, wrong)
    assert text != heron.family_text()
    (tmp_path / "wrong.toml").write_text(text)
    for verb in (moegrow.inspect, moegrow.depth, moegrow.width):
        with pytest.raises(MoegrowError) as refused:
            verb(source, family=tmp_path / "wrong.toml")
        assert says in f"{refused.value.message}\n{refused.value.hint}"


def test_a_command_with_a_mistaken_file_says_so_and_writes_nothing(source, run, tmp_path):
    (tmp_path / "wrong.toml").write_text(heron.family_text().replace("outputs =", "output ="))
    done = run("width", "heron", "--family", "wrong.toml", code=1)
    error, hint = done.stderr.splitlines()
    assert error == "error: family heron_moe.tensors: the key 'output' is not known"
    assert hint.startswith("hint: did you mean outputs? known: layers, ")
    assert not done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"heron", "heron.toml", "wrong.toml"}


def test_a_file_that_is_not_there_is_named(source, run):
    said = run("inspect", "heron", "--family", "nothing.toml", code=1).stderr
    assert "nothing.toml is not a file" in said


def test_the_example_of_rules_is_toml():
    (example,) = re.findall(
        r"^    \[config\.per_layer.*?(?=^\S)", heron.PAGE.read_text(), re.M | re.S
    )
    assert tomllib.loads(re.sub(r"^    ", "", example, flags=re.M))


def test_a_recipe_saved_at_the_end_of_a_pipe_has_the_family_beside_it(source, run, tmp_path):
    plan = run("depth", "heron", "--family", "heron.toml", "--plan").stdout
    save = "width", "--noise", "0", "-o", "both", "--save-recipe", "mine.toml"
    run(*save, stdin=plan)
    assert (tmp_path / "mine.family.toml").read_text() == heron.family_text()
    assert 'family = "mine.family.toml"' in (tmp_path / "mine.toml").read_text()
    (tmp_path / "heron.toml").unlink()
    run("run", "mine.toml", "-o", "again")
    weights = [
        {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.safetensors")}
        for folder in ("both", "again")
    ]
    assert weights[0] == weights[1]
    (tmp_path / "mine.toml").unlink()
    done = run(*save, "--force", stdin=plan, code=1)
    assert "mine.family.toml exists already" in done.stderr
    assert not (tmp_path / "mine.toml").exists()
