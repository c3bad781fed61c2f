"""A digest does not depend on how the bytes came, and any byte that changes changes it."""

import hashlib
import json
import random
import zlib
from dataclasses import replace
from itertools import pairwise

import alter
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.side_files import DIGESTS
from moegrow.errors import MoegrowError
from moegrow.planning.plan import Output
from moegrow.write import engine
from moegrow.write.digests import Digests, Range, ShardDigests, damage, joined, merged, read_digests
from moegrow.write.shards import Shard


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_digests_join_to_that_of_both(first, second):
    assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_long_ranges_join_too():
    first, second = bytes(range(256)) * 40_000, b"\0" * 3_000_001
    assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_every_byte_that_changes_changes_the_digest(content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytearray(content)
    other[at] ^= data.draw(st.integers(1, 255))
    assert zlib.crc32(other) != zlib.crc32(content)


@given(st.randoms(use_true_random=False))
def test_ranges_do_not_depend_on_portions_and_order(chance):
    shard = Shard("a", (Output("x", "U8", (60,), ()), Output("y", "U8", (40,), ())))
    begin = len(shard.header)
    content = chance.randbytes(100)
    cuts = sorted({0, 60, 100, *(chance.randrange(100) for _ in range(8))})
    parts = [
        Range(begin + a, begin + b, zlib.crc32(content[a:b]))
        for a, b in pairwise(cuts)
        if not 30 <= a < 40 or b > 40
    ]
    chance.shuffle(parts)
    found = list(merged(shard, parts))
    covered = {byte for part in parts for byte in range(part.start, part.stop)}
    assert {byte for part in found for byte in range(part.start, part.stop)} == covered
    for start, stop, crc in found:
        assert zlib.crc32(content[start - begin : stop - begin]) == crc
    # No two of one tensor touch, and none reaches into another tensor.
    for one, other in pairwise(found):
        assert one.stop < other.start or other.start == begin + 60


@pytest.fixture
def source(checkpoint):
    return checkpoint("qwen2_moe", fused=True)


def both_ways(source):
    return moegrow.width(moegrow.depth(source, new_layers="identity"), noise=0.01)


@pytest.mark.parametrize("everything", [False, True])
def test_every_computed_byte_has_a_digest_and_with_everything_every_byte(
    source, tmp_path, everything
):
    plan = both_ways(source)
    written = moegrow.apply(plan, tmp_path / "grown", max_shard_size="100KB", digests=everything)
    kept = read_digests(tmp_path / "grown" / DIGESTS)
    assert kept.everything == everything
    covered = sum(part.stop - part.start for entry in kept.entries for part in entry.ranges)
    assert covered == (plan.nbytes if everything else written.moved.computed)
    for entry in kept.entries:
        content = (tmp_path / "grown" / entry.name).read_bytes()
        assert len(content) == entry.size
        for start, stop, crc in entry.ranges:
            assert zlib.crc32(content[start:stop]) == crc


def test_they_do_not_depend_on_threads_or_on_how_many_bytes_are_written_at_a_time(
    source, tmp_path, monkeypatch
):
    plan = both_ways(source)
    found = set()
    for number, (threads, size) in enumerate([(1, 4 << 20), (5, 4 << 20), (3, 1000)]):
        for portion in ("WRITE", "CACHED"):
            monkeypatch.setattr(engine, portion, size)
        moegrow.apply(plan, tmp_path / str(number), threads=threads, max_shard_size="100KB")
        lines = (tmp_path / str(number) / DIGESTS).read_text().splitlines()[1:-1]
        found.add("\n".join(lines))
    assert len(found) == 1


def test_damage_is_told_by_its_range(source, tmp_path):
    grown = tmp_path / "grown"
    moegrow.apply(both_ways(source), grown, max_shard_size="100KB", digests=True)
    chance = random.Random(0)
    for entry in read_digests(grown / DIGESTS).entries:
        path = grown / entry.name
        assert not [*damage(path, entry)]
        start, stop, _ = chance.choice(entry.ranges)
        alter.flip(path, chance.randrange(start, stop), 1 << chance.randrange(8))
        assert [*damage(path, entry)] == [(start, stop)]
        alter.flip(path, 9)
        assert [*damage(path, entry)] == [(0, 0)]


def test_the_file_comes_back_as_it_was(tmp_path):
    entry = ShardDigests("model-00001-of-00001.safetensors", 100, "ab" * 32, (Range(8, 50, 0xABC),))
    kept = Digests(
        False, {"config.json": "cd" * 32, "naïve.txt": "ef" * 32, "a\u2028\udc80": ""}, (entry,)
    )
    (tmp_path / DIGESTS).write_text(kept.text())
    assert read_digests(tmp_path / DIGESTS) == kept
    assert ShardDigests.read(entry.line()) == entry
    assert replace(kept, everything=True).text() != kept.text()


def test_a_file_of_digests_that_was_damaged_is_refused(source, tmp_path):
    moegrow.apply(moegrow.width(source), tmp_path / "grown")
    path = tmp_path / "grown" / DIGESTS
    content = path.read_bytes()
    chance = random.Random(0)
    for byte in [0, 1, len(content) - 1, *chance.sample(range(len(content)), 60)]:
        alter.flip(path, byte, 1 << chance.randrange(8))
        with pytest.raises(MoegrowError, match="is not as it was written"):
            read_digests(path)
        path.write_bytes(content)
    for damaged in (b"", b"\n", content[:-1], content + b"\n", b"\xff\n"):
        path.write_bytes(damaged)
        with pytest.raises(MoegrowError, match="is not as it was written"):
            read_digests(path)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"moegrow_digests": 2}',
        '{"moegrow_digests": 1, "covers": "computed"}',
        '{"moegrow_digests": 1, "covers": "computed", "files": {"a": 1}}',
        '{"moegrow_digests": 1, "covers": "computed", "files": {}}\n{"shard": 1}',
        '{"moegrow_digests": 1, "covers": "computed", "files": {}}\n{"shard": "a", "size": 1,'
        ' "header": "", "ranges": [[0, 1, 2]]}',
    ],
)
def test_a_file_of_digests_that_somebody_made_up_is_refused(tmp_path, line):
    above = f"{line}\n".encode()
    last = json.dumps({"above": hashlib.sha256(above).hexdigest()}, separators=(",", ":"))
    (tmp_path / DIGESTS).write_bytes(above + f"{last}\n".encode())
    with pytest.raises(MoegrowError, match=DIGESTS):
        read_digests(tmp_path / DIGESTS)


