"""Noise on quantised experts is refused, with three ways out whose effect is as foretold."""

import re

import alter
import pytest
import torch

import moegrow
from moegrow.errors import MoegrowError, spell
from moegrow.options import as_flag
from moegrow.planning.notices import NoticeKind, notices
from moegrow.planning.op import noise_of
from moegrow.planning.open_source import load

# Of each kind of grid one, that transformers can load.
SOME = ["fp8 blocks", "int8 channel", "int4", "nvfp4", "gptq"]


# An option, the size of what it makes, the share that stays and the noise that is realised.
WAY = re.compile(
    r"  (--[a-z0-9 -]+?)  +([0-9.]+ [KM]B)  [^:]+: ([0-9.]+) % of the values stay as they are,"
    r" and (?:the noise realised is ([0-9.]+) times|there is no noise)"
)


def ways(text):
    return {found[1]: (found[2], float(found[3]), found[4]) for found in WAY.finditer(text)}


@pytest.mark.parametrize("name", SOME)
def test_every_way_that_is_named_does_what_was_foretold(made, run, tmp_path, name):
    source = made(name)
    done = run("width", "--noise", "0.05", source, "-o", "out", code=1)
    assert "noise of 0.05 sigma on experts in" in done.stderr
    assert "hint: add one of these" in done.stderr
    assert not (tmp_path / "out").exists()
    found = ways(done.stderr)
    assert list(found) == ["--experts-dtype bf16", "--rounding stochastic", "--noise 0"]
    for number, (option, (told, stays, ratio)) in enumerate(found.items()):
        options = option.split() if "noise" in option else [*option.split(), "--noise", "0.05"]
        plan = moegrow.width(source, **{
            key.removeprefix("--").replace("-", "_"): 0 if value == "0" else
            float(value) if key == "--noise" else value
            for key, value in zip(options[::2], options[1::2], strict=True)
        })  # fmt: skip
        from moegrow.display import size

        assert size(plan.nbytes) == told
        written = moegrow.apply(plan, tmp_path / f"way-{number}")
        realised = [
            one for kind, one in written.moved.realised.items() if ".experts." in kind
        ]  # fmt: skip
        if option == "--noise 0":
            assert (realised, stays, ratio) == ([], 100.0, None)
            continue
        total = sum(realised[1:], realised[0])
        assert 100 * total.share_unchanged == pytest.approx(stays, abs=4)
        assert total.ratio == pytest.approx(float(ratio), rel=0.15)


def test_where_experts_alone_cannot_be_decoded_the_whole_model_is(made, tmp_path):
    """No config of this method can say that experts are not quantised."""
    source = alter.copy(made("fp8 blocks"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["quantization_config"]["quant_method"] = "unheard of"
    with pytest.raises(MoegrowError) as refused:
        moegrow.width(source, noise=0.01)
    assert list(ways(spell(refused.value.said, as_flag))) == [
        "--dtype bf16", "--rounding stochastic", "--noise 0",
    ]  # fmt: skip


def test_what_is_not_decoded_is_offered_no_way_that_needs_it(checkpoint, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".experts." in name]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[f"{name}.absmax"] = torch.ones(4)
    for rounding in ("nearest", "stochastic"):
        with pytest.raises(MoegrowError, match="in a way that moegrow does not decode") as refused:
            moegrow.width(source, noise=0.01, rounding=rounding)
        assert refused.value.hint == "use noise=0 for exact copies"
    moegrow.width(source, noise=0)


def test_a_packing_that_is_not_decoded_is_refused_with_the_reason(made, tmp_path):
    source = alter.copy(made("int4"), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith("weight_packed")]:
            columns = tensors[name].shape[1] * 8
            other = name.replace("weight_packed", "weight_g_idx")
            tensors[other] = torch.zeros(columns, dtype=torch.int32)
    with pytest.raises(MoegrowError, match="order of activations"):
        moegrow.width(source, noise=0.01, rounding="stochastic")


def test_rounding_by_draw_warns_of_the_noise_that_it_adds(made, run):
    import json

    found = notices(*load(moegrow.width(made("nvfp4"), rounding="stochastic")))
    (told,) = (one for one in found if one.kind is NoticeKind.NOISE_ROUNDING)
    assert told.is_warning
    done = run("width", "--rounding", "stochastic", made("nvfp4"), "--dry-run", "--json")
    assert str(told) in " ".join(done.stderr.split())
    assert told.text in json.loads(done.stdout)["warnings"]


@pytest.mark.parametrize("rounding", ["up", "Stochastic"])
def test_another_rounding_is_a_wrong_command(checkpoint, rounding):
    with pytest.raises(MoegrowError, match=f"rounding={rounding!r} is not known"):
        moegrow.width(checkpoint(), rounding=rounding)


def test_plain_weights_take_noise_without_a_word(checkpoint):
    plan = moegrow.width(checkpoint(dtype=torch.bfloat16), noise=0.01)
    assert any(noise_of(piece.op) for output in plan.outputs for piece in output.pieces)
