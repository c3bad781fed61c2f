"""Layer and expert maps: integers only."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moegrow import maps
from moegrow.errors import UsageError

sizes = st.integers(1, 40)
factors = st.integers(1, 4)


@st.composite
def edged(draw, group=1):
    """Layers, the result's layers, and edges that leave something to repeat."""
    first, last = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    units, extra = draw(st.integers(1, 12)), draw(st.integers(0, 30))
    edges = {"keep_first": first, "keep_last": last}
    layers = first + units * group + last
    return layers, layers + extra * group, edges


grouped = st.integers(1, 4).flatmap(lambda group: st.tuples(st.just(group), edged(group)))


@given(grouped)
def test_interpose_repeats_whole_groups_in_place_and_keeps_the_edges(case):
    group, (layers, to, edges) = case
    new = maps.interpose(layers, to=to, group=group, **edges)
    first, last = edges["keep_first"], edges["keep_last"]
    assert len(new) == to
    assert new[:first] == tuple(range(first))
    assert new[to - last :] == tuple(range(layers - last, layers))
    middle = new[first : to - last]
    units = [middle[start : start + group] for start in range(0, len(middle), group)]
    assert all(unit == tuple(range(unit[0], unit[0] + group)) for unit in units)
    assert [unit[0] for unit in units] == sorted(unit[0] for unit in units)
    assert set(new) == set(range(layers))