def test_a_file_of_digests_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / DIGESTS).symlink_to(tmp_path / "secret")
    with pytest.raises(MoegrowError, match="leads out of the checkpoint"):
        read_digests(tmp_path / "grown" / DIGESTS)


def test_a_result_that_is_grown_on_leaves_its_digests_behind(source, tmp_path):
    moegrow.apply(moegrow.width(source), tmp_path / "wide")
    assert DIGESTS not in open_checkpoint(tmp_path / "wide").side_files
    moegrow.apply(moegrow.depth(tmp_path / "wide"), tmp_path / "deep")
    assert moegrow.verify(tmp_path / "deep").ok


def read_by_hand(table):
    """The entry that a table of Python's own JSON reader stands for, or None."""
    if table.keys() != {"shard", "size", "header", "ranges"}:
        return None
    name, size, header, ranges = table.values()
    if [type(name), type(size), type(header), type(ranges)] != [str, int, str, list]:
        return None
    found = []
    for one in ranges:
        if type(one) is not list or [type(part) for part in one] != [int, int, str]:
            return None
        start, stop, crc = one
        if len(crc) != 8 or set(crc) - set("0123456789abcdef"):
            return None
        found.append(Range(start, stop, int(crc, 16)))
    if any(one.stop > other.start for one, other in pairwise(found)):
        return None
    return ShardDigests(name, size, header, tuple(found))


ENDS = st.lists(st.integers(0, 2**40), max_size=6, unique=True).map(sorted)
ENTRIES = st.builds(
    lambda name, size, ends, crcs: ShardDigests(
        name, size, "ab" * 32, tuple(map(Range, ends[::2], ends[1::2], crcs))
    ),
    st.text(max_size=5),
    st.integers(0, 2**50),
    ENDS,
    st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
)


@given(ENTRIES, st.data())
def test_an_entry_is_read_as_by_hand_or_refused(entry, data):
    assert ShardDigests.read(entry.line()) == entry
    table = json.loads(entry.line())
    if data.draw(st.booleans()):
        other = st.none() | st.integers(-9, 2**41) | st.sampled_from(["", "0", "0xabcdef", "é"])
        place, key = table, data.draw(st.sampled_from(["shard", "size", "header", "x", "ranges"]))
        if key == "ranges" and table["ranges"]:
            place, key = data.draw(st.sampled_from(table["ranges"])), data.draw(st.integers(0, 2))
        place[key] = data.draw(other)
    if expected := read_by_hand(table):
        assert ShardDigests.read(json.dumps(table)) == expected
    else:
        with pytest.raises(MoegrowError, match="an entry is malformed"):
            ShardDigests.read(json.dumps(table))
