"""Files are filled with the same bytes whatever way these take, and each is read once."""

import errno
import fcntl
import os
import resource
import struct
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import alter
import numpy as np
import pytest
import tiny
import torch

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.errors import MoegrowError
from moegrow.files.byte_ranges import BLOCK
from moegrow.growth import Noise
from moegrow.kernels import tensor_bytes
from moegrow.kernels.perturb import Workspace
from moegrow.kernels.reader import SourceReader
from moegrow.planning.op import Perturb, noise_of
from moegrow.planning.plan import Output, Piece
from moegrow.write import direct_io, engine, schedule, shard_files, shards
from moegrow.write.engine import Moved, fill


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])
def source(checkpoint, request):
    """One that keeps experts apart, and one that keeps them in one tensor."""
    return checkpoint(request.param)


@pytest.fixture
def filled(tmp_path):
    """Fill the files of a plan; gives their bytes by name and how they were moved."""

    def filled(plan, *, size="100KB", threads=2, **settings):
        folder = tmp_path / str(sum(1 for _ in tmp_path.iterdir()))
        folder.mkdir()
        store = open_checkpoint(plan.source.location)
        files = shards.split(plan, store, size)
        moved = fill(files, folder, store, threads=threads, **settings)
        found = alter.contents(folder)
        assert found.keys() == {file.name for file in files}
        for file in files:
            assert found[file.name][: len(file.header)] == file.header
            assert len(found[file.name]) == file.nbytes
        return found, moved

    return filled


def size_of(source):
    return open_checkpoint(source).nbytes


def both_ways(source):
    return moegrow.width(moegrow.depth(source, new_layers="identity"), noise=0.01, seed=3)


def no(*arguments):
    raise AssertionError("called")


def refusing(*arguments):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.fixture
def sharing(monkeypatch):
    """A filesystem that shares blocks, as far as one can tell; gives the ranges it shared."""
    found = []

    def ioctl(target, request, fields):
        source, start, count, offset = struct.unpack("=qQQQ", fields)
        assert count
        if start % BLOCK or count % BLOCK or offset % BLOCK:
            raise OSError(errno.EINVAL, "not in whole blocks")
        assert os.pwrite(target, os.pread(source, count, start), offset) == count
        found.append(count)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    return found


# What is counted.


def test_a_deeper_model_is_read_once_and_copied_twice(source, filled, monkeypatch):
    monkeypatch.setattr(fcntl, "ioctl", refusing)
    plan = moegrow.depth(source)
    for reflink in (True, False):
        _, moved = filled(plan, reflink=reflink)
        assert moved == Moved(copied=plan.nbytes, read=size_of(source))


def test_both_axes_with_noise_take_one_pass(source, filled, monkeypatch):
    monkeypatch.setattr(fcntl, "ioctl", refusing)
    plan = moegrow.width(moegrow.depth(source), noise=0.01)
    drawn = sum(
        piece.stop - piece.start and output.nbytes * (piece.stop - piece.start) // output.rows
        for output in plan.outputs
        for piece in output.pieces
        if noise_of(piece.op)
    )
    for reflink in (True, False):
        _, moved = filled(plan, reflink=reflink)
        assert moved == Moved(copied=plan.nbytes - drawn, computed=drawn, read=size_of(source))


def test_what_the_filesystem_shares_is_not_read(source, filled, sharing):
    plan = moegrow.depth(source)
    _, moved = filled(plan, size="5GB")
    assert moved.shared == sum(sharing) > plan.nbytes / 2
    assert moved.shared + moved.copied == plan.nbytes
    assert moved.read <= moved.copied
    assert moved.computed == 0


@pytest.mark.parametrize("size", ["5KB", "100KB", "5GB"])
def test_every_byte_of_a_tensor_is_counted_once(source, filled, sharing, size):
    for plan in (both_ways(source), moegrow.width(source, preset="upcycling")):
        counts = []
        _, moved = filled(plan, size=size, progress=counts.append)
        assert moved.shared + moved.copied + moved.computed == plan.nbytes == sum(counts)


# The same bytes.


WAYS = [
    "shared", "in the kernel", "by hand", "short", "refused in the middle", "no such call",
    "past the cache",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 5])
