"""What AutoRound saves as GPTQ and AWQ is grown, and reads the same with AutoRound's functions."""

import json
import re
import subprocess
import sys
from pathlib import Path

import autorounded
import pytest
import tiny
import torch

COPIES = re.compile(r"(?<=layers\.)(\d+)|(?<=experts\.)(\d+)")
GROUP = 32
SIZES = dict.fromkeys(("hidden_size", "moe_intermediate_size", "intermediate_size"), 64)


@pytest.fixture(scope="module", params=["gptq", "awq"])
def saved(request, checkpoint, tmp_path_factory):
    """A checkpoint that AutoRound has made, in either format."""
    folder = tmp_path_factory.mktemp("autoround") / request.param
    # AutoRound packs 32 rows at a time, and reads no weight with a single group.
    source = checkpoint("qwen3_moe", dtype=torch.bfloat16, head_dim=16, **SIZES)
    make = [sys.executable, autorounded.__file__, source, folder, f"auto_{request.param}"]
    done = subprocess.run(list(map(str, make)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    method = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    assert method == request.param
    return folder


def read_by_autoround(folder: Path) -> dict[str, torch.Tensor]:
    """The plain weights of a checkpoint, those that are quantised as AutoRound decodes them."""
    from auto_round.export.export_to_awq.utils import dequantize_gemm
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    tensors = tiny.tensors(folder)
    found = {name: tensor for name, tensor in tensors.items() if name.endswith(".weight")}
    for name in tensors:
        stem, _, part = name.rpartition(".")
        if part != "qweight":
            continue
        codes, zeros, scales = (tensors[f"{stem}.{at}"] for at in ("qweight", "qzeros", "scales"))
        rows = scales.shape[1]
        if f"{stem}.g_idx" in tensors:
            columns = codes.shape[0] * 8
            theirs = QuantLinear(4, GROUP, columns, rows, bias=False, g_idx=True)
            theirs.qweight, theirs.qzeros = codes, zeros
            theirs.scales, theirs.g_idx = scales.float(), tensors[f"{stem}.g_idx"]
            weight = theirs(torch.eye(columns)).T.contiguous()
        else:
            weight = dequantize_gemm(codes, zeros, scales.float(), 4, GROUP).T.contiguous()
        found[f"{stem}.weight"] = weight
    return found


def test_grown_weights_read_as_their_originals(saved, run, tmp_path):
    run("depth", saved, "-o", "deep", "--verify")
    run("width", tmp_path / "deep", "--noise", "0", "-o", "grown", "--verify")
    old, new = read_by_autoround(saved), read_by_autoround(tmp_path / "grown")
    experts = len({found[1] for name in old if (found := re.search(r"experts\.(\d+)", name))})
    made = 0

    def original(at: re.Match[str]) -> str:
        return str(int(at[1]) // 2 if at[1] else int(at[2]) % experts)

    for name, weight in new.items():
        if name.endswith(".mlp.gate.weight"):
            continue  # a router has rows for the copies
        first = COPIES.sub(original, name)
        assert tiny.same_bytes(weight, old[first]), name
        made += ".experts." in name
    assert made == 4 * sum(".experts." in name for name in old)


def test_what_is_left_out_of_quantisation_stays_out_in_the_copies(saved, run, tmp_path):
    """What the config and the file beside it name are the modules without codes, and no others."""
    run("depth", saved, "-o", "deep")
    names = tiny.tensors(tmp_path / "deep")
    stems = {name.rpartition(".")[0] for name in names if ".layers." in name}
    linear = {stem for stem in stems if re.search(r"(_proj|\.gate)$", stem)}
    plain = {stem for stem in linear if f"{stem}.qweight" not in names}
    assert any(".layers.3." in stem for stem in plain)
    tables = [
        json.loads((tmp_path / "deep" / "config.json").read_text())["quantization_config"],
        json.loads((tmp_path / "deep" / "quantization_config.json").read_text()),
    ]
    for table in tables:
        if table["quant_method"] == "gptq":
            patterns = [key.removeprefix("-:") for key in table["dynamic"]]
            found = {stem for stem in linear if any(re.match(one, stem) for one in patterns)}
        else:
            left_out = table["modules_to_not_convert"]
            found = {stem for stem in linear if any(one in stem for one in left_out)}
        assert found == plain


def test_converted_weights_are_those_that_autoround_decodes(saved, run, tmp_path):
    run("convert", "--dtype", "fp32", saved, "-o", "plain", "--verify")
    expected, found = read_by_autoround(saved), tiny.tensors(tmp_path / "plain")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        # What is 0 may be -0 there, in a sum with others that are 0.
        assert torch.equal(found[name] + 0, weight.float() + 0), name
    assert torch.isfinite(tiny.logits(tmp_path / "plain")).all()
