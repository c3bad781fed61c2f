"""Checkpoints in every format that weights are published in: copies are exact, names follow."""

import json
import re
import shutil
import signal
import time

import alter
import pytest
import quantised
import tiny
import torch
from interposed import interpose
from quantised import FORMATS

import moegrow
from moegrow.write import work_dir

# Those that transformers can load here, without a GPU, and in which precision it computes then.
LOADS = {
    "fp8 blocks": torch.float32, "fp8 tensor": torch.float32, "fp8 channel": torch.float32,
    "int4": torch.float32, "nvfp4": torch.bfloat16, "mxfp4 ct": torch.bfloat16,
}  # fmt: skip


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def origin_of(name, experts):
    """The tensor of which one of a model with twice the layers and the experts is a copy."""
    name = re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) // 2}", name)
    return re.sub(r"experts\.(\d+)", lambda found: f"experts.{int(found[1]) % experts}", name)


def test_weights_and_their_companions_are_copied_byte_for_byte(made, form, run, tmp_path):
    source = made(form)
    plan = run("depth", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", "--verify", stdin=plan)
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    experts = {int(found[1]) for name in old if (found := re.search(r"experts\.(\d+)", name))}
    assert {origin_of(name, len(experts)) for name in new} == set(old)
    layers = len({found[0] for name in new if (found := re.match(r"model\.layers\.\d+", name))})
    assert layers == 8
    for name, tensor in new.items():
        original = old[origin_of(name, len(experts))]
        if re.search(r"mlp\.gate\.", name):
            original = torch.cat([original, original])
        assert tiny.same_bytes(tensor, original), name
    before, after = config_of(source), config_of(tmp_path / "grown")
    assert after["quantization_config"] == before["quantization_config"]


def load(folder, dtype):
    """The model as transformers loads it in its format, or makes of it on a machine like this."""
    import transformers

    architecture = config_of(folder)["architectures"][0]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize("form", LOADS)
def test_the_libraries_that_define_a_format_load_what_was_grown(made, form, run, tmp_path):
    source, dtype = made(form), LOADS[form]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    run("depth", source, "-o", "deep")
    run("width", "--noise", "0", source, "-o", "wide")
    expected = tiny.logits(load(source, dtype))
    assert tiny.distance(expected, tiny.logits(load(tmp_path / "wide", dtype))) < tolerance
    deep = tiny.logits(interpose(load(source, dtype), (0, 0, 1, 1, 2, 2, 3, 3)))
    assert tiny.distance(deep, tiny.logits(load(tmp_path / "deep", dtype))) < tolerance
    assert tiny.distance(expected, deep) > 10 * tolerance


def test_a_matrix_left_out_by_name_is_left_out_in_every_copy(made, checkpoint, run, tmp_path):
    """One layer's projection and one expert's stay unquantised, as `ignore` says by their names."""
    form = "fp8 channel"
    source = alter.copy(made(form), tmp_path)
    plain = tiny.tensors(quantised.plain(checkpoint, form))
    left_out = ["model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.o_proj"]
    with alter.weights(source) as tensors:
        for module in left_out:
            tensors[f"{module}.weight"] = plain[f"{module}.weight"]
            del tensors[f"{module}.weight_scale"]
    with alter.table(source / "config.json") as config:
        config["quantization_config"]["ignore"] += [left_out[0], "re:.*layers\\.2\\..*o_proj$"]
    run("depth", source, "-o", "deep")
    assert config_of(tmp_path / "deep")["quantization_config"]["ignore"] == [
        "lm_head", "re:.*mlp\\.gate$", "model.layers.2.self_attn.q_proj",
        "model.layers.3.self_attn.q_proj", "re:.*layers\\.(?:4|5)\\..*o_proj$",
    ]  # fmt: skip
    deep = interpose(load(source, torch.float32), (0, 0, 1, 1, 2, 2, 3, 3))
    found = tiny.logits(load(tmp_path / "deep", torch.float32))
    assert tiny.distance(tiny.logits(deep), found) < 1e-4


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json"])
def test_a_file_beside_the_config_that_names_layers_follows_too(made, run, tmp_path, name):
    source = alter.copy(made("modelopt fp8"), tmp_path)
    kept = {"producer": {"name": "modelopt", "version": "0.29.0"}}
    lists = {"quant_algo": "FP8", "exclude_modules": ["lm_head", "model.layers.3.mlp.gate"]}
    (source / name).write_text(json.dumps(kept | {"quantization": lists}, indent=4))
    plan = run("depth", source, "--plan").stdout
    assert json.loads(plan.splitlines()[0])["moegrow_plan"] == 2
    (tmp_path / "plan.jsonl").write_text(plan)
    run("apply", "plan.jsonl", "-o", "deep", "--verify")
    new = json.loads((tmp_path / "deep" / name).read_text())
    gates = ["lm_head", "model.layers.6.mlp.gate", "model.layers.7.mlp.gate"]
    assert new == kept | {"quantization": lists | {"exclude_modules": gates}}
    run("width", "--noise", "0", source, "-o", "wide")
    assert (tmp_path / "wide" / name).read_bytes() == (source / name).read_bytes()


def test_a_plan_may_change_no_other_file(made, run, tmp_path):
    plan = run("depth", made("modelopt fp8"), "--plan").stdout.splitlines()
    header = json.loads(plan[0])
    for name in ("../escape.json", "config.json", "modeling.py"):
        edited = header | {"moegrow_plan": 2, "files": {name: "{}"}}
        (tmp_path / "plan.jsonl").write_text("\n".join([json.dumps(edited), *plan[1:]]))
        done = run("apply", "plan.jsonl", "-o", "deep", code=1)
        assert "is no file that a plan can change" in done.stderr
        assert not (tmp_path / "deep").exists()


def test_keys_that_name_layers_are_repeated_with_what_they_say(made, tmp_path):
    """GPTQ settles single layers under `dynamic`, whose keys are regular expressions."""
    source = alter.copy(made("gptq"), tmp_path)
    with alter.table(source / "config.json") as config:
        config["quantization_config"]["dynamic"] = {
            "-:model\\.layers\\.0\\.mlp\\.gate$": {},
            "+:.*\\.layers\\.[13]\\.mlp\\..*": {"bits": 4, "group_size": 16},
            "model.layers.2.self_attn.q_proj": {"bits": 4},
        }
    config = json.loads(moegrow.depth(source).config)
    assert config["quantization_config"]["dynamic"] == {
        "-:model\\.layers\\.(?:0|1)\\.mlp\\.gate$": {},
        "+:.*\\.layers\\.(?:2|3|6|7)\\.mlp\\..*": {"bits": 4, "group_size": 16},
        "model.layers.4.self_attn.q_proj": {"bits": 4},
        "model.layers.5.self_attn.q_proj": {"bits": 4},
    }


def dequantised(source, name, folder):
    """The checkpoint in float32, each weight as the library of its format decodes it."""
    from test_dequantize import plain

    form = FORMATS[name]
    folder = alter.copy(source, folder)
    with alter.weights(folder) as tensors:
        parts = {}
        for one in [one for one in tensors if "_proj" in one and ".layers." in one]:
            stem, _, part = one.rpartition(".")
            parts.setdefault(stem, {})[part] = tensors.pop(one)
        for stem, found in parts.items():
            tensors[f"{stem}.weight"] = plain(
                {f"a.{part}": tensor for part, tensor in found.items()}, [form.config]
            )
    with alter.table(folder / "config.json") as config:
        del config["quantization_config"]
    return folder


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_format_can_be_written_decoded(made, form, run, tmp_path, dtype):
    source = made(form)
    run("convert", "--dtype", dtype, source, "-o", "plain", "--verify")
    (tmp_path / "ref").mkdir()
    expected = tiny.tensors(dequantised(source, form, tmp_path / "ref"))
    found = tiny.tensors(tmp_path / "plain")
    wanted = DTYPES[dtype]
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if name.endswith("e_score_correction_bias"):
            assert tiny.same_bytes(tensor, expected[name])
        else:
            assert tiny.same_bytes(tensor, expected[name].to(wanted)), name
    config = config_of(tmp_path / "plain")
    assert "quantization_config" not in config
    assert config["dtype"] == str(wanted).removeprefix("torch.")
    if dtype == "fp32":
        reference = tiny.logits(tmp_path / "ref" / source.name)
        assert tiny.distance(reference, tiny.logits(tmp_path / "plain")) < 1e-5


def test_norms_are_those_of_the_decoded_weights(made, form, tmp_path):
    source = made(form)
    (tmp_path / "ref").mkdir()
    plain = dequantised(source, form, tmp_path / "ref")
    moegrow.apply(moegrow.depth(source), tmp_path / "deep")
    for sample in (False, True):
        found, expected, deep = (
            moegrow.norms(folder, sample=sample).norms
            for folder in (source, plain, tmp_path / "deep")
        )
        assert found.keys() == expected.keys()
        for group, norms in expected.items():
            # Dense layers have no router and no experts.
            assert [norm is None for norm in found[group]] == [norm is None for norm in norms]
            known = [(a, b) for a, b in zip(found[group], norms, strict=True) if a is not None]
            assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-9), group
            assert sample or deep[group][::2] == deep[group][1::2] == found[group]


