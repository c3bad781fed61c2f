"""An output that cannot get its name by renaming is refused before anything is written."""

import errno
import shutil
import subprocess
from contextlib import contextmanager

import alter
import pytest
from disks import mounted_on

import moegrow
from moegrow.files.mounts import is_mount, try_moving

SCRATCH = "-t", "tmpfs", "-o", "size=50m", "tmpfs"

pytestmark = pytest.mark.skipif(not shutil.which("mount"), reason="mount not found")


@pytest.fixture
def source(checkpoint):
    return checkpoint()


def test_a_folder_is_a_mount_point_where_something_is_mounted_on_it(tmp_path):
    folder, other = tmp_path / "a b\\c", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    assert not is_mount(folder)
    for how in (SCRATCH, ("--bind", str(other))):
        with mounted_on(folder, *how):
            assert is_mount(folder)
            assert not is_mount(folder.parent)
            (folder / "inside").mkdir()
            assert not is_mount(folder / "inside")
    assert not is_mount(folder)
    assert not is_mount(tmp_path / "missing")


@pytest.mark.parametrize("how", [SCRATCH, ("--bind", "other")])
@pytest.mark.parametrize("flags", [[], ["--force"], ["--dry-run"]])
def test_an_output_that_is_a_mount_point_is_refused_with_one_that_works(
    run, source, tmp_path, how, flags
):
    grown = tmp_path / "grown"
    grown.mkdir()
    (tmp_path / "other").mkdir()
    with mounted_on(grown, *(str(tmp_path / word) if word == "other" else word for word in how)):
        done = run("depth", source, "-o", grown, *flags, code=1)
        assert f"{grown} is a mount point" in done.stderr
        assert not [*grown.iterdir(), *tmp_path.glob("*.partial")]
        output = done.stderr.rpartition("give a folder on it: -o ")[2].strip()
        run("depth", source, "-o", output)
        assert moegrow.verify(output).ok
        # One that is complete is not going to be replaced.
        shutil.copytree(output, grown, dirs_exist_ok=True)
        shutil.rmtree(output)
        assert "complete already" in run("depth", source, "-o", grown, "--resume").stderr


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--shards", "1/1"]])
def test_a_working_folder_on_another_filesystem_is_refused_before_the_first_shard(
    run, source, tmp_path, flags
):
    plan = run("depth", source, "--plan").stdout
    working = tmp_path / "grown.partial"
    working.mkdir()
    with mounted_on(working, *SCRATCH):
        done = run("apply", "-o", "grown", *flags, stdin=plan, code=1)
        assert "a folder cannot be moved" in done.stderr
        assert "copied" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["grown.partial"]
        assert not [*working.rglob("*.safetensors")]


def test_a_folder_that_can_be_moved_stays_where_it_is(tmp_path):
    folder, full = tmp_path / "folder", tmp_path / "full"
    for path in (folder / "a", full / "b"):
        path.mkdir(parents=True)
    try_moving(folder, full)
    assert [*folder.iterdir(), *full.iterdir()] == [folder / "a", full / "b"]
    with pytest.raises(OSError, match="No such file"):
        try_moving(tmp_path / "missing", full)


@contextmanager
def overlaid(folder):
    """A folder whose contents so far lie in the lower layer of an overlay filesystem."""
    layers = folder.parent / "layers"
    with mounted_on(make(layers), *SCRATCH):
        upper, work = make(layers / "upper"), make(layers / "work")
        options = f"lowerdir={folder},upperdir={upper},workdir={work},redirect_dir=off"
        with mounted_on(folder, "-t", "overlay", "-o", options, "overlay"):
            yield


def make(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--shards", "1/1"]])
def test_an_old_result_that_an_overlay_cannot_move_is_found_before_the_first_shard(
    run, source, tmp_path, flags
):
    place = make(tmp_path / "my place")
    grown, plan = place / "grown", run("depth", source, "--plan").stdout
    run("width", source, "-o", grown)
    before = alter.contents(place)
    with overlaid(place):
        with pytest.raises(OSError, match="ross-device") as told:
            grown.rename(place / "other")
        assert told.value.errno == errno.EXDEV
        done = run("apply", "-o", grown, "--force", *flags, stdin=plan, code=1)
        assert f"{grown} cannot be moved aside" in done.stderr
        assert "copied" not in done.stderr
        assert alter.contents(place) == before
        # The hint works.
        command = done.stderr.rpartition("move it yourself: ")[2].partition("; run")[0]
        subprocess.run(command, shell=True, check=True)
        run("apply", "-o", grown, "--force", *flags, stdin=plan)
        assert moegrow.verify(grown).ok
        # What the overlay itself holds is replaced there.
        run("width", source, "-o", grown, "--force")
    assert alter.contents(place) == before


def test_a_working_folder_that_an_overlay_cannot_move_from_is_refused_before_more_is_written(
    run, source, tmp_path
):
    place = make(tmp_path / "place")
    plan = run("depth", source, "--plan").stdout
    size = ("--max-shard-size", "100KB")
    run("apply", "-o", place / "grown", *size, "--shards", "1/2", stdin=plan)
    with overlaid(place):
        done = run("apply", "-o", place / "grown", *size, "--resume", stdin=plan, code=1)
        assert "a folder cannot be moved" in done.stderr
        assert "copied" not in done.stderr
    run("apply", "-o", place / "grown", *size, "--resume", stdin=plan)
    assert moegrow.verify(place / "grown").ok
