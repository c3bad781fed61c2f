"""Sizes to grow to are those that the commands make, of every model that can be grown so."""

import json

import pytest

from moegrow.analysis import advice
from moegrow.planning import open_source


def found(folder, tokens=None):
    advised = advice.advise(open_source.load(folder), tokens=tokens)
    return {target.name: target for target in advised.targets}


def test_targets_are_what_the_commands_make(run, checkpoint):
    targets = found(checkpoint("deepseek_v3"), 10**9)
    for name, arguments in {
        "depth 2x": ["depth", "--mode", "interpose"],
        "width 2x": ["width", "--experts", "2x", "--noise", "0.01"],
        "upcycling": ["width", "--preset", "upcycling"],
    }.items():
        assert targets[name].command == "moegrow " + " ".join(arguments)
        done = run(*arguments, checkpoint("deepseek_v3"), "--dry-run", "--json")
        assert json.loads(done.stdout)["after"] == targets[name].numbers.table()
    plan = run("depth", "--mode", "interpose", checkpoint("deepseek_v3"), "--plan").stdout
    both = json.loads(run("width", "--dry-run", "--json", stdin=plan).stdout)
    assert both["after"] == targets["both 2x"].numbers.table()
    # The same compute: twice the active parameters see half as many tokens.
    for target in targets.values():
        spent = 6 * target.numbers.active_parameters * target.tokens
        assert spent == pytest.approx(
            6 * 10**9 * targets["as it is"].numbers.active_parameters, 1e-3
        )


def after(run, source, command):
    """The numbers of what a command of moegrow's makes, which may be two with a pipe between."""
    first, _, second = command.partition(" | ")
    deep = [*first.split()[1:2], source, *first.split()[2:]]
    if not second:
        return json.loads(run(*deep, "--dry-run", "--json").stdout)["after"]
    plan = run(*deep).stdout
    return json.loads(run(*second.split()[1:], "--dry-run", "--json", stdin=plan).stdout)["after"]


def test_noise_on_quantised_experts_has_a_target_with_the_experts_in_bf16(run, made, tmp_path):
    source = made("fp8 blocks")
    targets = found(source)
    width = targets["width 2x"]
    assert width.command == "moegrow width --experts 2x --noise 0.01 --experts-dtype bf16"
    assert width.instead.startswith("noise of 0.01 sigma on experts in fp8")
    assert "\n" not in width.instead
    for name in ("depth 2x", "width 2x", "both 2x", "upcycling"):
        assert not targets[name].refused
        assert after(run, source, targets[name].command) == targets[name].numbers.table()
    told = run("advise", source).stdout
    assert "since noise of 0.01 sigma" in told
    assert "\\n" not in told


@pytest.mark.parametrize(
    ("model_type", "settings", "tokens", "command"),
    [
        ("deepseek_v3", {}, 1, "moegrow depth --mode stack --keep-first 1"),
        ("jamba", {}, 10**15, "moegrow depth --mode stack"),
        ("jamba", {"num_hidden_layers": 8}, 10**15, "moegrow depth --mode interpose --group 4"),
        ("inkling2_text", {}, 1, "moegrow depth --mode interpose"),
    ],
)
def test_a_mode_that_the_config_cannot_express_gives_way_to_one_like_it(
    run, checkpoint, model_type, settings, tokens, command
):
    source = checkpoint(model_type, **settings)
    deep = found(source, tokens)["depth 2x"]
    assert deep.command == command
    assert "config.json can only say" in deep.instead
    assert after(run, source, command) == deep.numbers.table()


def test_where_nothing_can_be_madethe_target_has_the_reason(checkpoint):
    targets = found(checkpoint("phimoe"))
    refused = [name for name, target in targets.items() if target.refused]
    assert refused == ["width 2x", "both 2x", "upcycling"]
    assert all("always picks two" in targets[name].refused for name in refused)
    assert all(targets[name].numbers is None for name in refused)
