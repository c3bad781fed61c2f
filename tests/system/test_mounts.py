"""An output that cannot get its name by renaming is refused before anything is written."""

import shutil

import pytest
from disks import mounted_on

import moegrow
from moegrow.files.mounts import is_mount

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