@given(edged())
def test_stack_passes_over_the_middle_again_and_keeps_the_edges(case):
    layers, to, edges = case
    new = maps.stack(layers, to=to, **edges)
    first, last = edges["keep_first"], edges["keep_last"]
    assert len(new) == to
    assert new[: layers - last] == tuple(range(layers - last))
    assert new[to - last :] == tuple(range(layers - last, layers))
    middle = new[first : to - last]
    seams = [i for i, (a, b) in enumerate(pairwise(middle)) if b <= a]
    passes = -(-len(middle) // (layers - first - last))
    assert len(seams) == passes - 1


@pytest.mark.parametrize("mode", [maps.interpose, maps.stack])
@given(edged())
def test_repeats_are_spread_evenly(mode, case):
    layers, to, edges = case
    new = mode(layers, to=to, **edges)
    repeated = range(edges["keep_first"], layers - edges["keep_last"])
    counts = [new.count(layer) for layer in repeated]
    assert max(counts) - min(counts) <= 1
    for end in range(1, len(counts) + 1):
        assert abs(sum(counts[:end]) - end * sum(counts) / len(counts)) < 1


@pytest.mark.parametrize("mode", [maps.interpose, maps.stack, maps.copies])
@given(sizes)
def test_once_is_the_identity(mode, layers):
    assert mode(layers, to=layers) == maps.identity(layers)


@pytest.mark.parametrize("mode", [maps.interpose, maps.stack])
@given(sizes, factors, factors)
def test_repeating_twice_is_repeating_by_the_product(mode, layers, a, b):
    once = mode(layers, to=layers * a)
    twice = maps.compose(mode(layers * a, to=layers * a * b), once)
    assert twice == mode(layers, to=layers * a * b)


@pytest.mark.parametrize("order", ["append", "interleave"])
@given(sizes, factors, factors)
def test_copying_experts_twice_is_copying_by_the_product(order, experts, a, b):
    once = maps.copies(experts, to=experts * a, order=order)
    more = maps.copies(experts * a, to=experts * a * b, order=order)
    assert maps.compose(more, once) == maps.copies(experts, to=experts * a * b, order=order)


def test_interpose_and_stack_by_hand():
    assert maps.interpose(3, to=9) == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert maps.interpose(4, to=6) == (0, 1, 1, 2, 3, 3)
    assert maps.interpose(6, to=10, group=2, keep_first=1, keep_last=1) == (
        (0,) + (1, 2) * 2 + (3, 4) * 2 + (5,)
    )  # fmt: skip
    assert maps.stack(3, to=9) == (0, 1, 2) * 3
    assert maps.stack(6, to=9, keep_first=2, keep_last=1) == (0, 1, 2, 3, 4, 2, 3, 4, 5)


def test_expand_is_llama_pro_from_32_to_40():
    new = maps.expand(32, every=4)
    assert len(new) == 40
    assert new[:11] == (0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8)
    assert [layer for layer in range(32) if new.count(layer) == 2] == list(range(3, 32, 4))


@given(edged(), st.integers(1, 12))
def test_expand_adds_one_layer_behind_each_full_group_of_the_middle(case, every):
    layers, _, edges = case
    first, middle = edges["keep_first"], layers - sum(edges.values())
    assume(every <= middle)
    new = maps.expand(layers, every=every, **edges)
    twice = [layer for layer in range(layers) if new.count(layer) == 2]
    assert len(new) == layers + middle // every
    assert twice == [first + group * every - 1 for group in range(1, middle // every + 1)]
    assert list(new) == sorted(new)


def test_overlap_is_solar_from_32_to_48():
    assert maps.overlap(32, drop=8) == (*range(24), *range(8, 32))


@given(sizes, st.data())
def test_overlap_leaves_the_dropped_layers_out_of_one_side_each(layers, data):
    drop = data.draw(st.integers(0, layers - 1))
    new = maps.overlap(layers, drop=drop)
    assert len(new) == 2 * (layers - drop)
    assert new[: layers - drop] == tuple(range(layers - drop))
    assert new[layers - drop :] == tuple(range(drop, layers))


@given(st.lists(st.integers(0, 30), min_size=1))
def test_a_free_list_says_exactly_which_layers(layers):
    assert maps.free(",".join(map(str, layers)), 31) == tuple(layers)


def test_a_free_list_may_hold_ranges_and_spaces():
    assert maps.free("0,0, 1, 1 - 3,5", 6) == (0, 0, 1, 1, 2, 3, 5)
    assert maps.free("2-2", 3) == (2,)


@pytest.mark.parametrize(
    "text", ["", ",", "0,", "a", "-1", "1-", "1-2-3", "0x1", "1.5", "4", "0-4", "2-1", "9" * 30]
)
def test_a_bad_free_list_is_refused(text):
    with pytest.raises(UsageError, match=r"^layers: "):
        maps.free(text, 4)


@pytest.mark.parametrize(
    ("text", "value"), [("2x", 2), ("2", 2), (" 3X ", 3), ("1.5x", 1.5), ("4×", 4), ("1x", 1)]
)
def test_a_factor_is_read_in_its_spellings(text, value):
    assert maps.factor(text, "times") == value


@pytest.mark.parametrize(
    "text", ["0x", "0.5x", "-1", "abc", "", "x", "2xx", "1e3", "nan", "inf", "1/2"]
)
def test_a_bad_factor_is_refused_by_the_flag_it_was_given_to(text):
    with pytest.raises(UsageError, match=r"^times"):
        maps.factor(text, "times")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: maps.interpose(4, to=3),
        lambda: maps.interpose(4, to=8, keep_first=-1),
        lambda: maps.interpose(4, to=8, keep_first=2, keep_last=2),
        lambda: maps.interpose(4, to=8, group=3),
        lambda: maps.interpose(4, to=8, group=0),
        lambda: maps.interpose(4, to=7, group=2),
        lambda: maps.stack(4, to=3),
        lambda: maps.stack(4, to=8, keep_last=4),
        lambda: maps.expand(4, every=0),
        lambda: maps.expand(4, every=5),
        lambda: maps.expand(4, every=3, keep_last=2),
        lambda: maps.overlap(4, drop=4),
        lambda: maps.overlap(4, drop=-1),
        lambda: maps.copies(4, to=3),
    ],
)
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(UsageError):
        bad()


@given(sizes, factors)
def test_appended_copies_stand_behind_all_originals(experts, times):
    new = maps.copies(experts, to=experts * times)
    assert new == tuple(range(experts)) * times
    assert maps.repeats(new) == (False,) * experts + (True,) * (experts * (times - 1))


@given(sizes, st.integers(0, 40))
def test_interleaved_copies_stand_beside_their_originals(experts, more):
    new = maps.copies(experts, to=experts + more, order="interleave")
    assert list(new) == sorted(new)
    assert sorted(new) == sorted(maps.copies(experts, to=experts + more))


@given(st.lists(st.integers(0, 9), min_size=10), st.data())
def test_composition_takes_what_the_old_map_holds_at_the_new_places(old, data):
    middle = data.draw(st.lists(st.integers(0, len(old) - 1)))
    new = data.draw(st.lists(st.integers(0, max(0, len(middle) - 1)))) if middle else []
    old, middle, new = tuple(old), tuple(middle), tuple(new)
    assert maps.compose(maps.identity(len(old)), old) == old
    assert maps.compose(middle, maps.identity(len(old))) == middle
    left = maps.compose(new, maps.compose(middle, old))
    assert left == maps.compose(maps.compose(new, middle), old)


@given(st.lists(st.integers(0, 5)))
def test_the_first_of_equal_entries_is_no_repeat_and_the_others_are(entries):
    flags = maps.repeats(tuple(entries))
    assert [entries[:i].count(e) > 0 for i, e in enumerate(entries)] == list(flags)
