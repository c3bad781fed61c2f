"""Written checkpoints: the same bytes however they are written, and nothing half done."""

import errno
import fcntl
import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

import alter
import pytest
import tiny
import torch
from safetensors import safe_open

import moegrow
from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import INDEX
from moegrow.errors import MoegrowError
from moegrow.write import shards, work_dir, write_checkpoint


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def plan(source):
    return moegrow.width(moegrow.depth(source))


def same_tensors(a, b):
    one, other = tiny.tensors(a), tiny.tensors(b)
    return one.keys() == other.keys() and all(tiny.same_bytes(one[n], other[n]) for n in one)


def test_the_bytes_do_not_depend_on_the_number_of_threads(plan, tmp_path):
    for threads in (1, 2, 7):
        target = tmp_path / str(threads) / "grown"
        target.parent.mkdir()
        moegrow.apply(plan, target, threads=threads, max_shard_size="100KB")
    first = alter.contents(tmp_path / "1")
    assert alter.contents(tmp_path / "2") == alter.contents(tmp_path / "7") == first


@pytest.mark.parametrize("settings", [{}, {"digests": True, "reflink": False}])
def test_a_single_run_reads_nothing_of_its_own_result(source, tmp_path, monkeypatch, settings):
    (source / "tokenizer.json").write_text("{}")
    read, real_open, real_read = [], os.open, os.preadv

    def note(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file() and path.is_relative_to(tmp_path / "grown.partial" / work_dir.RESULT):
            read.append(path.name)

    def opened(path, flags, *arguments, **options):
        descriptor = real_open(path, flags, *arguments, **options)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            note(descriptor)
        return descriptor

    def preadv(descriptor, *arguments):
        note(descriptor)
        return real_read(descriptor, *arguments)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "preadv", preadv)
    plan = moegrow.width(moegrow.depth(source), noise=0.01)
    moegrow.apply(plan, tmp_path / "grown", max_shard_size="50KB", **settings)
    assert not read
    monkeypatch.undo()
    assert (tmp_path / "grown" / "tokenizer.json").exists()
    assert moegrow.verify(tmp_path / "grown").ok


def test_the_tensors_do_not_depend_on_the_size_of_shards(plan, tmp_path):
    for size in ("3KB", "50KB", "5GB"):
        moegrow.apply(plan, tmp_path / size, max_shard_size=size)
    assert same_tensors(tmp_path / "3KB", tmp_path / "5GB")
    assert same_tensors(tmp_path / "50KB", tmp_path / "5GB")


