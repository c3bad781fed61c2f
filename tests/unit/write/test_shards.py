"""Which tensor goes to which file, and where it lies there."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moegrow
from moegrow.checkpoint.checkpoint import Checkpoint
from moegrow.checkpoint.header import BITS, TensorSpec, read_header
from moegrow.errors import UsageError
from moegrow.files.byte_ranges import BLOCK
from moegrow.growth import Noise
from moegrow.kernels.reader import piece_range
from moegrow.planning.plan import Output, Piece
from moegrow.write import shards

MIB = 1 << 20


@pytest.fixture(scope="module")
def source(checkpoint):
    return moegrow.checkpoint.checkpoint.open_checkpoint(checkpoint())


@pytest.fixture(scope="module")
def plan(checkpoint):
    return moegrow.width(checkpoint(), noise=0)


@pytest.fixture(scope="module")
def any_plan(plan):
    """A plan of any outputs: of no other is asked than what it writes."""
    return lambda outputs: replace(plan, outputs=tuple(outputs))


def store(*files, folder=""):
    """A checkpoint in memory: files of (name, dtype, shape), data beginning where they say."""
    tensors = {}
    for number, (begin, *specs) in enumerate(files):
        for name, dtype, shape in specs:
            size = int(np.prod(shape)) * BITS[dtype] // 8
            tensors[name] = TensorSpec(name, f"{folder}{number}", dtype, shape, begin, begin + size)
            begin += size
    return Checkpoint(
        **{field: None for field in Checkpoint.__dataclass_fields__ if field != "tensors"},
        tensors=tensors,
    )


def copy_of(spec, suffix=""):
    rows = spec.shape[0] if spec.shape else 1
    return Output(spec.name + suffix, spec.dtype, spec.shape, (Piece(spec.name, 0, rows),))


def noisy(spec, suffix=".noisy"):
    piece = Piece(spec.name, 0, spec.shape[0], Noise("normal", 0.01, 0))
    return Output(spec.name + suffix, spec.dtype, spec.shape, (piece,))


def placed(files):
    """Every output with its position in its file."""
    return {output.name: position for file in files for output, position in file.positions()}


def fitting(files, checkpoint):
    """The bytes of copied outputs that lie at the same place in a block as in the source."""
    positions = placed(files)
    fits = 0
    for file in files:
        for output in filter(lambda output: output.pieces, file.outputs):
            piece = output.pieces[0]
            start, _ = piece_range(checkpoint.tensors[piece.source], piece)
            if (
                piece.is_copy
                and not output.axis
                and start % BLOCK == positions[output.name] % BLOCK
            ):
                fits += output.nbytes
    return fits


def test_every_tensor_is_in_exactly_one_file(plan, source):
    files = shards.split(plan, source, "20KB")
    names = [output.name for shard in files for output in shard.outputs]
    assert sorted(names) == sorted(output.name for output in plan.outputs)


@pytest.mark.parametrize("size", ["1KB", "10KB", "100KB", "1MB", 12345, "0.02MB"])
def test_no_file_is_larger_than_asked_unless_one_tensor_is(plan, source, size):
    limit = {"1KB": 1000, "10KB": 10_000, "100KB": 100_000, "1MB": 10**6, "0.02MB": 20_000}
    for shard in shards.split(plan, source, size):
        content = sum(output.nbytes for output in shard.outputs)
        assert content <= limit.get(size, size) or len(shard.outputs) == 1


def test_names_say_which_of_how_many(plan, source):
    files = shards.split(plan, source, "50KB")
    count = len(files)
    assert count > 2
    assert [shard.name for shard in files] == [
        f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
    ]
    (single,) = shards.split(plan, source)
    assert single.name == "model-00001-of-00001.safetensors"


def test_a_file_begins_with_the_header_and_ends_with_the_last_tensor(plan, source):
    for shard in shards.split(plan, source, "50KB"):
        position = len(shard.header)
        assert shard.residue is None or position % BLOCK == shard.residue
        for output, start in shard.positions():
            assert start == position
            position += output.nbytes
        assert shard.nbytes == position


@pytest.mark.parametrize("dtypes", [["U8", "F32", "F64", "BF16", "F8_E4M3", "I64"], ["U8", "F64"]])
def test_wider_elements_come_first_so_that_all_are_aligned(any_plan, dtypes):
    checkpoint = store((8, *((f"odd{i}", dtype, (3,)) for i, dtype in enumerate(dtypes))))
    odd = [copy_of(spec) for spec in checkpoint.tensors.values()]
    (shard,) = shards.split(any_plan(odd), checkpoint)
    for output, position in shard.positions():
        assert position % (BITS[output.dtype] // 8) == 0


def test_the_index_has_exact_totals_and_a_place_for_every_tensor(plan, source):
    files = shards.split(plan, source, "50KB")
    index = json.loads(shards.index(files))
    assert index["metadata"] == {
        "total_size": plan.nbytes, "total_parameters": plan.nbytes // 4,
    }  # fmt: skip
    assert index["weight_map"] == {
        output.name: shard.name for shard in files for output in shard.outputs
    }


@pytest.mark.parametrize(
    "size", ["0", "0GB", "-1GB", "-5", "5 apples", "GB", "", "nanGB", "infGB", "1e999GB", 0, -1]
)
def test_what_is_no_size_is_refused(plan, source, size):
    with pytest.raises(UsageError, match="is not a size") as refused:
        shards.split(plan, source, size)
    assert "5GB" in refused.value.hint
    with pytest.raises(UsageError, match="is not a size"):
        shards.parse_size(size)


def test_sizes_are_read_as_people_write_them():
    known = {"5GB": 5 * 10**9, " 1.5 mb ": 1_500_000, "3kb": 3000, "2TB": 2 * 10**12, 17: 17}
    assert {text: shards.parse_size(text) for text in known} == known


# Layout along runs. A checkpoint of three layers of 4 MiB, a norm of 14336 bytes between them that
# moves all behind it by half a block, begun in the middle of a block as any header leaves it.

LAYERS = [
    tensor
    for layer in range(3)
    for tensor in (
        (f"{layer}.norm", "BF16", (7168,)),
        *((f"{layer}.experts.{expert}", "BF16", (1024, 512)) for expert in range(4)),
    )
]
DEEP = store((1000, *LAYERS), (3 * BLOCK + 24, ("head", "BF16", (2048, 1024))))
SPECS = list(DEEP.tensors.values())


def test_a_copy_of_a_checkpoint_lies_in_every_block_as_the_source_does(any_plan):
    same = any_plan(copy_of(spec) for spec in SPECS)
    files = shards.split(same, DEEP)
    assert fitting(files, DEEP) == same.nbytes
    # The order is that of the source, whatever the order of the plan.
    backwards = any_plan(same.outputs[::-1])
    assert shards.split(backwards, DEEP) == files
    assert [output.name for file in files for output in file.outputs] == [*DEEP.tensors]


def test_layers_that_are_repeated_lie_twice_as_in_the_source(any_plan):
    twice = any_plan(copy_of(spec, end) for spec in SPECS for end in (".new0", ".new1"))
    files = shards.split(twice, DEEP)
    assert fitting(files, DEEP) == twice.nbytes
    assert len(files) <= 2 * 2


@pytest.mark.parametrize("size", ["1MB", "2MB", "5MB", "9MB"])
def test_what_does_not_fit_into_a_file_begins_another_at_the_same_place_in_a_block(any_plan, size):
    same = any_plan(copy_of(spec) for spec in SPECS)
    files = shards.split(same, DEEP, size)
    loose = sum(output.nbytes for output in same.outputs if output.name.endswith("norm"))
    assert fitting(files, DEEP) >= same.nbytes - loose
    assert all(
        len(file.outputs) == 1
        or sum(output.nbytes for output in file.outputs) <= shards.parse_size(size)
        for file in files
    )


def test_what_is_changed_lies_apart_from_what_is_copied(any_plan):
    wide = any_plan([*map(copy_of, SPECS), *(noisy(spec) for spec in SPECS if "exp" in spec.name)])
    files = shards.split(wide, DEEP)
    assert fitting(files, DEEP) == sum(spec.stop - spec.start for spec in SPECS)
    for file in files:
        assert len({output.pieces[0].is_copy for output in file.outputs}) == 1


def test_a_little_that_is_changed_does_not_make_a_file_of_its_own(any_plan):
    routers = store((8, ("router", "F32", (8, 64)), ("big", "F32", (1024, 1024))))
    specs = routers.tensors
    some = any_plan([copy_of(specs["big"]), noisy(specs["router"]), copy_of(specs["router"])])
    (file,) = shards.split(some, routers)
    assert fitting([file], routers) == specs["big"].stop - specs["router"].start


def test_thousands_of_tiny_runs_make_few_files(any_plan):
    """Each tensor that is copied follows one that is not, so none goes on where another ends."""
    size, count = 3000, 5000
    tensors = ((f"{number}", "U8", (size + number % 2,)) for number in range(count))
    odd = store((16, *tensors), folder="odd")
    specs = list(odd.tensors.values())
    tiny = any_plan([copy_of(spec) for spec in specs[::2]])
    assert len(shards.split(tiny, odd)) == 1
    big = replace(DEEP, tensors=DEEP.tensors | odd.tensors)
    files = shards.split(any_plan([*tiny.outputs, *map(copy_of, SPECS)]), big)
    assert len(files) <= 4
    assert fitting(files, big) >= sum(spec.stop - spec.start for spec in SPECS)


def test_many_runs_of_middling_size_do_not_make_more_files_than_a_few_hundred(any_plan):
    """Runs that are a small share of the result are copied, however large they are."""
    shape = (MIB + 8,)
    odd = store((16, *((f"{number}", "U8", shape) for number in range(4000))))
    plan = any_plan([copy_of(spec) for spec in list(odd.tensors.values())[::2]])
    assert len(shards.split(plan, odd)) <= shards.MOST_RUNS
    # Few of them, a large share, do get files.
    few = any_plan(plan.outputs[:20])
    files = shards.split(few, odd)
    assert fitting(files, odd) == few.nbytes


def test_a_misaligned_source_does_not_make_a_misaligned_result(any_plan):
    odd = store((11, ("a", "F32", (MIB,)), ("b", "F64", (MIB,))), (12, ("c", "F64", (MIB,))))
    plan = any_plan(map(copy_of, odd.tensors.values()))
    for file in shards.split(plan, odd):
        for output, position in file.positions():
            assert position % (BITS[output.dtype] // 8) == 0


def test_what_is_joined_or_made_of_nothing_has_a_place_too(any_plan):
    spec = SPECS[1]
    pieces = (Piece(spec.name, 0, 512), Piece(spec.name, 0, 512))
    joined = Output("joined", "BF16", (1024, 1024), pieces, axis=1)
    zeros = Output("zeros", "BF16", spec.shape, (Piece(spec.name, 0, 1024, scale=Fraction(0)),))
    empty = Output("empty", "BF16", (0, 4), ())
    files = shards.split(any_plan([joined, zeros, empty, copy_of(spec)]), DEEP)
    assert placed(files).keys() == {"joined", "zeros", "empty", spec.name}
    assert fitting(files, DEEP) == spec.stop - spec.start


def test_a_plan_of_nothing_needs_no_file(any_plan):
    assert shards.split(any_plan([]), DEEP) == ()


@st.composite
def checkpoints(draw):
    """A checkpoint of many dtypes, and outputs that copy some of it, some of it several times."""
    shapes = st.tuples(st.sampled_from([0, 1, 3, 512, 4096, 70_000]), st.sampled_from([1, 2, 8]))
    dtypes = st.sampled_from(["F64", "F32", "BF16", "U8"])
    files = draw(st.lists(st.lists(st.tuples(dtypes, shapes), max_size=8), max_size=3))
    begins = st.sampled_from([8, 16, 1000, 4096, 4097])
    checkpoint = store(
        *(
            (draw(begins), *((f"{f}.{t}", *tensor) for t, tensor in enumerate(tensors)))
            for f, tensors in enumerate(files)
        )
    )
    outputs = []
    for spec in checkpoint.tensors.values():
        outputs += [copy_of(spec, f".{n}") for n in range(draw(st.integers(0, 3)))]
        if draw(st.booleans()) and spec.dtype != "U8":
            outputs.append(noisy(spec))
    return checkpoint, draw(st.permutations(outputs)), draw(st.sampled_from([10**4, 10**6, 10**9]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=checkpoints(), data=st.data())
def test_any_plan_is_laid_out_whole_aligned_and_within_its_limit(any_plan, case, data):
    checkpoint, outputs, limit = case
    files = shards.split(any_plan(outputs), checkpoint, limit)
    assert sorted(output for file in files for output in file.outputs) == sorted(outputs)
    for file in files:
        assert file.outputs
        assert sum(output.nbytes for output in file.outputs) <= limit or len(file.outputs) == 1
        for output, position in file.positions():
            assert position % (BITS[output.dtype] // 8) == 0
    order = data.draw(st.permutations(outputs))
    again = shards.split(any_plan(order), checkpoint, limit)
    assert len(again) == len(files)


def test_the_library_reads_a_file_as_it_is_laid_out(any_plan, tmp_path):
    path = tmp_path / "x.safetensors"
    for file in shards.split(any_plan(map(copy_of, SPECS)), DEEP, "5MB"):
        with path.open("wb") as opened:
            opened.write(file.header)
            opened.truncate(file.nbytes)
        found = {spec.name: spec.start for spec in read_header(path).tensors}
        assert found == {output.name: position for output, position in file.positions()}