def test_the_bytes_do_not_depend_on_the_way_they_take(source, filled, monkeypatch, way, threads):
    monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    plans = (
        both_ways(source),
        moegrow.depth(source, to=6),
        moegrow.width(source, preset="upcycling"),
    )
    monkeypatch.setattr(fcntl, "ioctl", no)
    expected = [filled(plan, reflink=False, threads=1)[0] for plan in plans]
    calls = []
    if way == "shared":
        monkeypatch.undo()
        monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
        monkeypatch.setattr(fcntl, "ioctl", emulated(calls))
    elif way == "past the cache":
        monkeypatch.setattr(fcntl, "ioctl", refusing)
        monkeypatch.setattr(direct_io, "is_of_use", lambda folder, size: True)
        monkeypatch.setattr(direct_io, "open_direct", lambda path, size: os.open(path, os.O_WRONLY))
        monkeypatch.setattr(os, "pwrite", whole_blocks(os.pwrite, calls))
    elif way == "no such call":
        monkeypatch.setattr(fcntl, "ioctl", refusing)
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(fcntl, "ioctl", refusing)
        monkeypatch.setattr(os, "copy_file_range", kernel(way, calls), raising=False)
    found = [filled(plan, threads=threads)[0] for plan in plans]
    assert found == expected
    assert calls or way == "no such call"


def test_a_real_disk_takes_whole_blocks(source, filled, monkeypatch, tmp_path):
    if not direct_io.is_of_use(tmp_path, direct_io.SMALLEST):
        pytest.skip("temporary files are not on a disk of this machine")
    plans = both_ways(source), moegrow.width(source, preset="upcycling")
    expected = [filled(plan, reflink=False)[0] for plan in plans]
    monkeypatch.setattr(direct_io, "SMALLEST", 0)
    assert [filled(plan)[0] for plan in plans] == expected


