"""The laws of plans: identity, repetition, and that depth and width commute."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import alter
import pytest
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moegrow
from moegrow import maps
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.families.read_layout import read_layout
from moegrow.families.tensor_names import locator
from moegrow.growth import Growth, Noise
from moegrow.planning import build
from moegrow.planning.plan import Piece
from moegrow.planning.plan_file import from_lines
from moegrow.planning.plan_lines import to_lines

# Per expert and fused; with biases, with a scale on the outputs, with dense layers, with lists.
TYPES = ["qwen3_moe", "qwen2_moe", "gpt_oss", "llama4_text", "qwen3_next"]
SEEN_ONCE = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}

noises = st.none() | st.builds(
    Noise, st.sampled_from(["normal", "uniform"]), st.sampled_from([0.01, 0.5, 1e-3]),
    st.integers(0, 3), st.sampled_from(["nearest", "stochastic"]),
)  # fmt: skip
few = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.fixture(scope="module", params=TYPES)
def layout(request, checkpoint):
    return read_layout(open_checkpoint(checkpoint(request.param)))


@pytest.fixture(scope="module")
def start(layout):
    return build.start(layout)


def layer_maps(layout, longest=6):
    """Any layers in any order, but with one that has experts."""
    numbers = st.integers(0, layout.layers - 1)
    found = st.lists(numbers, min_size=1, max_size=longest).map(tuple)
    return found.filter(lambda layers: layout.moe_layers & set(layers))


@st.composite
def widenings(draw, experts):
    """Any experts in any order, with any noise and top-k."""
    new = draw(st.lists(st.integers(0, experts - 1), min_size=1, max_size=7))
    return tuple(new), {
        "top_k": draw(st.integers(1, len(new))),
        "weight_noise": draw(noises),
        "router_noise": draw(noises),
    }


@few
@given(st.data())
def test_depth_and_width_commute(layout, start, data):
    layers, identity = data.draw(layer_maps(layout)), data.draw(st.booleans())
    experts, how = data.draw(widenings(layout.experts))
    deeper = build.deepen(start, layout, layers, identity=identity)
    wider = build.widen(start, layout, experts, **how)
    assert build.widen(deeper, layout, experts, **how) == build.deepen(
        wider, layout, layers, identity=identity
    )


def test_identity_maps_change_nothing(layout, start):
    same = build.deepen(start, layout, maps.identity(layout.layers), identity=True)
    noise = Noise("normal", 0.01, 0)
    same = build.widen(
        same, layout, maps.identity(layout.experts), top_k=layout.top_k,
        weight_noise=noise, router_noise=noise,
    )  # fmt: skip
    assert same == start
    assert start.config == layout.checkpoint.config_text
    assert start.steps == ()


@few
@given(st.data())
def test_depth_twice_is_depth_by_the_composed_map(layout, start, data):
    first = data.draw(layer_maps(layout))
    second = tuple(data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=6)))
    twice = build.deepen(build.deepen(start, layout, first), layout, second)
    assert twice == build.deepen(start, layout, maps.compose(second, first))


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("mode", [maps.interpose, maps.stack])
def test_doubling_the_depth_twice_is_quadrupling_it(layout, start, mode, identity):
    n = layout.layers
    twice = build.deepen(start, layout, mode(n, to=2 * n), identity=identity)
    twice = build.deepen(twice, layout, mode(2 * n, to=4 * n), identity=identity)
    assert twice == build.deepen(start, layout, mode(n, to=4 * n), identity=identity)


@pytest.mark.parametrize("order", ["append", "interleave"])
@given(st.sampled_from([(2, 2), (2, 3), (3, 2)]), noises, noises)
@few
def test_widening_twice_is_widening_by_the_product(layout, start, order, by, weight, router):
    n, k = layout.experts, layout.top_k
    a, b = by
    noise = {"weight_noise": weight, "router_noise": router}

    def widen(plan, old, to):
        new = maps.copies(old, to=to, order=order)
        return build.widen(plan, layout, new, top_k=k * to // n, **noise)

    assert widen(widen(start, n, n * a), n * a, n * a * b) == widen(start, n, n * a * b)


def test_the_verbs_keep_the_laws_on_a_family_with_groups_and_dense_layers(checkpoint):
    source = checkpoint("deepseek_v3")
    deeper, wider = {"keep_first": 1}, {"experts": "2x", "seed": 5}
    one = moegrow.width(moegrow.depth(source, **deeper), **wider)
    two = moegrow.depth(moegrow.width(source, **wider), **deeper)
    assert one == two
    assert one.commands != two.commands
    four = moegrow.width(source, experts="4x", seed=5)
    assert moegrow.width(moegrow.width(source, **wider), **wider) == four


@pytest.mark.parametrize("model_type", ["qwen3_moe", "llama4_text"])
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_plans_that_commute_write_the_same_bytes(checkpoint, model_type, data):
    layout = read_layout(open_checkpoint(checkpoint(model_type)))
    start = build.start(layout)
    layers = data.draw(layer_maps(layout))
    experts, how = data.draw(widenings(layout.experts))
    one = build.widen(build.deepen(start, layout, layers), layout, experts, **how)
    two = build.deepen(build.widen(start, layout, experts, **how), layout, layers)
    with TemporaryDirectory() as folder:
        a, b = (Path(folder, name, "grown") for name in "ab")
        a.parent.mkdir(), b.parent.mkdir()
        moegrow.apply(one, a)
        moegrow.apply(two, b)
        assert alter.contents(a) == alter.contents(b)


@pytest.mark.parametrize("order", ["append", "interleave"])
def test_doubling_the_experts_twice_writes_the_bytes_of_quadrupling(checkpoint, tmp_path, order):
    source = checkpoint("qwen2_moe", fused=True)
    twice = moegrow.width(moegrow.width(source, order=order), order=order)
    moegrow.apply(twice, tmp_path / "twice")
    moegrow.apply(moegrow.width(source, experts="4x", order=order), tmp_path / "four")
    one, other = toy.tensors_of(tmp_path / "twice"), toy.tensors_of(tmp_path / "four")
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@few
@given(st.data())
def test_a_plan_survives_its_lines(layout, start, data):
    plan = build.deepen(start, layout, data.draw(layer_maps(layout)), identity=True)
    experts, how = data.draw(widenings(layout.experts))
    plan = build.widen(plan, layout, experts, **how)
    assert from_lines(to_lines(plan)) == plan


@few
@given(st.data())
def test_every_new_layer_is_made_from_the_layer_of_the_map(layout, start, data):
    layers = data.draw(layer_maps(layout))
    plan = build.deepen(start, layout, layers)
    locate = locator(layout.family)
    seen = set()
    for output in plan.outputs:
        new = locate(output.name)
        sources = {piece.source for piece in output.pieces}
        if new is None:
            assert sources == {output.name}
            continue
        (old,) = map(locate, sources)
        assert (old.suffix, old.layer) == (new.suffix, layers[new.layer])
        assert all(piece.is_copy for piece in output.pieces)
        seen.add(new.layer)
    assert seen == set(range(len(layers)))


@few
@given(st.data())
def test_every_new_expert_is_made_from_the_expert_of_the_map(layout, start, data):
    experts, how = data.draw(widenings(layout.experts))
    plan = build.widen(start, layout, experts, **how)
    locate = locator(layout.family)
    copied = maps.repeats(experts)
    rows_of_experts = ("experts", "router", "router_bias", "balance_bias")
    for output in plan.outputs:
        place = locate(output.name)
        if place is None or place.role not in rows_of_experts:
            assert [(p.source, p.is_copy) for p in output.pieces] == [(output.name, True)]
        elif place.expert is not None:
            (piece,) = output.pieces
            assert locate(piece.source).expert == experts[place.expert]
            assert piece.noise == (how["weight_noise"] if copied[place.expert] else None)
        else:
            rows = [
                (row, piece.noise) for piece in output.pieces
                for row in range(piece.start, piece.stop)
            ]  # fmt: skip
            assert [row for row, _ in rows] == list(experts)
            originals = [noise for (_, noise), copy in zip(rows, copied, strict=True) if not copy]
            assert originals == [None] * len(set(experts))
            if place.role == "experts":
                noisy = [noise for (_, noise), copy in zip(rows, copied, strict=True) if copy]
                assert noisy == [how["weight_noise"]] * sum(copied)


def test_balance_biases_are_copied_and_never_jittered(checkpoint):
    plan = moegrow.width(checkpoint("deepseek_v3"), noise=0.5)
    biases = [o for o in plan.outputs if "e_score_correction_bias" in o.name]
    assert biases
    assert all(piece.is_copy for output in biases for piece in output.pieces)


def test_uniform_noise_goes_to_the_router_bias_where_there_is_one(checkpoint):
    def noisy(model_type):
        plan = moegrow.width(checkpoint(model_type), preset="upcycling")
        return {o.name.split("mlp.")[1] for o in plan.outputs for p in o.pieces if p.noise}

    assert noisy("gpt_oss") == {"router.bias"}
    assert noisy("qwen3_moe") == {"gate.weight"}


def test_silent_layers_have_zeros_for_outputs_and_copies_for_the_rest(checkpoint):
    plan = moegrow.depth(checkpoint("qwen2_moe"), new_layers="identity")
    ends = ("self_attn.o_proj.weight", "down_proj.weight")
    silent = 0
    for output in plan.outputs:
        (piece,) = output.pieces
        layer = re.match(r"model\.layers\.(\d+)\.", output.name)
        if layer and int(layer[1]) % 2 and output.name.endswith(ends):
            assert piece.scale == 0
            silent += 1
        else:
            assert piece.is_copy
    assert silent > 4 * 4


def test_a_piece_is_a_copy_only_without_noise_and_scale():
    piece = Piece("a", 0, 1)
    assert piece.is_copy
    assert not piece._replace(scale=2).is_copy
    assert not piece._replace(scale=0).is_copy
    assert not piece._replace(noise=Noise("normal", 0.1, 0)).is_copy


def test_a_plan_counts_its_bytes(checkpoint):
    plan = moegrow.depth(checkpoint())
    outside = sum(t.nbytes for n, t in toy.tensors_of(checkpoint()).items() if n in SEEN_ONCE)
    whole = sum(t.nbytes for t in toy.tensors_of(checkpoint()).values())
    assert plan.nbytes == outside + 2 * (whole - outside)


def test_no_growth_is_the_identity_on_both_axes():
    none = Growth.none(layers=2, experts=3, top_k=1)
    assert none.layers == (0, 1)
    assert none.experts == (0, 1, 2)
    assert not any(none.silent + none.weight_noise + none.router_noise)


def test_copies_of_noisy_copies_are_never_equal_to_another_expert(checkpoint):
    plan = moegrow.width(moegrow.width(checkpoint(), noise=0.01), noise=0)
    noises = plan.growth.weight_noise
    assert [bool(noise) for noise in noises] == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4
