"""On XFS and Btrfs, growth without noise takes no space: checked on real ones, in loop devices.

The images are made and mounted where the tests run as root and the programs for that are there;
elsewhere these tests are skipped, and test_engine.py has what can be tested without them.
"""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import disks
import pytest
import tiny
import torch
from safetensors import safe_open

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.kernels.reader import piece_range
from moegrow.planning.op import noise_of
from moegrow.write import direct_io

KINDS = ["xfs", "btrfs"]
IMAGE = 640 << 20  # the smallest that both will be made on, and room; nothing until it is written

SETTINGS = {
    "hidden_size": 256, "moe_intermediate_size": 512, "intermediate_size": 512, "num_experts": 8,
    "vocab_size": 4096, "head_dim": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(checkpoint) -> Path:
    """A checkpoint of some 30 MB in several files, with runs that are worth a file."""
    return checkpoint("qwen3_moe", dtype=torch.bfloat16, shard_size="12MB", **SETTINGS)


@pytest.fixture(scope="module", params=KINDS)
def disk(request, tmp_path_factory) -> Iterator[Path]:
    """An empty filesystem that shares blocks, gone afterwards."""
    with disks.mounted(tmp_path_factory.mktemp(request.param), request.param, size=IMAGE) as disk:
        yield disk


@pytest.fixture
def room(disk) -> Iterator[Path]:
    """A folder on the filesystem where nothing else is, emptied afterwards."""
    folder = disk / "here"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
    # Both free the space of what was removed a moment later.
    for _ in range(50):
        before = used(disk)
        time.sleep(0.1)
        if used(disk) == before:
            return


@pytest.fixture
def there(room, source) -> Path:
    """A folder on the filesystem that holds the source and nothing else."""
    shutil.copytree(source, room / source.name)
    return room


def used(folder: Path) -> int:
    """Bytes in use on the filesystem of a folder, after all has been written to it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # os.sync would wait for whatever else the machine has to write.
        assert not ctypes.CDLL(None).syncfs(descriptor)
        found = os.fstatvfs(descriptor)
    finally:
        os.close(descriptor)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.fixture
def grow(run) -> Callable[..., tuple[int, str]]:
    """Run moegrow in a folder; gives the bytes newly used there and what it printed."""

    def grow(folder: Path, *arguments: object, stdin: str = "") -> tuple[int, str]:
        before = used(folder)
        done = run(*arguments, cwd=folder, stdin=stdin)
        return used(folder) - before, done.stdout

    return grow


def bytes_of(folder: Path) -> int:
    return open_checkpoint(folder).nbytes


def same_tensors(a: Path, b: Path) -> bool:
    one, other = tiny.tensors(a), tiny.tensors(b)
    return one.keys() == other.keys() and all(tiny.same_bytes(one[n], other[n]) for n in one)


def blocks_for(folder: Path) -> int:
    """What a result without one shared block behind its ends may take.

    Each file has a header and at most two blocks at the ends of each run of tensors; a router or
    norm that breaks runs is copied, as are files beside the weights. Filesystems need some blocks
    to say what is shared.
    """
    others = sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".safetensors")
    return others + 8 * 4096 * sum(1 for _ in folder.iterdir())


def check(grow, folder: Path, command: str, elsewhere: Path, source: Path) -> Path:
    """Hold a result against the plan, the library, and the same command run elsewhere."""
    grown = folder / "grown"
    grow(folder, "verify", "grown")
    twin = elsewhere / "elsewhere"
    shutil.copytree(source, elsewhere / source.name)
    grow(elsewhere, *command.split(), "-o", twin)
    assert same_tensors(grown, twin)
    # Where the files were written makes no difference to them either.
    for file in twin.glob("*.safetensors"):
        assert (grown / file.name).read_bytes() == file.read_bytes()
    tiny.load(grown)
    return grown


@pytest.mark.parametrize(
    "command",
    ["depth {}", "depth {} --mode stack", "depth {} --to 7", "width {} --noise 0",
     "width {} --noise 0 --experts 3x"],
)  # fmt: skip
def test_growth_without_noise_takes_no_space(grow, there, source, tmp_path, command):
    command = command.format(source.name)
    space, _ = grow(there, *command.split(), "-o", "grown")
    grown = check(grow, there, command, tmp_path, source)
    assert bytes_of(grown) > 1.5 * bytes_of(source) > 40 << 20
    assert space < blocks_for(grown)
    assert space < 0.01 * bytes_of(grown)


def test_what_is_shared_is_the_sources_own(grow, there, source):
    """Each tensor of the result is a tensor of the source, and neither changes with the other."""
    grow(there, "depth", source.name, "-o", "grown")
    old, new = tiny.tensors(source), tiny.tensors(there / "grown")
    for name, tensor in new.items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        first = name.replace(f"layers.{layer}.", f"layers.{int(layer) // 2}.") if layer else name
        assert tiny.same_bytes(tensor, old[first])
    for file in (there / source.name).glob("*.safetensors"):
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 2)
            opened.write(bytes(100_000))
    found = tiny.tensors(there / "grown")
    assert all(tiny.same_bytes(new[name], found[name]) for name in new)


def test_noise_takes_the_space_of_the_new_experts(grow, there, source, tmp_path):
    command = f"width {source.name} --noise 0.01 --seed 5"
    space, _ = grow(there, *command.split(), "-o", "grown")
    grown = check(grow, there, command, tmp_path, source)
    new = bytes_of(grown) - bytes_of(source)
    assert new <= space < new + blocks_for(grown)


def test_both_axes_in_one_pass_take_the_space_of_what_is_new(grow, there, source, tmp_path):
    _, plan = grow(there, "depth", source.name, "--plan")
    space, _ = grow(there, "width", "-", "--noise", "0.01", "-o", "grown", stdin=plan)
    grown = there / "grown"
    drawn = sum(
        output.nbytes // output.rows * (piece.stop - piece.start)
        for output in moegrow.plan(grown / "moegrow-plan.jsonl").outputs
        for piece in output.pieces
        if not piece.is_copy
    )
    assert drawn > bytes_of(grown) / 3
    assert space < drawn + blocks_for(grown)
    grow(there, "verify", "grown")
    plan = moegrow.width(moegrow.depth(source), noise=0.01)
    moegrow.apply(plan, tmp_path / "elsewhere")
    assert same_tensors(grown, tmp_path / "elsewhere")
    tiny.load(grown)


def test_a_plan_that_is_written_twice_takes_no_more_space(grow, there, source):
    grow(there, "depth", source.name, "-o", "first")
    space, _ = grow(there, "apply", "first/moegrow-plan.jsonl", "-o", "second")
    assert space < blocks_for(there / "second")


def test_what_was_grown_grows_on_without_space(grow, there, source):
    grow(there, "depth", source.name, "-o", "first")
    space, _ = grow(there, "width", "first", "--noise", "0", "-o", "second")
    assert space < 0.01 * bytes_of(there / "second")
    grow(there, "verify", "second")


@pytest.mark.parametrize("command", ["depth {}", "width {} --noise 0"])
def test_real_copies_take_the_space_of_the_result(grow, there, source, command):
    command = command.format(source.name)
    grow(there, *command.split(), "-o", "shared")
    space, _ = grow(there, *command.split(), "--no-reflink", "-o", "copied")
    assert space >= bytes_of(there / "copied")
    for file in (there / "shared").glob("*.safetensors"):
        assert (there / "copied" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("size", ["1MB", "8MB"])
def test_small_files_are_shared_too(grow, there, source, size):
    space, _ = grow(there, "depth", source.name, "--max-shard-size", size, "-o", "grown")
    grow(there, "verify", "grown")
    # The rest of each run is copied where it is less than a MiB: one in each of these few files.
    # Headers and what the filesystem itself writes down come on top of that.
    assert space < 0.1 * bytes_of(there / "grown")


def test_the_bytes_lie_where_those_of_the_source_do(grow, there, source):
    """The disk's own word for it: the extents of copied tensors are marked as shared."""
    if not shutil.which("filefrag"):
        pytest.skip("filefrag not found")
    grow(there, "depth", source.name, "-o", "grown")
    os.sync()
    shared = 0
    for file in (there / "grown").glob("*.safetensors"):
        told = subprocess.run(
            ["filefrag", "-v", "-b4096", file], capture_output=True, text=True, check=True
        ).stdout
        for line in told.splitlines():
            if "shared" in line:
                shared += int(line.split(":")[3]) * 4096
    assert shared > 0.99 * bytes_of(there / "grown")


def test_a_source_on_another_filesystem_is_copied(room, source):
    target, before = room / "grown", used(room)
    moved = moegrow.apply(moegrow.depth(source), target).moved
    assert moved.shared == 0
    assert moved.read == bytes_of(source)
    assert used(room) - before >= bytes_of(target)
    assert moegrow.verify(target).ok


def test_what_was_moved_is_told_as_it_was(there, source):
    plan = moegrow.width(there / source.name, noise=0.01)
    moved = moegrow.apply(plan, there / "grown").moved
    assert moved.shared > 0.99 * bytes_of(source)
    assert moved.computed >= 0.99 * (plan.nbytes - bytes_of(source))
    assert moved.shared + moved.copied + moved.computed == plan.nbytes
    # What noise is added to is read, and no more than the ends of what is shared.
    store = open_checkpoint(there / source.name)
    changed = {
        piece_range(store.tensors[piece.source], piece)
        for output in plan.outputs
        for piece in output.pieces
        if noise_of(piece.op)
    }
    assert moved.read < sum(stop - start for start, stop in changed) + (1 << 20)
    with safe_open(next((there / "grown").glob("*.safetensors")), "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_noise_past_the_cache_beside_shared_blocks_is_what_it_is_elsewhere(
    there, source, tmp_path, monkeypatch
):
    shared = moegrow.apply(
        moegrow.width(moegrow.depth(there / source.name), noise=0.01), tmp_path / "elsewhere"
    )
    monkeypatch.setattr(direct_io, "SMALLEST", 0)
    here = moegrow.apply(
        moegrow.width(moegrow.depth(there / source.name), noise=0.01), there / "grown"
    )
    assert here.moved.shared > here.moved.computed > 0 == shared.moved.shared
    assert same_tensors(there / "grown", tmp_path / "elsewhere")
    assert here.verify().ok
