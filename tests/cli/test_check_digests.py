"""A result is held against its own digests where its source is gone."""

import random
import shutil

import alter
import pytest

import moegrow
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.write.digests import read_digests


@pytest.fixture(scope="module", params=["computed", "everything"])
def pristine(checkpoint, tmp_path_factory, request):
    """A result whose source is gone."""
    folder = tmp_path_factory.mktemp(request.param)
    source = alter.copy(checkpoint("qwen2_moe", fused=True), folder)
    (source / "tokenizer.json").write_text('{"a": 1}')
    plan = moegrow.width(moegrow.depth(source, new_layers="identity"), noise=0.01)
    digests = request.param == "everything"
    moegrow.apply(plan, folder / "grown", max_shard_size="100KB", digests=digests)
    source.rename(folder / "moved")
    return folder / "grown"


@pytest.fixture
def grown(pristine, tmp_path):
    return alter.copy(pristine, tmp_path)


def test_what_can_be_checked_is_and_the_rest_is_said(pristine, run):
    found = moegrow.verify(pristine)
    kept = read_digests(pristine / DIGESTS)
    assert found.ok
    assert found.gone
    assert found.copied == found.drawn == 0
    assert found.held + found.unchecked == open_checkpoint(pristine).nbytes
    assert bool(found.unchecked) != kept.everything
    told = run("verify", pristine).stderr
    assert "is as planned, as far as that shows without its source" in told
    assert ("not checked: " in told) != kept.everything
    counts = []
    moegrow.verify(pristine, progress=counts.append, threads=3)
    assert sum(counts) == found.held


def test_with_the_source_at_its_new_place_everything_is_checked(pristine):
    found = moegrow.verify(pristine, pristine.parent / "moved")
    assert found.ok
    assert not found.gone
    assert found.unchecked == 0


def test_every_flipped_byte_that_has_a_digest_is_found(grown, run):
    chance = random.Random(2)
    kept = read_digests(grown / DIGESTS)
    places = [
        (entry.name, chance.randrange(part.start, part.stop))
        for entry in kept.entries
        for part in chance.sample(entry.ranges, min(4, len(entry.ranges)))
    ]
    specs = open_checkpoint(grown).tensors.values()
    for entry in kept.entries[:4]:
        header = min(spec.start for spec in specs if spec.file == entry.name)
        places += [(entry.name, chance.randrange(header)) for _ in range(3)]
    for name in (CONFIG, INDEX, PLAN, DIGESTS, "README.md", "tokenizer.json"):
        size = (grown / name).stat().st_size
        places += [(name, chance.randrange(size)) for _ in range(6)]
    assert len(places) > 50
    for name, byte in places:
        content = (grown / name).read_bytes()
        alter.flip(grown / name, byte, 1 + chance.randrange(255))
        found = moegrow.verify(grown)
        assert not found.ok, (name, byte)
        tensor = [s.name for s in specs if s.file == name and s.start <= byte < s.stop]
        assert any((tensor or [name])[0] in problem for problem in found.problems) or name == INDEX
        (grown / name).write_bytes(content)
    assert moegrow.verify(grown).ok
    alter.flip(grown / "README.md", 3)
    assert "README.md is not as it was written" in run("verify", grown, code=1).stderr


def test_missing_files_are_found(grown):
    for name in ("README.md", DIGESTS, "tokenizer.json"):
        content = (grown / name).read_bytes()
        (grown / name).unlink()
        assert f"{name} is missing" in moegrow.verify(grown).problems
        (grown / name).write_bytes(content)
    next(grown.glob("*.safetensors")).unlink()
    assert not moegrow.verify(grown).ok


def test_digests_that_name_files_elsewhere_are_not_followed(grown, tmp_path):
    (tmp_path / "secret").write_text("x")
    kept = read_digests(grown / DIGESTS)
    for name in ("../secret", str(tmp_path / "secret")):
        files = {**kept.files, name: "0" * 64}
        (grown / DIGESTS).write_text(kept.__class__(kept.everything, files, kept.entries).text())
        assert f"{name} is not in the folder" in moegrow.verify(grown).problems


def test_a_source_that_is_there_but_another_is_still_refused(pristine, grown, checkpoint, run):
    other = shutil.copytree(checkpoint(), grown.parent / "other")
    assert "has changed since" in run("verify", grown, "--source", other, code=1).stderr
    assert "does not exist" in run("verify", grown, "--source", "nowhere", code=1).stderr