def test_the_seed_alone_decides_what_is_drawn(source, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        moegrow.apply(moegrow.width(source, seed=seed), tmp_path / name / "grown")
    assert same_tensors(tmp_path / "a" / "grown", tmp_path / "b" / "grown")
    one, other = tiny.tensors(tmp_path / "a" / "grown"), tiny.tensors(tmp_path / "c" / "grown")
    differ = {name for name in one if not tiny.same_bytes(one[name], other[name])}
    copies = {name for name in one if any(f"experts.{e}." in name for e in range(4, 8))}
    assert differ == copies | {name for name in one if name.endswith("mlp.gate.weight")}


@pytest.mark.parametrize(
    "answer",
    [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, "short", "zero"],
)
def test_the_bytes_do_not_depend_on_the_kernels_copy(plan, tmp_path, monkeypatch, answer):
    for name in "ab":
        (tmp_path / name).mkdir()
    moegrow.apply(plan, tmp_path / "a" / "grown", max_shard_size="100KB")
    real = os.copy_file_range

    def copy_file_range(source, target, count, start, offset):
        if answer == "short":
            return real(source, target, min(count, 1001), start, offset)
        if answer == "zero":
            return 0
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    moegrow.apply(plan, tmp_path / "b" / "grown", max_shard_size="100KB")
    assert alter.contents(tmp_path / "a") == alter.contents(tmp_path / "b")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_copies_stay_near(checkpoint, tmp_path, dtype):
    moegrow.apply(moegrow.width(checkpoint(dtype=dtype)), tmp_path / "grown")
    new = tiny.tensors(tmp_path / "grown")
    assert {tensor.dtype for tensor in new.values()} == {dtype}
    old, copy = (new[f"model.layers.0.mlp.experts.{e}.up_proj.weight"].double() for e in (1, 5))
    assert 0.9 < float((copy - old).std() / old.std() / 0.01) < 1.1


def test_every_file_says_its_format_and_the_index_is_exact(plan, tmp_path):
    written = moegrow.apply(plan, tmp_path / "grown", max_shard_size="100KB")
    files = sorted(path.name for path in (tmp_path / "grown").glob("*.safetensors"))
    count = len(files)
    assert count > 3
    assert files == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    index = json.loads((tmp_path / "grown" / INDEX).read_text())
    tensors = tiny.tensors(tmp_path / "grown")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    for file in files:
        with safe_open(tmp_path / "grown" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert {index["weight_map"][name] for name in opened.keys()} == {file}  # noqa: SIM118
    assert (written.files, written.tensors) == (count, len(tensors))
    assert written.nbytes == index["metadata"]["total_size"]


TRAVELS = [
    "generation_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "modeling_odd.py",
    "LICENSE",
    "sub/prompt.txt",
]
STAYS = ["pytorch_model.bin", "model.gguf", "old.safetensors.index.json", ".hidden", ".git/config"]


def test_side_files_travel_unchanged_and_other_weights_do_not(source, tmp_path):
    for number, name in enumerate(TRAVELS + STAYS):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(bytes([number]) * 1000)
    moegrow.apply(moegrow.depth(source), tmp_path / "grown")
    old, new = alter.contents(source), alter.contents(tmp_path / "grown")
    assert {name: new[name] for name in TRAVELS} == {name: old[name] for name in TRAVELS}
    own = {"config.json", "README.md", PLAN, DIGESTS, INDEX, "model-00001-of-00001.safetensors"}
    assert new.keys() == {*TRAVELS, *own}


def test_the_card_says_what_was_done_and_how_to_do_it_again(source, tmp_path):
    (source / "README.md").write_text("the source's own card")
    plan = moegrow.width(moegrow.depth(source, command="moegrow depth x"), seed=17)
    moegrow.apply(plan, tmp_path / "grown")
    card = (tmp_path / "grown" / "README.md").read_text()
    assert "the source's own card" not in card
    for told in ("# grown", "**qwen3_moe**", "| layers | 4 | 8 |", "| experts | 4 | 8 |",
                 "| top-k | 2 | 4 |", "$ moegrow depth x", "seed=17", "- seed: 17",
                 moegrow.__version__):  # fmt: skip
        assert told in card


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(source, tmp_path, umask):
    (source / "run.sh").write_text("x")
    (source / "run.sh").chmod(0o700)
    plan = moegrow.depth(source)
    before = os.umask(umask)
    try:
        moegrow.apply(plan, tmp_path / "grown")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "grown").stat().st_mode) == 0o777 & ~umask
    for file in (tmp_path / "grown").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file


def nothing_is_left(tmp_path, source, before):
    """Neither a result nor anything of a shard that is not finished; the source is as it was."""
    assert alter.contents(source) == before
    left = {path.name for path in tmp_path.iterdir()} - {source.name}
    assert left <= {"grown.partial"}
    assert not [*tmp_path.rglob("*.tmp")]
    assert bool(left) == bool(work_dir.kept_of(tmp_path / "grown"))


def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("call", ["copy_file_range", "pwrite", "fsync", "rename", "ioctl"])
def test_a_full_disk_leaves_nothing_behind(source, plan, tmp_path, monkeypatch, call, threads):
    before = alter.contents(source)
    if call == "rename":
        monkeypatch.setattr(write_checkpoint.Path, call, full)
    elif call == "ioctl":
        monkeypatch.setattr(fcntl, call, full)
        monkeypatch.setattr(shards, "SMALLEST_RUN", 0)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(MoegrowError, match="No space left") as failed:
        moegrow.apply(plan, tmp_path / "grown", threads=threads, max_shard_size="50KB")
    assert "nothing was published" in failed.value.hint
    monkeypatch.undo()
    nothing_is_left(tmp_path, source, before)


