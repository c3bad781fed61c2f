"""Quantised experts with noise that a draw rounds: reproducible, and on average what was asked."""

import json
import math
import re

import alter
import pytest
import tiny
import torch
from quantised import FORMATS
from test_dequantize import plain as decoded
from test_quantised import LOADS, config_of, load

import moegrow
from moegrow.growth import Noise
from moegrow.kernels.noise import Draw

AMOUNT = 0.1
BY_DRAW = ["--rounding", "stochastic", "--noise", AMOUNT]
# How the name of a weight's codes ends.
CODES = re.compile(r"\.experts\.\d+\.\w+_proj\.(weight|weight_packed|qweight)$")


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


def experts_of(tensors):
    return 1 + max(int(at[1]) for name in tensors if (at := re.search(r"experts\.(\d+)", name)))


def numbers(tensors, name, config):
    """The numbers of an expert's matrix, as its format's library decodes them (test_decoders)."""
    stem = name.rpartition(".")[0]
    own = [part for part in tensors if part.startswith(f"{stem}.")]
    parts = {part.replace(stem, "a", 1): tensors[part] for part in own}
    return decoded(parts, [config["quantization_config"]]).double()


def inside_the_grid(before, reach):
    """Which numbers are further from the ends of their grid than noise reaches.

    What is at an end is the largest or the smallest of the eight that it stands among, which share
    a scale; who is left out is told by the numbers before, so it moves no mean.
    """
    eights = before.reshape(-1, 8)
    low, high = eights.amin(1, keepdim=True) + reach, eights.amax(1, keepdim=True) - reach
    return ((eights > low) & (eights < high)).flatten()


def test_noise_is_on_the_numbers_alone_and_on_average_what_was_drawn(made, form, run, tmp_path):
    source = made(form)
    run("width", *BY_DRAW, source, "-o", "grown", "--verify")
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    experts, config = experts_of(old), config_of(source)
    copied, drawn, moved, own = 0, [], [], []
    for name, tensor in new.items():
        expert = re.search(r"\.experts\.(\d+)\.", name)
        is_copy = expert is not None and int(expert[1]) >= experts
        original = re.sub(r"experts\.(\d+)", lambda at: f"experts.{int(at[1]) % experts}", name)
        if re.search(r"mlp\.gate\.", name):
            continue
        if not (is_copy and CODES.search(name)):
            # Originals, and scales, zeros and whatever else belongs to a copy.
            assert tiny.same_bytes(tensor, old[original]), name
            continue
        copied += 1
        assert (tensor.dtype, tensor.shape) == (old[original].dtype, old[original].shape)
        before, after = numbers(old, original, config), numbers(new, name, config)
        deviation = float(before.std(correction=0))
        asked = Draw(Noise("normal", AMOUNT, 0), name, 0).values(0, before.numel())
        drawn.append(torch.from_numpy(asked).double() * AMOUNT * deviation)
        moved.append((after - before).flatten())
        own.append(inside_the_grid(before, 5 * AMOUNT * deviation))
    assert copied
    asked, found, inside = (torch.cat(parts) for parts in (drawn, moved, own))
    assert 0 < float((found != 0).double().mean()) < 1
    # Of all that moved, the share that was asked for is 1, but for chance: five of its deviations.
    asked, found = asked[inside], found[inside]
    share = float((found * asked).sum() / (asked * asked).sum())
    chance = float((found - asked).norm() / asked.norm()) / math.sqrt(len(asked))
    assert abs(share - 1) < 5 * chance
    # And the mean of what rounding adds is nothing.
    rest = found - asked
    assert abs(float(rest.mean())) < 5 * float(rest.std()) / math.sqrt(len(rest))


@pytest.mark.parametrize("form", LOADS)
def test_the_libraries_load_what_was_grown_and_it_is_near_the_source(made, form, run, tmp_path):
    source, dtype = made(form), LOADS[form]
    run("width", "--rounding", "stochastic", "--noise", "0.02", source, "-o", "wide")
    expected = tiny.logits(load(source, dtype))
    found = tiny.logits(load(tmp_path / "wide", dtype))
    # Logits of a model with other weights would be off by 1.4 of their deviation, the root of 2.
    off = (found.float() - expected.float()).square().mean().sqrt() / expected.float().std()
    assert 0 < off < 0.5