def whole_blocks(real, calls):
    """Writing as a disk has it where a file is open for nothing but writing past the cache."""

    def pwrite(target, view, offset):
        if fcntl.fcntl(target, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            address = np.frombuffer(view, np.uint8).ctypes.data
            assert not any(number % BLOCK for number in (address, len(view), offset))
            calls.append(len(view))
        return real(target, view, offset)

    return pwrite


def emulated(calls):
    def ioctl(target, request, fields):
        source, start, count, offset = struct.unpack("=qQQQ", fields)
        os.pwrite(target, os.pread(source, count, start), offset)
        calls.append(count)

    return ioctl


def kernel(way, calls):
    real = os.copy_file_range

    def copy_file_range(source, target, count, start, offset):
        calls.append(count)
        if way == "by hand" or (way == "refused in the middle" and len(calls) % 2 == 0):
            return refusing()
        if way == "in the kernel":
            return real(source, target, count, start, offset)
        return real(source, target, min(count, 777), start, offset)

    return copy_file_range


def test_real_copies_ask_neither_the_filesystem_nor_the_kernel_for_help(
    source, filled, monkeypatch
):
    monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    monkeypatch.setattr(fcntl, "ioctl", no)
    monkeypatch.setattr(os, "copy_file_range", no)
    _, moved = filled(moegrow.depth(source), reflink=False)
    assert moved.shared == 0


def test_the_layout_does_not_depend_on_whether_blocks_are_shared(source, filled, sharing):
    plan = both_ways(source)
    shared, moved = filled(plan)
    apart, copied = filled(plan, reflink=False)
    assert shared == apart
    assert moved.shared > copied.shared == 0


def test_a_filesystem_that_refuses_is_not_asked_again_for_the_file(source, filled, monkeypatch):
    monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    asked = []

    def ioctl(target, request, fields):
        asked.append(os.fstat(struct.unpack("=qQQQ", fields)[0]).st_ino)
        refusing()

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    filled(moegrow.depth(source), threads=1)
    assert sorted(asked) == sorted({path.stat().st_ino for path in source.glob("*.safetensors")})


@pytest.mark.parametrize("held", [0, 4000])
def test_pieces_too_large_to_hold_give_the_same_bytes(tmp_path, filled, monkeypatch, held):
    plan = large_pieces(tmp_path)
    expected, once = filled(plan)
    monkeypatch.setattr(engine, "HELD", held)
    found, twice = filled(plan)
    assert found == expected
    assert once.read < twice.read <= 2 * once.read
    assert replace(once, read=twice.read) == twice


@pytest.mark.parametrize("sizes", [(1 << 18, 1 << 18), (1 << 19, 1 << 20), (1 << 20, 1 << 30)])
def test_the_bytes_do_not_depend_on_how_many_are_read_and_written_at_a_time(
    tmp_path, filled, monkeypatch, sizes
):
    plan = large_pieces(tmp_path)
    expected, _ = filled(plan)
    monkeypatch.setattr(engine, "HELD", 0)
    monkeypatch.setattr(engine, "READ", sizes[0])
    for portion in ("WRITE", "CACHED"):
        monkeypatch.setattr(engine, portion, min(sizes[1], 1 << 22))
    monkeypatch.setattr(tensor_bytes, "READ", sizes[0])
    monkeypatch.setattr(schedule, "LONGEST", 99_999)
    assert filled(plan)[0] == expected


def large_pieces(folder):
    """A plan whose pieces have more values than are summed at a time, in each way of change."""
    source = folder / "source"
    source.mkdir()
    tiny_plan = moegrow.plan(tiny.build("qwen3_moe", folder / "tiny"))
    old = torch.randn(3, 100_001, generator=torch.Generator().manual_seed(0)).bfloat16()
    alter.save(source / "model.safetensors", {"old": old, "wide": old.float()})
    (source / "config.json").write_text("{}")
    store = open_checkpoint(source)
    noise = Noise("normal", 0.01, 1)
    pieces = (
        Piece("old", 0, 3), Piece("old", 1, 3, Perturb(noise)),
        Piece("old", 1, 3, Perturb(noise, Fraction(2, 3))),
        Piece("old", 0, 1, Perturb(Noise("uniform", 0.01, 1))),
        Piece("old", 1, 2, Perturb(scale=Fraction(1, 3))),
        Piece("old", 2, 3, Perturb(shift=Fraction(1, 3))),
    )  # fmt: skip
    outputs = [Output("copy", "BF16", (3, 100_001), pieces[:1])]
    outputs += [Output("many", "BF16", (10, 100_001), pieces)]
    wide = tuple(piece._replace(source="wide") for piece in pieces)
    outputs += [Output("wide", "F32", (10, 100_001), wide)]
    where = replace(tiny_plan.source, path=str(source), files=store.files)
    return replace(tiny_plan, outputs=tuple(outputs), source=where)


def test_the_files_hold_what_the_stream_of_each_tensor_says(tmp_path, filled):
    plan = large_pieces(tmp_path)
    found, _ = filled(plan)
    store = open_checkpoint(plan.source.location)
    with SourceReader(store) as source:
        for file in shards.split(plan, store, "100KB"):
            for output, position in file.positions():
                content = b"".join(
                    block.tobytes() for block in tensor_bytes.blocks(source, output, Workspace())
                )
                assert found[file.name][position:][: output.nbytes] == content


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_short_reads_and_writes_are_completed(checkpoint, filled, monkeypatch, most):
    plan = moegrow.width(checkpoint(), noise=0.01)
    plan = replace(plan, outputs=plan.outputs[:: 20 if most < 9 else 1])
    expected, _ = filled(plan)
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda f, views, at: read(f, [views[0][:most]], at))
    monkeypatch.setattr(os, "pwrite", lambda f, view, at: write(f, view[:most], at))
    assert filled(plan, reflink=False)[0] == expected