def test_a_disk_that_fills_in_the_middle_leaves_nothing_behind(source, plan, tmp_path, monkeypatch):
    before, write, room = alter.contents(source), os.pwrite, [50_000]

    def write_while_there_is_room(target, block, offset):
        room[0] -= len(block)
        return write(target, block, offset) if room[0] > 0 else full()

    monkeypatch.setattr(os, "pwrite", write_while_there_is_room)
    with pytest.raises(MoegrowError, match="No space left"):
        moegrow.apply(plan, tmp_path / "grown")
    assert room[0] <= 0
    monkeypatch.undo()
    nothing_is_left(tmp_path, source, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interruption_in_the_middle_leaves_nothing_behind(source, plan, tmp_path, error):
    before, seen = alter.contents(source), []

    def progress(count):
        seen.append(count)
        if len(seen) > 10:
            raise error

    with pytest.raises(error):
        moegrow.apply(plan, tmp_path / "grown", progress=progress, max_shard_size="50KB")
    nothing_is_left(tmp_path, source, before)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_source_cut_short_while_it_is_read_leaves_nothing_behind(source, tmp_path, noise):
    plan = moegrow.width(source, noise=noise)
    (first, *_) = sorted(source.glob("*.safetensors"))
    with pytest.raises(MoegrowError, match=r"ends before the end of|had \d+ bytes and has 4000"):
        moegrow.apply(
            plan, tmp_path / "grown", threads=1, max_shard_size="10KB",
            progress=lambda count: os.truncate(first, 4000) if count else None,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def rewritten(source):
    """Trained on in place: the same size, header and samples, only the time tells."""
    path = sorted(source.glob("*.safetensors"))[-1]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def gone(source):
    sorted(source.glob("*.safetensors"))[-1].unlink()


def another_config(source):
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rewritten, "was written in the meantime"),
        (another_config, "config.json was written in the meantime"),
        (gone, "No such file"),
    ],
)
def test_a_source_that_changes_under_the_run_ends_it_and_nothing_is_kept(
    source, plan, tmp_path, change, says
):
    """What is finished may be of the old bytes and the rest of the new."""
    changed = []

    def progress(count):
        if not changed:
            changed.append(change(source))

    with pytest.raises(MoegrowError, match=says):
        moegrow.apply(plan, tmp_path / "grown", progress=progress, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("call", ["preadv", "pwrite", "copy_file_range"])
def test_an_error_of_the_disk_is_one_message_that_names_the_file(
    source, plan, tmp_path, monkeypatch, call
):
    """Here in the middle, when some shards are finished: those are kept."""
    real, calls = getattr(os, call), []

    def broken(*arguments):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    def no(*arguments):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", no)
    monkeypatch.setattr(os, call, broken)
    size = {"max_shard_size": "20KB", "reflink": call == "copy_file_range"}
    if call == "copy_file_range":
        # Which of the two files it was the kernel does not say: reading by hand does.
        monkeypatch.setattr(os, "preadv", lambda *a: (_ for _ in ()).throw(OSError(5, "EIO")))
    with pytest.raises(MoegrowError, match=r"EIO|Input/output error") as failed:
        moegrow.apply(plan, tmp_path / "grown", threads=2, **size)
    reading = call != "pwrite"
    where = f"{source}/model-0" if reading else f"{tmp_path / 'grown.partial'}"
    assert f"writing {tmp_path / 'grown'} failed: {where}" in failed.value.message
    monkeypatch.undo()
    assert not [*tmp_path.rglob("*.tmp")]
    moegrow.apply(plan, tmp_path / "grown", resume=True, **size)
    assert moegrow.verify(tmp_path / "grown").ok


def test_every_file_and_both_folders_are_on_the_disk_before_the_command_ends(
    plan, tmp_path, monkeypatch
):
    synced, fsync = set(), os.fsync

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    moegrow.apply(plan, tmp_path / "grown", max_shard_size="100KB")
    expected = [tmp_path, tmp_path / "grown", *(tmp_path / "grown").iterdir()]
    assert [path.name for path in expected if path.stat().st_ino not in synced] == []


def test_progress_adds_up_to_the_bytes_of_all_tensors(plan, tmp_path):
    counts = []
    moegrow.apply(plan, tmp_path / "grown", progress=counts.append)
    assert sum(counts) == plan.nbytes


def test_an_existing_output_is_refused_without_force_and_replaced_with_it(source, tmp_path):
    grown = tmp_path / "grown"
    moegrow.apply(moegrow.depth(source), grown)
    before = alter.contents(grown)
    with pytest.raises(MoegrowError, match="exists already") as refused:
        moegrow.apply(moegrow.width(source), grown)
    assert "force=True" in refused.value.hint
    assert alter.contents(grown) == before
    (grown / ".DS_Store").write_text("x")
    moegrow.apply(moegrow.width(source), grown, force=True)
    assert moegrow.verify(grown).ok
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "grown"}


