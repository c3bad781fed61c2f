"""Every byte gets to all its places, and is read once."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.growth import Noise
from moegrow.planning.op import Fill, Perturb, noise_of
from moegrow.planning.plan import Output, Piece
from moegrow.write import schedule, shards
from moegrow.write.schedule import ChangeRun, CopyRun, Job, jobs, moves

NOISE = Noise("normal", 0.01, 0)
PIECE = Piece("x", 0, 1, Perturb(NOISE))


def is_noised(piece):
    return noise_of(piece.op) is not None


def change(file, start, stop, shard, offset):
    output = Output(f"{shard}.{offset}", "U8", (stop - start,), (PIECE,))
    return ChangeRun(file, start, stop, shard, offset, output, PIECE, 0)


def changed(content):
    """What a change does here: nothing that a copy could be taken for, nor a part for the whole."""
    return bytes(byte ^ 0xFF for byte in reversed(content))


class Places:
    """Shards as arrays of bytes; no byte may be written twice."""

    def __init__(self):
        self.bytes = {}

    def write(self, shard, offset, content):
        for position, byte in enumerate(content, offset):
            assert (shard, position) not in self.bytes
            self.bytes[shard, position] = byte


def wanted(files, copies, changes):
    places = Places()
    for copy in copies:
        places.write(copy.shard, copy.offset, files[copy.file][copy.start : copy.stop])
    for one in changes:
        places.write(one.shard, one.offset, changed(files[one.file][one.start : one.stop]))
    return places.bytes


def done(files, planned):
    """What the jobs make, and how often each byte is read."""
    places, reads = Places(), Counter()
    for job in planned:
        assert job.start < job.stop
        assert job.copies or job.changes
        content = files[job.file][job.start : job.stop]
        reads.update((job.file, position) for position in range(job.start, job.stop))
        for copy in job.copies:
            assert (copy.file, copy.start, copy.stop) == job[:3]
            places.write(copy.shard, copy.offset, content)
        for one in job.changes:
            assert (one.file, one.start, one.stop) == job[:3]
            places.write(one.shard, one.offset, changed(content))
    return places.bytes, reads


SIZE = 60
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted).filter(
    lambda pair: pair[0] < pair[1]
)  # fmt: skip


@st.composite
def cases(draw, *, apart=False):
    """Two files with copies and changes of any parts of them; with `apart`, as plans have them:
    changed ranges are the same or apart, and no copy begins or ends within one."""
    files = {name: bytes(draw(st.binary(min_size=SIZE, max_size=SIZE))) for name in "ab"}
    next_offset = Counter()

    def place(size):
        # Copies that go on in the shard, too, with and without a gap.
        shard = draw(st.integers(0, 2))
        next_offset[shard] += draw(st.integers(0, 1))
        offset = next_offset[shard]
        next_offset[shard] += size
        return shard, offset

    copies, changes = [], []
    for name in files:
        cuts = sorted({0, SIZE, *draw(st.lists(st.integers(0, SIZE), max_size=5))})
        tiles = [*pairwise(cuts)]
        spots = draw(st.lists(st.sampled_from(tiles) if apart else ranges, max_size=6))
        for start, stop in spots:
            changes.append(change(name, start, stop, *place(stop - start)))
        ends = st.tuples(st.sampled_from(cuts), st.sampled_from(cuts)).map(sorted)
        for start, stop in draw(st.lists(ends if apart else ranges, max_size=6)):
            if start < stop:
                copies.append(CopyRun(name, start, stop, *place(stop - start)))
    return files, draw(st.permutations(copies)), draw(st.permutations(changes))


@given(cases(), st.sampled_from([1, 3, 1 << 20]))
def test_jobs_write_every_byte_to_all_its_places_once(case, longest):
    files, copies, changes = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LONGEST", longest)
        made, _ = done(files, jobs(copies, changes))
    assert made == wanted(files, copies, changes)


@given(cases(apart=True), st.sampled_from([1, 3, 1 << 20]))
def test_no_byte_is_read_twice_where_what_is_changed_does_not_overlap(case, longest):
    files, copies, changes = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LONGEST", longest)
        made, reads = done(files, jobs(copies, changes))
    assert made == wanted(files, copies, changes)
    assert set(reads.values()) <= {1}


@given(cases(), st.randoms())
def test_jobs_are_in_the_order_of_the_files_whatever_the_order_of_the_wishes(case, chance):
    _, copies, changes = case
    found = [*jobs(copies, changes)]
    places = [(job.file, job.start) for job in found]
    assert places == sorted(places)
    chance.shuffle(copies := [*copies])
    chance.shuffle(changes := [*changes])
    assert [*map(sorted_job, jobs(copies, changes))] == [*map(sorted_job, found)]


def sorted_job(job):
    return job._replace(copies=sorted(job.copies), changes=sorted(job.changes))


def test_files_side_by_side_take_turns_and_each_keeps_its_order():
    copies = [CopyRun(file, 10 * n, 10 * n + 10, 0, 0) for file in "abc" for n in range(3)]
    alone = list(jobs(copies, []))
    together = list(jobs(copies, [], side_by_side=2))
    assert sorted(together) == sorted(alone)
    assert [job.file for job in together] == [*"ababab", *"ccc"]
    for file in "abc":
        found = [job for job in together if job.file == file]
        assert found == [job for job in alone if job.file == file]


def test_nothing_needs_no_job():
    assert [*jobs([], [])] == []


def test_what_is_copied_twice_is_read_once():
    one, other = CopyRun("a", 0, 10, 0, 0), CopyRun("a", 0, 10, 1, 90)
    (job,) = jobs([one, other], [])
    assert sorted_job(job) == Job("a", 0, 10, [one, other], [])


def test_a_copy_that_covers_what_is_changed_is_split_there():
    copy, inner = CopyRun("a", 0, 100, 0, 1000), change("a", 40, 60, 1, 0)
    assert [*jobs([copy], [inner])] == [
        Job("a", 0, 40, (CopyRun("a", 0, 40, 0, 1000),)),
        Job("a", 40, 60, (CopyRun("a", 40, 60, 0, 1040),), (inner,)),
        Job("a", 60, 100, (CopyRun("a", 60, 100, 0, 1060),)),
    ]


def test_a_long_copy_is_cut_so_that_threads_share_it(monkeypatch):
    monkeypatch.setattr(schedule, "LONGEST", 32)
    found = [*jobs([CopyRun("a", 0, 100, 0, 5)], [])]
    assert [(job.start, job.stop) for job in found] == [(0, 32), (32, 64), (64, 96), (96, 100)]
    assert [job.copies[0].offset for job in found] == [5, 37, 69, 101]


def test_changes_of_the_same_bytes_are_made_together():
    one, other, later = (
        change("a", *place) for place in ((5, 9, 0, 0), (5, 9, 1, 0), (9, 12, 0, 9))
    )
    assert [*jobs([], [one, later, other])] == [
        Job("a", 5, 9, (), (one, other)), Job("a", 9, 12, (), (later,)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def source(checkpoint):
    return checkpoint("qwen2_moe", fused=True)


def moved(plan, size="5GB"):
    store = open_checkpoint(plan.source.location)
    files = shards.split(plan, store, size)
    return files, moves(files, store), store


@pytest.mark.parametrize("size", ["5GB", "30KB"])
def test_moves_fill_every_shard_behind_its_header(source, size):
    plan = moegrow.width(moegrow.depth(source, new_layers="identity"), noise=0.01)
    files, found, _ = moved(plan, size)
    filled = [bytearray(file.nbytes) for file in files]
    spots = [(copy.shard, copy.offset, copy.stop - copy.start) for copy in found.copies]
    spots += [(one.shard, one.offset, one.stop - one.start) for one in found.changes]
    spots += [(*place, whole.output.nbytes) for whole in found.wholes for place in whole.places]
    for shard, offset, size in spots:
        assert not any(filled[shard][offset : offset + size])
        filled[shard][offset : offset + size] = b"x" * size
    for file, content in zip(files, filled, strict=True):
        header = len(file.header)
        assert not any(content[:header])
        assert all(content[header:])


def test_a_checkpoint_that_does_not_change_is_one_copy_per_file(source):
    files, found, store = moved(moegrow.plan(source))
    assert found.changes == found.wholes == []
    # Neighbours are merged: what breaks a copy is the end of a file on either side.
    assert len(found.copies) <= len(store.files) + len(files) - 1
    assert sum(copy.stop - copy.start for copy in found.copies) == store.nbytes


def test_every_byte_that_growth_needs_is_read_once(source):
    plan = moegrow.width(moegrow.depth(source), noise=0.01)
    _, found, store = moved(plan)
    assert not found.wholes
    reads = sum(job.stop - job.start for job in jobs(found.copies, found.changes))
    assert reads == store.nbytes


def test_what_is_decoded_is_read_once_for_all_copies(source):
    plan = moegrow.width(moegrow.depth(source, dtype="bf16"), noise=0.01)
    _, found, store = moved(plan, "60KB")
    places = sum(len(whole.places) for whole in found.wholes)
    assert places == len(plan.outputs)
    without = [whole for whole in found.wholes if not any(map(is_noised, whole.output.pieces))]
    # What takes no noise is made once, however many copies there are.
    sources = [piece.source for whole in without for piece in whole.output.pieces]
    assert len(sources) == len(set(sources)) > len(store.tensors) / 2
    assert all(len(whole.places) == 2 for whole in without if ".layers." in whole.output.name)
    assert all(len(w.places) == 1 for w in found.wholes if w not in without)


def test_what_is_joined_or_constant_is_made_whole_and_nothing_is_no_move(source):
    plan = moegrow.plan(source)
    store = open_checkpoint(source)
    spec = next(spec for spec in store.tensors.values() if len(spec.shape) == 2)
    name, rows, columns = spec.name, *spec.shape
    zeros = Piece(name, 0, rows, Fill())
    outputs = {
        "joined": Output("joined", spec.dtype, spec.shape, (Piece(name, 0, columns),), axis=1),
        "zeros": Output("zeros", spec.dtype, spec.shape, (zeros,)),
        "empty": Output("empty", spec.dtype, (0, columns), (Piece(name, 3, 3),)),
        "noisy": Output("noisy", spec.dtype, spec.shape, (
            Piece(name, 0, 1), Piece(name, 2, 2, Perturb(NOISE)),
            Piece(name, 1, rows, Perturb(NOISE)),
        )),
    }  # fmt: skip
    files = shards.split(replace(plan, outputs=tuple(outputs.values())), store)
    found = moves(files, store)
    places = {output.name: at for file in files for output, at in file.positions()}
    row = (spec.stop - spec.start) // rows
    assert {whole.output for whole in found.wholes} == {outputs["joined"], outputs["zeros"]}
    assert found.copies == [CopyRun(spec.file, spec.start, spec.start + row, 0, places["noisy"])]
    assert found.changes == [
        ChangeRun(
            spec.file, spec.start + row, spec.stop, 0, places["noisy"] + row, outputs["noisy"],
            Piece(name, 1, rows, Perturb(NOISE)), 1,
        )
    ]  # fmt: skip