def shards(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("form", ["fp8 blocks", "int4", "gptq", "nvfp4"])
def test_the_bytes_are_those_of_the_seed_however_they_are_written(made, form, run, tmp_path):
    source = made(form)
    size = ["--max-shard-size", "40KB"]
    run("width", *BY_DRAW, source, *size, "-o", "one", "--threads", "1", "--no-reflink")
    expected = shards(tmp_path / "one")
    assert len(expected) > 2
    run("width", *BY_DRAW, source, *size, "-o", "many", "--threads", "5")
    assert shards(tmp_path / "many") == expected
    (tmp_path / "plan.jsonl").write_text(run("width", *BY_DRAW, source, "--plan").stdout)
    for part in ("1/2", "2/2"):
        run("apply", "plan.jsonl", *size, "-o", "parts", "--shards", part)
    assert shards(tmp_path / "parts") == expected
    run("width", *BY_DRAW, source, "-o", "whole")
    whole, one = tiny.tensors(tmp_path / "whole"), tiny.tensors(tmp_path / "one")
    assert all(tiny.same_bytes(tensor, one[name]) for name, tensor in whole.items())
    run("width", *BY_DRAW, "--seed", "1", source, "-o", "other")
    other = tiny.tensors(tmp_path / "other")
    changed = {name for name in one if not tiny.same_bytes(one[name], other[name])}
    assert {name for name in one if CODES.search(name)} > changed - {
        name for name in one if "mlp.gate" in name
    }
    assert changed


def test_a_run_that_failed_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    from moegrow.write.work_dir import Partial

    plan = moegrow.width(made("fp8 blocks"), rounding="stochastic", noise=AMOUNT)
    settings = {"max_shard_size": "20KB", "threads": 1}
    moegrow.apply(plan, tmp_path / "whole", **settings)

    note, noted = Partial.note, []

    def fail_at_the_second(self, entry):
        if noted:
            raise RuntimeError("no more")
        noted.append(entry)
        note(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(Partial, "note", fail_at_the_second)
        with pytest.raises(RuntimeError, match="no more"):
            moegrow.apply(plan, tmp_path / "grown", **settings)
    written = moegrow.apply(plan, tmp_path / "grown", resume=True, **settings)
    assert written.kept
    assert shards(tmp_path / "grown") == shards(tmp_path / "whole")


def test_norms_of_a_plan_are_those_of_what_it_makes(made, form, tmp_path):
    """What rounding adds is in them, and what it cuts off where a grid ends."""
    source = made(form)
    plan = moegrow.width(source, rounding="stochastic", noise=0.3)
    moegrow.apply(plan, tmp_path / "grown")
    before, foretold, found = (
        moegrow.norms(what).norms["experts"][-1] for what in (source, plan, tmp_path / "grown")
    )
    # Half of the experts are copies; the noise alone would make these 4.4 % larger.
    assert foretold == pytest.approx(found, rel=8e-3)
    assert abs(foretold - found) < 0.7 * abs(before * (1 + 1.09**0.5) / 2 - found) + 1e-3 * found


def test_depth_and_width_give_the_same_bytes_in_any_order(made, run, tmp_path):
    source = made("fp8 blocks")
    plan = run("width", *BY_DRAW, source, "--plan").stdout
    assert json.loads(plan.splitlines()[0])["moegrow_plan"] == 3
    run("depth", "-o", "wide-deep", "--verify", stdin=plan)
    plan = run("depth", source, "--plan").stdout
    run("width", *BY_DRAW, "-o", "deep-wide", stdin=plan)
    assert shards(tmp_path / "wide-deep") == shards(tmp_path / "deep-wide")
    new = tiny.tensors(tmp_path / "deep-wide")
    name = "model.layers.{}.mlp.experts.9.up_proj.weight"
    # The copies of one layer have draws of their own.
    assert not tiny.same_bytes(new[name.format(4)], new[name.format(5)])


def test_a_recipe_and_the_model_card_know_the_rounding(made, run, tmp_path):
    source = made("nvfp4")
    run("width", *BY_DRAW, source, "-o", "one", "--save-recipe", "kept.toml")
    assert 'rounding = "stochastic"' in (tmp_path / "kept.toml").read_text()
    run("run", "kept.toml", source, "-o", "again")
    assert shards(tmp_path / "again") == shards(tmp_path / "one")
    card = (tmp_path / "one" / "README.md").read_text()
    assert "rounded up or down by a draw" in card
    assert 'rounding = "stochastic"' in card
    found = json.loads(run("inspect", "--json", tmp_path / "one").stdout)
    (tmp_path / "plan.jsonl").write_text(run("width", *BY_DRAW, source, "--plan").stdout)
    planned = json.loads(run("inspect", "--json", "plan.jsonl").stdout)
    assert planned["formats"] == found["formats"]
    assert planned["parameters"] == found["parameters"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["qwen3_moe", "ernie4_5_vl_moe", "gpt_oss"])
def test_plain_weights_keep_small_noise_on_average(checkpoint, family, dtype, tmp_path):
    """Noise that rounding to nearest would swallow: 0.0001 σ. Float32 has nothing to round."""
    source = checkpoint(family, dtype=dtype)
    amount = 1e-4
    plans = [moegrow.width(source, noise=amount, rounding=how) for how in ("nearest", "stochastic")]
    for plan, name in zip(plans, ("nearest", "drawn"), strict=True):
        moegrow.apply(plan, tmp_path / name, threads=2)
        assert moegrow.verify(tmp_path / name).ok
    if dtype == torch.float32:
        assert shards(tmp_path / "nearest") == shards(tmp_path / "drawn")
        return
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "drawn")
    asked, found = [], []
    for output in plans[1].outputs:
        row = 0
        for piece in output.pieces:
            size = piece.stop - piece.start
            if piece.noise:
                before = old[piece.source].narrow(output.axis, piece.start, size).double()
                after = new[output.name].narrow(output.axis, row, size).double()
                drawn = Draw(piece.noise, output.name, row).values(0, before.numel())
                drawn = torch.from_numpy(drawn).double().reshape(before.shape)
                asked.append((drawn * amount * before.std(correction=0)).flatten())
                found.append((after - before).flatten())
            row += size
    asked, found = torch.cat(asked), torch.cat(found)
    share = float((found * asked).sum() / (asked * asked).sum())
    chance = float((found - asked).norm() / asked.norm()) / math.sqrt(len(asked))
    assert abs(share - 1) < 5 * chance
    assert (found != 0).double().mean() < 0.5


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_weights_that_are_written_decoded_are_rounded_by_a_draw_too(made, run, tmp_path, dtype):
    source = made("fp8 blocks")
    decoded = ["width", "--noise", "0.0001", "--dtype", dtype, source, "--verify"]
    run(*decoded, "-o", "nearest")
    run(*decoded, "--rounding", "stochastic", "-o", "drawn")
    one, other = tiny.tensors(tmp_path / "nearest"), tiny.tensors(tmp_path / "drawn")
    differ = {name for name in one if not tiny.same_bytes(one[name], other[name])}
    copies = {name for name in one if re.search(r"\.experts\.(8|9|1\d)\.", name)}
    if dtype == "fp32":
        assert not differ
    else:
        assert copies <= differ
        assert all(name in copies or "mlp.gate." in name for name in differ)


def test_an_edit_that_cannot_be_put_back_is_refused(made, run, tmp_path):
    plan = run("width", *BY_DRAW, made("gptq"), "--plan").stdout.splitlines()
    number = next(n for n, line in enumerate(plan) if '"decode"' in line)
    line = json.loads(plan[number])
    (piece,) = line["pieces"]
    rows = piece["rows"][1]
    noise = piece["noise"]
    for edited, said in (
        (line | {"shape": [rows - 1, *line["shape"][1:]],
                 "pieces": [piece | {"rows": [0, rows - 1]}]}, "lie across others"),
        (line | {"pieces": [piece | {"rows": [0, rows + 5]}]}, f"which has {rows}"),
        (line | {"pieces": [piece | {"scale": "1/2"}]}, "cannot be written as I32"),
        (line | {"pieces": [piece | {"noise": noise | {"rounding": "nearest"}}]},
         "cannot be written as I32"),
        (line | {"pieces": [piece | {"noise": noise | {"rounding": "up"}}]},
         "the rounding 'up' is not known"),
        (line | {"pieces": [piece | {"decode": {"codec": "plain"}}]}, "is I32, and not F64"),
        (line | {"shape": [rows, 1]}, "made from"),
    ):  # fmt: skip
        lines = [*plan[:number], json.dumps(edited), *plan[number + 1 :]]
        (tmp_path / "plan.jsonl").write_text("\n".join(lines))
        done = run("apply", "plan.jsonl", "-o", "out", code=1)
        assert said in done.stderr, (said, done.stderr)
        assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_stay_and_noise_is_around_the_others(made, tmp_path):
    source = alter.copy(made("fp8 blocks"), tmp_path)
    name = "model.layers.2.mlp.experts.{}.up_proj.weight"
    with alter.weights(source) as tensors:
        codes = tensors[name.format(3)].view(torch.uint8)
        codes[1, 2] = 0x7F
        tensors[name.format(3)] = codes.view(torch.float8_e4m3fn)
    with pytest.raises(moegrow.MoegrowError, match="holds NaN"):
        moegrow.apply(moegrow.width(source, rounding="stochastic"), tmp_path / "refused")
    plan = moegrow.width(source, rounding="stochastic", allow_nonfinite=True)
    moegrow.apply(plan, tmp_path / "grown")
    new = tiny.tensors(tmp_path / "grown")[name.format(11)].view(torch.uint8)
    old = tiny.tensors(source)[name.format(3)].view(torch.uint8)
    assert new[1, 2] == 0x7F
    assert not (new == 0x7F).sum() > 1
    assert 0 < (new != old).double().mean() < 0.5


def test_packed_experts_of_gpt_oss_take_noise_expert_by_expert(checkpoint, run, tmp_path):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    source = alter.copy(checkpoint("gpt_oss", intermediate_size=32), tmp_path)
    torch.manual_seed(0)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inside, outside = tensors.pop(name).shape
            groups = (experts, outside, inside // 32)
            blocks = torch.randint(0, 256, (*groups, 16)).to(torch.uint8)
            scales = torch.randint(123, 126, groups).to(torch.uint8)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    run("width", *BY_DRAW, source, "-o", "grown", "--verify")
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    for name, tensor in new.items():
        if not name.endswith("_blocks"):
            continue
        scales = name.replace("_blocks", "_scales")
        assert torch.equal(new[scales], torch.cat([old[scales], old[scales]]))
        assert torch.equal(tensor[: len(tensor) // 2], old[name])
        before = convert_moe_packed_tensors(old[name], old[scales], dtype=torch.float32).double()
        after = convert_moe_packed_tensors(tensor, new[scales], dtype=torch.float32).double()
        after = after[len(before) :]
        asked = torch.stack([
            torch.from_numpy(Draw(Noise("normal", AMOUNT, 0), name, len(before) + number).values(
                0, before[0].numel())).reshape(before[0].shape)
            * AMOUNT * before[number].std(correction=0)
            for number in range(len(before))
        ])  # fmt: skip
        # Not the largest numbers of their scales, where the grid ends.
        each = torch.exp2(old[scales].double() - 127).repeat_interleave(32, -1).transpose(1, 2)
        inside = before.abs() < 5 * each
        asked, found = asked[inside], (after - before)[inside]
        share = float((found * asked).sum() / (asked * asked).sum())
        chance = float((found - asked).norm() / asked.norm()) / math.sqrt(len(asked))
        assert abs(share - 1) < 5 * chance