# What goes wrong.


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_in_one_thread_stops_all_and_is_the_one_that_is_raised(
    source, filled, monkeypatch, threads, after
):
    class OddError(Exception):
        pass

    write, calls, failed = os.pwrite, [], threading.Event()

    def pwrite(target, view, offset):
        assert not failed.is_set() or len(calls) < 99
        calls.append(len(view))
        if len(calls) > after and view[:1] != b"\0" and offset:
            failed.set()
            raise OddError
        return write(target, view, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    plan = moegrow.depth(source, to=16)
    with pytest.raises(OddError):
        filled(plan, threads=threads, reflink=False, size="5GB")
    # Every thread ends what it has begun, and begins nothing.
    assert len(calls) <= after + 1 + 2 * threads + sum(1 for _ in source.iterdir())
    assert threading.active_count() == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whoever_stops_the_main_thread_stops_all(source, filled, monkeypatch, stop):
    began = threading.Event()
    real = ThreadPoolExecutor.map

    def stopped(self, *arguments):
        real(self, *arguments)
        began.wait(10)
        raise stop

    monkeypatch.setattr(ThreadPoolExecutor, "map", stopped)
    written = []

    def progress(count):
        began.set()
        written.append(count)

    plan = moegrow.depth(source, to=64)
    with pytest.raises(stop):
        filled(plan, reflink=False, progress=progress)
    assert threading.active_count() == 1
    assert sum(written) < plan.nbytes


def test_a_file_that_is_written_too_short_is_not_published(source, filled, tmp_path, monkeypatch):
    publish = shard_files.Targets._publish

    def cut_short(self, number):
        with self.file(number) as descriptor:
            os.ftruncate(descriptor, 100)
        publish(self, number)

    monkeypatch.setattr(shard_files.Targets, "_publish", cut_short)
    with pytest.raises(MoegrowError, match="has 100 bytes and should have"):
        filled(moegrow.depth(source))
    assert not [*tmp_path.rglob("*.safetensors")]


def test_files_with_nothing_behind_their_headers_are_written_too(checkpoint, filled):
    plan = moegrow.plan(checkpoint())
    spec = open_checkpoint(checkpoint()).tensors["lm_head.weight"]
    empty = Output("empty", "F32", (0, 4), (Piece(spec.name, 3, 3),))
    found, moved = filled(replace(plan, outputs=(empty,)))
    assert len(found) == 1
    assert moved == Moved()
    found, _ = filled(replace(plan, outputs=(*plan.outputs, empty)))
    assert any(b'"empty"' in content[:10_000] for content in found.values())


@pytest.mark.parametrize("fails", [False, True])
def test_every_file_is_closed(source, filled, monkeypatch, fails):
    before = sorted(os.listdir("/proc/self/fd"))
    if fails:
        monkeypatch.setattr(os, "pwrite", refusing)
        with pytest.raises(OSError, match="cross-device"):
            filled(both_ways(source), reflink=False)
    else:
        filled(both_ways(source), threads=5)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_source_that_two_threads_open_at_once_is_opened_once(checkpoint, monkeypatch):
    together, real = threading.Barrier(2), os.open

    def slow(path, *arguments, **keywords):
        if threading.current_thread() is not threading.main_thread():
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)
        return real(path, *arguments, **keywords)

    store = open_checkpoint(checkpoint())
    before = len(os.listdir("/proc/self/fd"))
    with SourceReader(store) as source:
        monkeypatch.setattr(os, "open", slow)
        name = next(iter(store.tensors.values())).file
        threads = [threading.Thread(target=source.file, args=(name,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("shares", [False, True])
def test_more_files_than_may_be_open_can_be_written(checkpoint, tmp_path, monkeypatch, shares):
    monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    monkeypatch.setattr(fcntl, "ioctl", emulated([]) if shares else refusing)
    plan = moegrow.width(moegrow.depth(checkpoint(), to=32), noise=0.01)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        written = moegrow.apply(plan, tmp_path / "grown", max_shard_size="9KB")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert bool(written.moved.shared) == shares
    assert written.files > 150
    assert moegrow.verify(tmp_path / "grown").ok


def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """Buffers are as large as they are, whatever is read."""
    size = 96 << 20
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    alter.save(
        source / "model.safetensors", {"old": torch.ones(4, size // 8, dtype=torch.bfloat16)}
    )
    store = open_checkpoint(source)
    noise = Noise("normal", 0.01, 1)
    spec = store.tensors["old"]
    outputs = (
        Output("copy", "BF16", spec.shape, (Piece("old", 0, 4),)),
        Output("noisy", "BF16", spec.shape, (Piece("old", 0, 4, Perturb(noise)),)),
    )
    files = tuple(shards.Shard(f"{output.name}.safetensors", (output,)) for output in outputs)
    tracemalloc.start()
    try:
        fill(files, tmp_path, store, threads=2, reflink=False)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.prod(spec.shape) * 2 == size
    assert most < 2 * (engine.HELD + engine.READ + engine.WRITE + (8 << 20))
