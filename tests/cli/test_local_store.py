"""A folder whose files are links to another place: refused, or allowed by name."""

import shutil
import subprocess

import alter
import pytest

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.store import Access
from moegrow.errors import MoegrowError, UsageError


@pytest.fixture
def disks(checkpoint, tmp_path):
    """Two places outside: one with the weights, and one with everything else."""
    weights, rest = tmp_path / "disk1", tmp_path / "disk 2"
    weights.mkdir()
    rest.mkdir()
    for file in alter.copy(checkpoint(), tmp_path / "copied").iterdir():
        shutil.move(file, weights if file.suffix == ".safetensors" else rest)
    (rest / "tokenizer.json").write_text("{}")
    return weights, rest


@pytest.fixture
def farm(disks, tmp_path):
    """A folder of links to all of these files."""
    folder = tmp_path / "farm"
    folder.mkdir()
    for place in disks:
        for file in place.iterdir():
            (folder / file.name).symlink_to(file)
    return folder


def refused(source, says, **access):
    with pytest.raises(MoegrowError, match=says) as error:
        open_checkpoint(source, Access(**access))
    return error.value


def test_the_hint_of_a_refused_link_works_when_it_is_followed(run, farm, disks, tmp_path):
    options = []
    for _ in range(3):
        done = run("depth", farm, *options, "--plan", code=None)
        if done.returncode == 0:
            break
        typed = done.stderr.partition("--links-to ")[2].partition("; or")[0]
        shown = subprocess.run(
            ["sh", "-c", f"printf %s {typed}"], capture_output=True, text=True, check=True
        )
        options += ["--links-to", shown.stdout]
    assert set(options) == {"--links-to", *map(str, disks)}
    run("apply", *options, "-o", tmp_path / "out", stdin=done.stdout)
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
    run("verify", "out", *options)
    run("diff", farm, farm, *options)
    run("inspect", farm, *options)
    assert "leads out" in run("verify", "out", code=1).stderr


def test_the_verbs_of_python_take_the_folders_too(farm, disks, tmp_path):
    plan = moegrow.depth(farm, links_to=disks)
    moegrow.apply(plan, tmp_path / "out", links_to=disks)
    assert moegrow.verify(tmp_path / "out", links_to=disks).ok
    assert moegrow.open(farm, links_to=map(str, disks)).plan == moegrow.plan(farm, links_to=disks)


def test_only_the_named_folders_are_allowed(farm, disks, tmp_path):
    (tmp_path / "secret").write_text("key")
    (farm / "notes.txt").symlink_to(tmp_path / "secret")
    error = refused(farm, "secret", links_to=disks)
    assert f"links_to=['{tmp_path}']" in error.hint
    (farm / "notes.txt").unlink()
    open_checkpoint(farm, Access(links_to=disks))
    # A link within an allowed folder that leads on to elsewhere is not followed there.
    (disks[1] / "more.txt").symlink_to(tmp_path / "secret")
    (farm / "more.txt").symlink_to(disks[1] / "more.txt")
    refused(farm, "secret", links_to=disks)


def test_what_is_no_folder_is_wrong_usage(farm, tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        open_checkpoint(farm, Access(links_to=[tmp_path / "nothing"]))
    with pytest.raises(UsageError, match="this machine"):
        open_checkpoint("hf://org/name", Access(links_to=[tmp_path]))
