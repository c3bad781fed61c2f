"""A run that was cut off is gone on with, and ends with the bytes of one that was not."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import alter
import pytest

import moegrow
from moegrow.checkpoint.side_files import DIGESTS, PLAN
from moegrow.checkpoint.store import CONFIG
from moegrow.errors import MoegrowError
from moegrow.write import work_dir, write_job

SIZE = "--max-shard-size", "40KB"  # of a big checkpoint this makes some forty files


def grow(source, *more):
    return ["width", source, "--noise", "0.01", *SIZE, "-o", "grown", "--threads", 3, "-q", *more]


def uninterrupted(run, tmp_path, *arguments):
    """The bytes of a result, and how long they took."""
    run("--version")  # by now whoever forks has imported everything
    began = time.perf_counter()
    run(*arguments)
    took = time.perf_counter() - began
    expected = alter.contents(tmp_path / "grown")
    shutil.rmtree(tmp_path / "grown")
    return expected, took


def await_(path):
    """Wait until there is a file or folder of that name."""
    for _ in range(10_000):
        if path.exists():
            return
        time.sleep(0.001)
    raise AssertionError(f"no {path}")


def kept_so_far(grown):
    """How many shards a run has finished so far; it may publish them at any moment."""
    with contextlib.suppress(FileNotFoundError):
        return work_dir.kept_of(grown)
    return 0


def check_what_a_dead_run_left(folder, expected):
    """Every file that has its name is complete, whatever moment it was killed at."""
    for path in (folder / work_dir.RESULT).glob("*"):
        if not path.name.endswith(".tmp"):
            assert path.read_bytes() == expected[path.name], path.name


def test_runs_killed_at_a_hundred_moments_end_with_the_same_bytes(big, begin, run, tmp_path):
    expected, took = uninterrupted(run, tmp_path, *grow(big))
    assert len(expected) > 30
    chance = random.Random(0)
    grown, working = tmp_path / "grown", tmp_path / "grown.partial"
    killed, finished, kept = 0, 0, set()
    for _ in range(400):
        if killed == 100:
            break
        process = begin(*grow(big, "--resume"))
        if not working.exists():
            await_(working)  # nothing is at stake before
        shards = kept_so_far(grown) + chance.randrange(12)
        deadline = time.monotonic() + 60
        while not grown.exists() and kept_so_far(grown) < shards:
            assert time.monotonic() < deadline
            time.sleep(took / 1000)
        time.sleep(chance.uniform(0, took / 20))
        process.kill()
        ended = process.end()
        if ended.returncode:
            assert ended.returncode == -signal.SIGKILL
            assert not grown.exists() or alter.contents(grown) == expected
            if working.exists():
                killed += 1
                check_what_a_dead_run_left(working, expected)
                kept.add(work_dir.kept_of(grown))
        if grown.exists():
            finished += 1
            assert alter.contents(grown) == expected
            shutil.rmtree(grown)
            shutil.rmtree(working, ignore_errors=True)
    run(*grow(big, "--resume"))
    assert alter.contents(grown) == expected
    assert moegrow.verify(grown).ok
    assert not working.exists()
    # They were killed with few shards finished and with many, and some went to the end.
    assert killed == 100
    assert len(kept) > 4
    assert finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_what_is_finished_and_says_how_to_go_on(
    big, begin, run, tmp_path, number
):
    expected, _ = uninterrupted(run, tmp_path, *grow(big))
    working, told = tmp_path / "grown.partial", []
    for moment in ("begun", "writing", "noted:4", "publishing"):
        shutil.rmtree(working, ignore_errors=True)
        process = begin(*grow(big, "--resume"), stop=moment)
        assert process.await_stop(), moment
        process.kill(number)
        ended = process.end()
        assert ended.returncode == 130
        assert ended.stderr.startswith("error: interrupted; nothing was published\nhint: ")
        assert len(ended.stderr.splitlines()) == 2
        assert not (tmp_path / "grown").exists()
        assert not [*tmp_path.rglob("*.tmp")]
        kept = work_dir.kept_of(tmp_path / "grown")
        assert working.exists() == bool(kept)
        if kept:
            check_what_a_dead_run_left(working, expected)
        if "go on with" in ended.stderr:  # and not stopped before it began to write
            assert kept
            told.append(ended.stderr.splitlines()[1])
    assert told
    hint, command = told[-1].split("; go on with: moegrow ")
    assert "finished shard" in hint
    run(*command.split())
    assert alter.contents(tmp_path / "grown") == expected
    assert not working.exists()


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def cut_off(source, tmp_path):
    """Cut a growth off when some shards are finished; gives the plan and the bytes it should have.

    It ends as a killed one does: nothing is tidied up.
    """

    def cut_off(plan, **settings):
        settings = {"max_shard_size": "20KB"} | settings
        (tmp_path / "whole").mkdir()
        moegrow.apply(plan, tmp_path / "whole" / "grown", **settings)
        process = os.fork()
        if not process:
            counts = []

            def progress(count):
                counts.append(count)
                while sum(counts) > 0.7 * plan.nbytes:  # what is complete is synced meanwhile
                    if work_dir.kept_of(tmp_path / "grown") > 3:
                        os._exit(0)
                    time.sleep(0.01)

            moegrow.apply(plan, tmp_path / "grown", threads=1, progress=progress, **settings)
            os._exit(1)
        assert os.waitpid(process, 0)[1] == 0
        assert not (tmp_path / "grown").exists()
        return alter.contents(tmp_path / "whole" / "grown")

    return cut_off


@pytest.fixture
def plan(source):
    return moegrow.width(source, noise=0.01)


def shards_of(folder):
    return sorted((folder / work_dir.RESULT).glob("*.safetensors"))


def test_finished_shards_are_kept_and_not_written_again(cut_off, plan, tmp_path):
    expected = cut_off(plan)
    working = tmp_path / "grown.partial"
    finished = {path.name: path.stat().st_ino for path in shards_of(working)}
    counts = []
    written = moegrow.apply(
        plan, tmp_path / "grown", resume=True, max_shard_size="20KB", progress=counts.append
    )
    assert written.kept == len(finished) > 3
    assert sum(counts) == plan.nbytes
    moved = written.moved
    assert moved.shared + moved.copied + moved.computed < plan.nbytes
    now = {name: (tmp_path / "grown" / name).stat().st_ino for name in finished}
    assert now == finished
    assert alter.contents(tmp_path / "grown") == expected
    assert not working.exists()


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("reflink", [False, True])
def test_it_may_be_gone_on_with_in_other_ways(cut_off, plan, tmp_path, threads, reflink):
    expected = cut_off(plan)
    moegrow.apply(
        plan, tmp_path / "grown", resume=True, max_shard_size="20KB", threads=threads,
        reflink=reflink,
    )  # fmt: skip
    assert alter.contents(tmp_path / "grown") == expected


@pytest.mark.parametrize("what", ["a computed byte", "the header", "the size", "the entry"])
def test_a_finished_shard_that_was_damaged_is_written_again_and_said(cut_off, plan, tmp_path, what):
    expected = cut_off(plan)
    working = tmp_path / "grown.partial"
    entry, shard = next(
        (json.loads(path.read_text()), path.with_suffix(""))
        for path in sorted((working / work_dir.JOURNAL).iterdir())
        if json.loads(path.read_text())["ranges"]
    )
    path = working / work_dir.RESULT / shard.name
    if what == "a computed byte":
        alter.flip(path, entry["ranges"][-1][1] - 1)
    elif what == "the header":
        alter.flip(path, 20)
    elif what == "the size":
        os.truncate(path, path.stat().st_size - 1)
    else:
        alter.flip(shard.with_name(f"{shard.name}.json"), -5)
    said = []
    moegrow.apply(plan, tmp_path / "grown", resume=True, max_shard_size="20KB", say=said.append)
    assert said == [f"{shard.name} was damaged after it was finished; it is written again"]
    assert alter.contents(tmp_path / "grown") == expected


def test_without_resume_finished_shards_are_not_lost_but_by_force(cut_off, plan, tmp_path):
    expected = cut_off(plan)
    before = alter.contents(tmp_path)
    with pytest.raises(MoegrowError, match=r"holds .* finished shards") as refused:
        moegrow.apply(plan, tmp_path / "grown", max_shard_size="20KB")
    assert "resume=True" in refused.value.hint
    assert "force=True" in refused.value.hint
    assert alter.contents(tmp_path) == before
    said = []
    moegrow.apply(plan, tmp_path / "grown", force=True, max_shard_size="20KB", say=said.append)
    assert "removed, as --force asks" in said[0]
    assert alter.contents(tmp_path / "grown") == expected


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"max_shard_size": "30KB"}, "begun with max_shard_size 20000, not 30000"),
        ({"digests": True}, "begun with digests False, not True"),
        ({"seed": 1}, "begun with another plan"),
        ({"version": "0.0.1"}, "begun with moegrow 0.1.0, not 0.0.1"),
        ({"change": alter.touch}, "was written to after .* was begun"),
    ],
)
def test_only_the_same_run_is_gone_on_with(
    cut_off, plan, source, tmp_path, monkeypatch, other, says
):
    cut_off(plan)
    other = {"max_shard_size": "20KB"} | other
    plan = moegrow.width(source, noise=0.01, seed=other.pop("seed", 0))
    if "version" in other:
        monkeypatch.setattr(write_job, "__version__", other.pop("version"))
    if "change" in other:
        other.pop("change")(source)
    before = alter.contents(tmp_path)
    with pytest.raises(MoegrowError, match=says) as refused:
        moegrow.apply(plan, tmp_path / "grown", resume=True, **other)
    assert "rm -r" in refused.value.hint
    assert alter.contents(tmp_path) == before


def test_what_is_no_shard_of_a_dead_run_does_not_reach_the_result(cut_off, plan, tmp_path):
    expected = cut_off(plan)
    working = tmp_path / "grown.partial"
    for name in ("model-00001-of-00099.safetensors", "x.tmp", "stale.txt", CONFIG):
        (working / work_dir.RESULT / name).write_text("x")
    moegrow.apply(plan, tmp_path / "grown", resume=True, max_shard_size="20KB")
    assert alter.contents(tmp_path / "grown") == expected


def test_there_may_be_nothing_to_go_on_with(plan, tmp_path):
    moegrow.apply(plan, tmp_path / "grown", resume=True)
    assert moegrow.verify(tmp_path / "grown").ok
    before = alter.contents(tmp_path)
    said = []
    written = moegrow.apply(plan, tmp_path / "grown", resume=True, say=said.append)
    assert said == [f"{tmp_path / 'grown'} is complete already"]
    assert written.kept == written.files
    assert alter.contents(tmp_path) == before
    with pytest.raises(MoegrowError, match="exists already"):
        moegrow.apply(moegrow.depth(plan), tmp_path / "grown", resume=True)


def test_a_run_killed_just_after_its_result_was_in_place_is_complete(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(work_dir.Partial, "remove", lambda self: None)
    moegrow.apply(plan, tmp_path / "grown")
    monkeypatch.undo()
    assert (tmp_path / "grown.partial").exists()
    moegrow.apply(plan, tmp_path / "grown", resume=True)
    assert not (tmp_path / "grown.partial").exists()
    assert moegrow.verify(tmp_path / "grown").ok


def test_a_replacement_is_gone_on_with_too(cut_off, source, plan, tmp_path):
    expected = cut_off(plan)
    shutil.rmtree(tmp_path / "whole")
    moegrow.apply(moegrow.depth(source), tmp_path / "other")
    # Killed between the two renames.
    (tmp_path / "other").rename(tmp_path / "grown.partial" / work_dir.REPLACED)
    moegrow.apply(plan, tmp_path / "grown", resume=True, force=True, max_shard_size="20KB")
    assert alter.contents(tmp_path / "grown") == expected
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "grown"}


def test_a_piped_plan_is_gone_on_with_by_the_same_pipe_or_by_what_the_hint_names(
    big, begin, run, tmp_path
):
    plan = run("depth", big, "--plan").stdout
    wider = ["width", "--noise", "0.01", *SIZE, "-o", "grown"]
    run(*wider, stdin=plan)
    expected = alter.contents(tmp_path / "grown")
    for way in ("pipe", "hint"):
        shutil.rmtree(tmp_path / "grown")
        process = begin(*wider, stdin=plan, stop="noted:4")
        assert process.await_stop()
        process.kill(signal.SIGINT)
        ended = process.end()
        hint = ended.stderr.splitlines()[-1]
        assert "; go on with: moegrow apply grown.partial/result/moegrow-plan.jsonl" in hint
        if way == "pipe":
            ended = run(*wider, "--resume", stdin=plan)
        else:
            ended = run(*hint.split("moegrow ", 1)[1].split())
        assert "that an earlier run had finished" in ended.stderr
        assert alter.contents(tmp_path / "grown") == expected


def test_whether_it_was_gone_on_with_is_not_in_the_result(big, run, tmp_path):
    run(*grow(big, "--resume"))
    assert "--resume" not in (tmp_path / "grown" / PLAN).read_text()
    assert "--resume" not in (tmp_path / "grown" / "README.md").read_text()
    assert (tmp_path / "grown" / DIGESTS).exists()


def test_resume_needs_something_to_write(run, big):
    ended = run("width", big, "--plan", "--resume", code=2)
    assert "--resume does not go with it" in ended.stderr