def test_growth_and_conversion_are_one_pass_in_any_order(made, run, tmp_path):
    source = made("fp8 blocks")
    options = ["--noise", "0.05", "--dtype", "bf16"]
    run("width", *options, source, "-o", "at-once", "--verify")
    plan = run("convert", "--dtype", "bf16", source, "--plan").stdout
    run("width", "--noise", "0.05", "-o", "after", stdin=plan)
    run("convert", "--dtype", "fp32", source, "-o", "plain")
    once, after = (
        {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.safetensors")}
        for name in ("at-once", "after")
    )
    assert once == after
    plain, wide = tiny.tensors(tmp_path / "plain"), tiny.tensors(tmp_path / "at-once")
    matrix = "model.layers.2.mlp.experts.{}.up_proj.weight"
    original, copy = plain[matrix.format(3)], wide[matrix.format(11)].float()
    assert torch.equal(original.to(torch.bfloat16), wide[matrix.format(3)])
    realised = (copy - original).std() / original.std()
    assert 0.04 < realised < 0.06
    from moegrow.growth import Noise
    from moegrow.kernels.noise import Draw

    drawn = Draw(Noise("normal", 0.05, 0), matrix.format(11), 0).values(0, original.numel())
    drawn = torch.from_numpy(drawn).reshape(original.shape)
    expected = original + drawn * (0.05 * original.double().std(correction=0)).float()
    assert torch.equal(copy, expected.to(torch.bfloat16).float())


def test_packed_experts_of_gpt_oss_are_written_as_transformers_loads_them(
    checkpoint, run, tmp_path
):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    source = alter.copy(checkpoint("gpt_oss", intermediate_size=32), tmp_path)
    expected = {}
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inside, outside = tensors.pop(name).shape
            groups = (experts, outside, inside // 32)
            blocks = torch.randint(0, 256, (*groups, 16)).to(torch.uint8)
            scales = torch.randint(123, 126, groups).to(torch.uint8)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            expected[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    run("convert", "--dtype", "bf16", source, "-o", "plain", "--verify")
    found = tiny.tensors(tmp_path / "plain")
    assert all(tiny.same_bytes(found[name], tensor) for name, tensor in expected.items())
    plan = run("depth", "--experts-dtype", "fp32", source, "--plan").stdout
    run("width", "--noise", "0", "-o", "grown", stdin=plan)
    assert "quantization_config" not in config_of(tmp_path / "grown")
    grown = tiny.tensors(tmp_path / "grown")
    for name, tensor in expected.items():
        twice = torch.cat([tensor, tensor]).float()
        copy = name.replace("layers.1.", "layers.3.")
        assert tiny.same_bytes(grown[copy], twice) or "layers.1." not in name
    tiny.logits(tmp_path / "grown")


@pytest.mark.parametrize("form", ["fp8 blocks", "fp8 channel", "int4"])
def test_the_experts_alone_can_be_written_decoded(made, form, run, tmp_path):
    source = made(form)
    run("convert", "--experts-dtype", "fp32", source, "-o", "plain", "--verify")
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "plain")
    for name, tensor in new.items():
        if ".experts." in name:
            assert tensor.dtype == torch.float32
            assert name.endswith("_proj.weight")
        else:
            assert tiny.same_bytes(tensor, old[name])
    if form == "int4":
        return  # transformers takes packed experts for packed wherever a scheme is for packed ones
    expected = tiny.logits(load(source, torch.float32))
    found = tiny.logits(load(tmp_path / "plain", torch.float32))
    assert tiny.distance(expected, found) < 1e-4


@pytest.mark.parametrize("family", ["ernie4_5_vl_moe", "gemma4", "qwen3_next", "deepseek_v4"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float32", "bf16"), ("bfloat16", "fp32"), ("float32", "fp16"), ("bfloat16", "fp16"),
        ("float16", "bf16"), ("float16", "fp32"),
    ],
)  # fmt: skip
def test_plain_weights_are_rounded_as_torch_rounds_them(
    checkpoint, family, old, new, run, tmp_path
):
    source = checkpoint(family, dtype=getattr(torch, old))
    run("convert", "--dtype", new, source, "-o", "plain", "--verify")
    before, after = tiny.tensors(source), tiny.tensors(tmp_path / "plain")
    wanted = DTYPES[new]
    changed = 0
    for name, tensor in before.items():
        is_same = tiny.same_bytes(after[name], tensor)
        assert is_same or tiny.same_bytes(after[name], tensor.to(wanted)), name
        changed += not is_same
    assert changed > 0.8 * len(before)


def test_what_moegrow_does_not_decode_is_copied_and_not_converted(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in [name for name in tensors if ".experts." in name]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[f"{name}.absmax"] = torch.ones(4)
    with alter.table(source / "config.json") as config:
        config["quantization_config"] = {"quant_method": "unheard of"}
    run("depth", source, "-o", "deep", "--verify")
    done = run("convert", "--dtype", "bf16", source, "-o", "plain", code=1)
    assert "is quantised in a way that moegrow does not decode" in done.stderr
    assert "F8_E4M3" in done.stderr
    assert not (tmp_path / "plain").exists()


def test_numbers_too_large_for_half_precision_stop_the_conversion(checkpoint, run, tmp_path):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors["lm_head.weight"][0, 0] = 1e6
    done = run("convert", "--dtype", "fp16", source, "-o", "plain", code=1)
    assert "lm_head.weight holds 1e+06, which is too large for F16" in done.stderr
    assert not (tmp_path / "plain").exists()


def edits(line):
    """Hostile or careless edits of a line that decodes, and what is said of each."""
    piece = line["pieces"][0]
    scale = piece["decode"]["with"]["scale"]

    def with_piece(**changes):
        return line | {"pieces": [piece | changes]}

    decode = piece["decode"]
    yield with_piece(decode=decode | {"codec": "zip"}), "codec 'zip' is not known"
    yield with_piece(decode=decode | {"with": {}}), "it has no companions"
    yield with_piece(decode=decode | {"with": {"scale": "../x"}}), "../x, is not there"
    yield with_piece(decode=decode | {"with": {"scale": "lm_head.weight"}}), "does not fit"
    yield with_piece(decode=decode | {"with": {"scale": scale, "salt": scale}}), "not scale"
    yield with_piece(decode=decode | {"speed": 3}), "'speed' is not known"
    yield with_piece(decode=decode | {"block_rows": -1}), "not a number from 0 up"
    yield with_piece(decode={"codec": "fp4", "with": {"scale": scale}}), "is F8_E4M3, and not U8"
    yield with_piece(rows=[0, 1000]), "which has 32 decoded"
    yield line | {"dtype": "F8_E4M3"}, "cannot be written as F8_E4M3"
    yield line | {"shape": [32, 31]}, "made from [32, 32]"
    yield line | {"axis": 1}, "not all of it is plain numbers"
    yield line | {"pieces": [{"from": piece["from"], "rows": piece["rows"]}]}, "comes from F8_E4M3"


def test_a_plan_that_decodes_what_it_cannot_is_refused(made, run, tmp_path):
    plan = run("convert", "--dtype", "bf16", made("fp8 blocks"), "--plan").stdout.splitlines()
    number = next(n for n, line in enumerate(plan) if "experts.1.up_proj" in line)
    seen = 0
    for edited, said in edits(json.loads(plan[number])):
        lines = [*plan[:number], json.dumps(edited), *plan[number + 1 :]]
        (tmp_path / "plan.jsonl").write_text("\n".join(lines))
        done = run("apply", "plan.jsonl", "-o", "out", code=1)
        assert said in done.stderr, (said, done.stderr)
        assert not (tmp_path / "out").exists()
        seen += 1
    assert seen == 13


def test_the_bytes_of_a_conversion_depend_on_the_plan_alone(made, run, tmp_path):
    source = made("fp8 blocks")
    options = ["--dtype", "bf16", "--max-shard-size", "40KB", source]
    run("convert", *options, "-o", "whole")
    run("convert", *options, "-o", "other", "--threads", "1", "--no-reflink", "--digests")
    files = sorted(file.name for file in (tmp_path / "whole").glob("*.safetensors"))
    assert len(files) > 3
    for file in files:
        whole, other = ((tmp_path / name / file).read_bytes() for name in ("whole", "other"))
        assert whole == other


def test_a_conversion_that_is_killed_goes_on_to_the_same_bytes(made, begin, run, tmp_path):
    convert = ["convert", "--dtype", "bf16", "--max-shard-size", "15KB", "--threads", 2]
    convert += [made("fp8 blocks"), "-o", "plain", "-q"]
    plain, working = tmp_path / "plain", tmp_path / "plain.partial"
    run(*convert)
    expected = alter.contents(plain)
    count = len(list(plain.glob("*.safetensors")))
    assert count > 10
    shutil.rmtree(plain)
    kept = []
    for _ in range(60):
        before, process = work_dir.kept_of(plain), begin(*convert, "--resume")
        for _ in range(20_000):
            if plain.exists() or work_dir.kept_of(plain) > before:
                break
            time.sleep(0.0005)
        process.kill()
        ended = process.end()
        if plain.exists():
            # It was quicker than the kill: once more from the beginning.
            assert alter.contents(plain) == expected
            shutil.rmtree(plain)
            shutil.rmtree(working, ignore_errors=True)
            continue
        assert ended.returncode == -signal.SIGKILL
        kept.append(work_dir.kept_of(plain))
        if len(kept) == 4:
            break
    # They were cut off with some of the shards written, and the next one began with these.
    assert len(kept) == 4
    assert all(0 < number <= count for number in kept)
    run(*convert, "--resume")
    assert alter.contents(plain) == expected
    assert not working.exists()


def test_parameters_are_those_of_the_plain_weights_in_every_format(made, checkpoint, form):
    source, plain = made(form), quantised.plain(checkpoint, form)
    keys = ("parameters", "active_parameters", "shared_parameters")

    def counted(what):
        return [moegrow.inspect(what)[key] for key in keys]

    assert counted(source) == counted(plain)
    deep, wide = moegrow.depth(source), moegrow.width(source, noise=0)
    assert counted(deep) == counted(moegrow.depth(plain))
    assert counted(wide) == counted(moegrow.width(plain))
    decoded = moegrow.width(source, experts_dtype="bf16")
    assert counted(decoded) == counted(moegrow.width(plain))
    found = moegrow.inspect(source)
    ((name, count),) = found["formats"].items()
    bytes_of = {n: t.nbytes for n, t in tiny.tensors(source).items() if "_proj" in n}
    assert found["format_bytes"] == {name: sum(bytes_of.values())}
    assert count == len({n.rpartition(".")[0] for n in bytes_of})
    assert f"{name} ({count} weights, " in str(found)


def test_a_plan_that_decodes_differs_from_its_source_and_not_from_its_result(made, run, tmp_path):
    source = made("int4")
    plan = run("convert", "--dtype", "bf16", source, "--plan").stdout
    (tmp_path / "plan.jsonl").write_text(plan)
    run("apply", "plan.jsonl", "-o", "plain")
    assert "267 tensors are the same" not in run("diff", source, "plain").stdout
    run("convert", "--dtype", "fp32", source, "-o", "fine")
    told = run("diff", "plain", "fine", "--headers").stdout
    assert "dtype   model.layers.{0-3}.self_attn.o_proj.weight  (4)" in told
    assert "shape " not in told
    same = run("diff", "plan.jsonl", "plain")
    assert re.fullmatch(r"\d+ tensors are the same\n", same.stdout)
    with alter.weights(tmp_path / "plain") as tensors:
        tensors["model.layers.2.mlp.experts.1.up_proj.weight"][3, 5] += 1
    other = run("diff", "plan.jsonl", "plain").stdout
    assert "data    model.layers.2.mlp.experts.1.up_proj.weight  (1)" in other


def test_verify_says_what_was_decoded_again(made, run):
    source = made("int4")
    said = run("convert", "--experts-dtype", "bf16", source, "-o", "plain", "--verify").stderr
    assert re.search(r"equal to the source, 0 bytes drawn again and equal, .* decoded again", said)
    run("width", "--noise", "0.05", "--experts-dtype", "bf16", source, "-o", "wide")
    found = json.loads(run("verify", "wide", "--json").stdout)
    assert found["ok"]
    assert found["drawn"] > 0
    assert found["decoded"] > 0
    assert found["copied"] > 0


def fused_fp8(source, folder, shape_of):
    """A copy of a Llama-4 whose experts are one tensor each in fp8, as ModelOpt stores them."""
    copy = alter.copy(source, folder)
    plain = {}
    with alter.weights(copy) as tensors:
        for name in [name for name in tensors if ".experts." in name]:
            weight = tensors[name]
            scale = torch.rand(shape_of(weight.shape)) / 64
            tensors[name] = (weight * 64).to(torch.float8_e4m3fn)
            tensors[f"{name}_weight_scale"], tensors[f"{name}_input_scale"] = scale, scale.mean()
            wide = scale if scale.dim() in (0, 3) else scale.reshape(-1, 1, 1)
            plain[name] = tensors[name].float() * wide
    with alter.table(copy / "config.json") as config:
        config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
    return copy, plain


@pytest.mark.parametrize(
    "shape_of",
    [lambda shape: (), lambda shape: (1,), lambda shape: shape[:1], lambda shape: (4, 1, shape[2])],
    ids=["one scale", "one in a list", "one for each expert", "one for each column"],
)
def test_a_scale_that_all_experts_share_is_one_of_all_their_copies(checkpoint, tmp_path, shape_of):
    family = checkpoint("llama4_text", intermediate_size=32, fused=True)
    source, plain = fused_fp8(family, tmp_path, shape_of)
    assert moegrow.inspect(source)["parameters"] == moegrow.inspect(family)["parameters"]
    assert moegrow.inspect(source)["formats"] == {"fp8 with scales": len(plain)}
    moegrow.apply(moegrow.width(moegrow.depth(source), noise=0), tmp_path / "wide")
    assert moegrow.verify(tmp_path / "wide").ok
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "wide")
    seen = 0
    for name, tensor in new.items():
        if ".experts." not in name:
            continue
        first = re.sub(r"layers\.(\d+)", lambda at: f"layers.{int(at[1]) // 2}", name)
        expected = old[first]
        if expected.numel() > 1:
            expected = torch.cat([expected, expected])
        # The router's weights are not divided by their sum: the output is twice as much.
        if name.endswith("down_proj_weight_scale"):
            expected = expected / 2
        assert tiny.same_bytes(tensor, expected), name
        seen += 1
    assert seen == 2 * 3 * len(plain)
    moegrow.apply(moegrow.convert(tmp_path / "wide", dtype="fp32"), tmp_path / "plain")
    found = tiny.tensors(tmp_path / "plain")
    for name, tensor in plain.items():
        # Layers with experts stand at odd numbers, and their first copies at twice these.
        copy = re.sub(r"layers\.(\d+)", lambda at: f"layers.{2 * int(at[1])}", name)
        factor = 0.5 if name.endswith("down_proj") else 1
        assert torch.equal(found[copy], torch.cat([tensor, tensor]) * factor)
    tiny.logits(tmp_path / "plain")
    drawn = moegrow.width(source, noise=0.1, rounding="stochastic")
    moegrow.apply(drawn, tmp_path / "drawn")
    assert moegrow.verify(tmp_path / "drawn").ok
    norms, after = (moegrow.norms(what).norms["experts"] for what in (source, tmp_path / "drawn"))
    assert [a is None for a in norms] == [a is None for a in after]
