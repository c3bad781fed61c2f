"""NaN, infinity and constants: found when asked for, copied as they are, refused by noise."""

import json

import alter
import pytest
import tiny
import torch

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.kernels import noise, perturb
from moegrow.kernels.nonfinite import find_values

EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
COPY = "model.layers.1.mlp.experts.6.up_proj.weight"
ROUTER = "model.layers.0.mlp.gate.weight"
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def broken(checkpoint, tmp_path, request):
    """A checkpoint with two NaN of different bits, an infinity, and a tensor of one value."""
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        for name in tensors:
            tensors[name] = tensors[name].to(request.param)
        values = tensors[EXPERT].clone()
        values[0, 0], values[1, 1], values[2, 2] = NAN, INFINITY, -INFINITY
        width = values.element_size()
        bits = values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[width])
        bits[3, 3] = -1  # every bit set: a NaN that arithmetic would not give
        tensors[EXPERT] = values
        tensors["model.norm.weight"] = torch.ones_like(tensors["model.norm.weight"])
    return source


def test_values_that_are_no_numbers_are_found_where_they_are(broken):
    found = find_values(open_checkpoint(broken))
    assert found.nan == {EXPERT: 2}
    assert found.infinite == {EXPERT: 2}
    assert found.constant == ("model.norm.weight",)
    assert found.empty == ()


@pytest.mark.parametrize(
    ("dtype", "nan", "infinite"),
    [
        (torch.float8_e4m3fn, 2, 0),
        (torch.float8_e5m2, 6, 2),
        (torch.float8_e4m3fnuz, 1, 0),
        (torch.float8_e5m2fnuz, 1, 0),
        (torch.float8_e8m0fnu, 1, 0),
        (torch.uint8, 0, 0),
    ],
)
def test_every_eight_bit_dtype_has_as_many_as_torch_says(
    checkpoint, tmp_path, dtype, nan, infinite
):
    source = alter.copy(checkpoint(), tmp_path)
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    if dtype != torch.uint8:
        assert int(every.float().isnan().sum()) == nan
        assert int(every.float().isinf().sum()) == infinite
    with alter.weights(source) as tensors:
        tensors["every"] = every
        tensors["empty"] = torch.zeros(0, 4)
    found = find_values(open_checkpoint(source))
    assert (found.nan.get("every", 0), found.infinite.get("every", 0)) == (nan, infinite)
    assert found.empty == ("empty",)


def test_inspect_says_what_it_found_only_where_it_was_asked(run, broken):
    assert "nan" not in run("inspect", broken).stdout
    told = run("inspect", "--values", broken).stdout
    assert f"nan         2 values in {EXPERT} (1)" in told
    assert f"infinite    2 values in {EXPERT} (1)" in told
    assert "constant    model.norm.weight (1)" in told
    assert "empty       no tensors" in told
    facts = json.loads(run("inspect", "--values", "--json", broken).stdout)
    assert facts["values"]["nan"] == {EXPERT: 2}


def test_depth_copies_values_that_are_no_numbers_bit_for_bit(broken, tmp_path):
    moegrow.apply(moegrow.depth(broken), tmp_path / "grown")
    old, new = tiny.tensors(broken), tiny.tensors(tmp_path / "grown")
    for layer in (2, 3):
        assert tiny.same_bytes(new[EXPERT.replace("layers.1", f"layers.{layer}")], old[EXPERT])
    assert moegrow.verify(tmp_path / "grown").ok


def test_width_refuses_sigma_of_values_that_are_no_numbers(run, broken, tmp_path):
    told = run("width", broken, "-o", "grown", code=1).stderr
    assert EXPERT in told
    assert "--allow-nonfinite" in told
    assert not (tmp_path / "grown").exists()
    run("width", broken, "-o", "grown", "--noise", 0)
    assert tiny.same_bytes(tiny.tensors(tmp_path / "grown")[COPY], tiny.tensors(broken)[EXPERT])