@pytest.mark.parametrize("added", ["notes.txt", "checkpoint-500/model.safetensors"])
def test_force_does_not_delete_what_was_added_to_a_result(source, tmp_path, added):
    grown = tmp_path / "grown"
    moegrow.apply(moegrow.depth(source), grown)
    (grown / added).parent.mkdir(exist_ok=True)
    (grown / added).write_text("precious")
    before = alter.contents(tmp_path)
    with pytest.raises(MoegrowError, match=f"holds {added}, which moegrow did not write"):
        moegrow.apply(moegrow.width(source), grown, force=True)
    assert alter.contents(tmp_path) == before


def test_a_failed_replacement_keeps_what_was_there(source, tmp_path, monkeypatch):
    grown = tmp_path / "grown"
    moegrow.apply(moegrow.depth(source), grown)
    before = alter.contents(grown)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MoegrowError):
        moegrow.apply(moegrow.width(source), grown, force=True)
    monkeypatch.undo()
    assert alter.contents(grown) == before
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "grown"}


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_force_replaces_only_what_moegrow_wrote(source, plan, tmp_path, kind):
    grown, other = tmp_path / "grown", tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("x")
    {
        "folder": lambda: shutil.copytree(other, grown),
        "file": lambda: grown.write_text("x"),
        "link": lambda: grown.symlink_to(other),
        "dangling link": lambda: grown.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    before = alter.contents(tmp_path)
    with pytest.raises(MoegrowError, match="was not written by moegrow"):
        moegrow.apply(plan, grown, force=True)
    assert alter.contents(tmp_path) == before


def test_an_empty_folder_may_be_filled_with_force(plan, tmp_path):
    (tmp_path / "grown").mkdir()
    moegrow.apply(plan, tmp_path / "grown", force=True)
    assert moegrow.verify(tmp_path / "grown").ok


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "place", ["qwen3_moe", "qwen3_moe/grown", ".", "link", "link/grown", "qwen3_moe/../qwen3_moe/x"]
)
def test_the_source_and_what_is_in_or_around_it_is_never_written(source, plan, place, force):
    (source.parent / "link").symlink_to(source)
    (source / PLAN).write_text("{}")
    before = alter.contents(source.parent)
    with pytest.raises(MoegrowError, match="the source"):
        moegrow.apply(plan, source.parent / place, force=force)
    assert alter.contents(source.parent) == before


@pytest.mark.parametrize("beside", ["grown.partial", "grown.replaced"])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_source_under_a_working_name_is_never_written(checkpoint, tmp_path, beside, is_link):
    source = tmp_path / beside
    shutil.copytree(checkpoint(), tmp_path / "real" if is_link else source)
    if is_link:
        source.symlink_to(tmp_path / "real")
    plan = moegrow.depth(source)
    before = alter.contents(source)
    for force in (False, True):
        with suppress(MoegrowError):
            moegrow.apply(plan, tmp_path / "grown", force=force)
        assert alter.contents(source) == before


def test_a_strangers_folder_under_the_working_name_is_not_emptied(plan, tmp_path):
    (tmp_path / "grown.partial").mkdir()
    (tmp_path / "grown.partial" / "precious").write_text("x")
    with suppress(MoegrowError):
        moegrow.apply(plan, tmp_path / "grown")
    assert (tmp_path / "grown.partial" / "precious").read_text() == "x"


def test_the_output_needs_a_folder_to_lie_in(plan, tmp_path):
    with pytest.raises(MoegrowError, match="is not a folder") as refused:
        moegrow.apply(plan, tmp_path / "a" / "b")
    assert "mkdir" in refused.value.hint
    assert not (tmp_path / "a").exists()


def test_results_are_named_after_what_was_done(checkpoint):
    def name(plan):
        return write_checkpoint.default_name(plan)

    source = checkpoint()
    assert name(moegrow.plan(source)) == "qwen3_moe-copy"
    assert name(moegrow.depth(source)) == "qwen3_moe-depth2x"
    assert name(moegrow.depth(source, to=6)) == "qwen3_moe-6layers"
    assert name(moegrow.width(source, experts="3x")) == "qwen3_moe-width3x"
    assert name(moegrow.width(source, experts=6)) == "qwen3_moe-6experts"
    assert name(moegrow.width(moegrow.depth(source))) == "qwen3_moe-depth2x-width2x"


def test_what_was_planned_is_kept_beside_the_weights(plan, tmp_path):
    moegrow.apply(plan, tmp_path / "grown")
    assert moegrow.plan(tmp_path / "grown" / PLAN) == plan
