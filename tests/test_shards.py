"""Which tensor goes to which file."""

import json
from dataclasses import replace

import pytest

import moegrow
from moegrow import shards
from moegrow.errors import UsageError
from moegrow.header import BITS
from moegrow.plans import Output, Piece


@pytest.fixture(scope="module")
def plan(checkpoint):
    return moegrow.width(checkpoint(), noise=0)


def test_every_tensor_is_in_exactly_one_file(plan):
    files = shards.split(plan, "20KB")
    names = [output.name for shard in files for output in shard.outputs]
    assert sorted(names) == sorted(output.name for output in plan.outputs)


@pytest.mark.parametrize("size", ["1KB", "10KB", "100KB", "1MB", 12345, "0.02MB"])
def test_no_file_is_larger_than_asked_unless_one_tensor_is(plan, size):
    limit = {"1KB": 1000, "10KB": 10_000, "100KB": 100_000, "1MB": 10**6, "0.02MB": 20_000}
    for shard in shards.split(plan, size):
        content = sum(output.nbytes for output in shard.outputs)
        assert content <= limit.get(size, size) or len(shard.outputs) == 1


def test_names_say_which_of_how_many(plan):
    files = shards.split(plan, "50KB")
    count = len(files)
    assert count > 2
    assert [shard.name for shard in files] == [
        f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
    ]
    (single,) = shards.split(plan)
    assert single.name == "model-00001-of-00001.safetensors"


def test_wider_elements_come_first_so_that_all_are_aligned(plan):
    odd = [
        Output(f"odd{i}", dtype, (3,), (Piece("x", 0, 3),))
        for i, dtype in enumerate(["U8", "F32", "F64", "BF16", "F8_E4M3", "I64"])
    ]
    (shard,) = shards.split(replace(plan, outputs=tuple(odd)))
    position = len(shard.header)
    for output in shard.outputs:
        assert position % (BITS[output.dtype] // 8) == 0
        position += output.nbytes
    assert position == shard.nbytes


def test_the_index_has_exact_totals_and_a_place_for_every_tensor(plan):
    files = shards.split(plan, "50KB")
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
def test_what_is_no_size_is_refused(plan, size):
    with pytest.raises(UsageError, match="is not a size") as refused:
        shards.split(plan, size)
    assert "5GB" in refused.value.hint