def test_with_leave_the_finite_values_take_noise_and_the_others_stay(run, broken, tmp_path):
    run("width", broken, "-o", "grown", "--allow-nonfinite", "--noise", 0.05)
    old, new = tiny.tensors(broken)[EXPERT], tiny.tensors(tmp_path / "grown")[COPY]
    finite = old.isfinite()
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[old.element_size()]
    assert torch.equal(new.view(kind)[~finite], old.view(kind)[~finite])
    drawn = (new[finite].double() - old[finite].double()).std()
    sigma = old[finite].double().std(unbiased=False)
    assert 0.9 < float(drawn / sigma / 0.05) < 1.1
    assert moegrow.verify(tmp_path / "grown").ok


def test_a_recipe_keeps_the_leave(run, broken):
    run("width", broken, "-o", "grown", "--allow-nonfinite", "--save-recipe", "it.toml")
    run("run", "it.toml", "-o", "again")
    assert moegrow.diff(broken.parent / "grown", broken.parent / "again").is_empty


def test_with_leave_compiled_loops_change_no_byte(broken, tmp_path, monkeypatch):
    pytest.importorskip("numba")
    plan = moegrow.width(broken, allow_nonfinite=True)
    for name, least in (("plain", 1 << 60), ("compiled", 0)):
        monkeypatch.setattr(perturb, "WORTH_LOADING", least)
        moegrow.apply(plan, tmp_path / name)
    assert moegrow.diff(tmp_path / "plain", tmp_path / "compiled").is_empty


def test_where_all_values_are_finite_leave_changes_no_byte(checkpoint, tmp_path):
    for name, allowed in (("a", False), ("b", True)):
        plan = moegrow.width(checkpoint(), allow_nonfinite=allowed)
        moegrow.apply(plan, tmp_path / name)
    assert moegrow.diff(tmp_path / "a", tmp_path / "b").is_empty


def test_the_deviation_of_finite_values_is_that_of_the_finite_values():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(150_000, generator=generator).double().numpy() * 3 + 1
    expected = values.std()
    with_others = values.copy()
    with_others[[0, 255, 70_000, 149_999]] = NAN, INFINITY, -INFINITY, NAN
    chunks = [with_others[first : first + noise.CHUNK] for first in range(0, 150_000, noise.CHUNK)]
    assert noise.finite_deviation(chunks) == pytest.approx(expected, rel=1e-4)
    assert noise.finite_deviation([values[:0]]) == 0
    assert noise.finite_deviation([with_others[:1]]) == 0


def test_values_beyond_the_squares_of_their_precision_have_a_deviation_with_leave(
    checkpoint, tmp_path
):
    source = alter.copy(checkpoint(), tmp_path)
    with alter.weights(source) as tensors:
        tensors[EXPERT] = tensors[EXPERT] * 1e30
    with pytest.raises(MoegrowError, match="beyond 1e18"):
        moegrow.apply(moegrow.width(source), tmp_path / "grown")
    moegrow.apply(moegrow.width(source, allow_nonfinite=True), tmp_path / "grown")
    old, new = (
        tiny.tensors(source)[EXPERT].double(),
        tiny.tensors(tmp_path / "grown")[COPY].double(),
    )
    assert 0.9 < float((new - old).std() / old.std() / 0.01) < 1.1


@pytest.mark.parametrize("fused", [False, True])
def test_constant_tensors_are_copied_and_named_in_the_summary(run, checkpoint, tmp_path, fused):
    source = alter.copy(checkpoint("gpt_oss" if fused else "qwen3_moe"), tmp_path)
    router = "model.layers.0.mlp.router.weight" if fused else ROUTER
    with alter.weights(source) as tensors:
        tensors[router] = torch.full_like(tensors[router], 0.25)
        if not fused:
            tensors[EXPERT] = torch.zeros_like(tensors[EXPERT])
    told = run("width", source, "-o", "grown").stderr
    (line,) = (line for line in told.splitlines() if line.startswith("not jittered"))
    assert router in line
    new = tiny.tensors(tmp_path / "grown")
    assert bool((new[router] == 0.25).all())
    if not fused:
        assert f"{COPY} (1)" in line
        assert not new[COPY].any()
    assert "not jittered" not in run("depth", source, "-o", "deep").stderr
    assert moegrow.verify(tmp_path / "grown").ok


def test_a_summary_without_constant_tensors_has_no_such_line(run, checkpoint):
    assert "not jittered" not in run("width", checkpoint(), "-o", "grown").stderr
