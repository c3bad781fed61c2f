"""Any number of processes write parts of a result, with the bytes that one would have written."""

import fcntl
import json
import os
import random
import shutil
import signal
import time

import alter
import pytest

import moegrow
from moegrow.checkpoint.side_files import PLAN
from moegrow.errors import MoegrowError, UsageError
from moegrow.write import run_job, work_dir
from moegrow.write.work_dir import OWNER, Partial, kept_of, partial_of
from moegrow.write.work_dir_lock import locked
from moegrow.write.write_job import Part

SIZE = "--max-shard-size", "40KB"  # of a big checkpoint this makes some forty files


@pytest.fixture
def expected(big, run, tmp_path):
    """The plan lies in plan.jsonl; gives the bytes that one process makes of it."""
    (tmp_path / "plan.jsonl").write_text(run("width", big, "--plan").stdout)
    run("apply", "plan.jsonl", "-o", "grown", *SIZE)
    expected = alter.contents(tmp_path / "grown")
    assert len(expected) > 30
    shutil.rmtree(tmp_path / "grown")
    return expected


def count(expected):
    """How many shards there are."""
    return sum(name.endswith(".safetensors") for name in expected)


def task(wish, *more):
    return ["apply", "plan.jsonl", "-o", "grown", *SIZE, "--shards", wish, *more]


def test_parts_begun_at_the_same_moment_are_published_by_the_last(expected, begin, tmp_path):
    for many in (2, 3, 5, 7):
        begun = [begin(*task(f"{k}/{many}")) for k in range(1, many + 1)]
        ended = [process.end() for process in begun]
        assert [it.returncode for it in ended] == [0] * many, ended
        assert sum(it.stdout == "grown\n" for it in ended) == 1
        assert {it.stdout for it in ended} <= {"grown\n", ""}
        assert alter.contents(tmp_path / "grown") == expected
        assert not (tmp_path / "grown.partial").exists()
        shutil.rmtree(tmp_path / "grown")


def moment(chance):
    """One of the moments at which a part can be killed, early and late ones."""
    ones = ("begun", "publishing", *(f"noted:{n}" for n in range(1, 9)), "writing", "writing:30")
    return chance.choice(ones)


def test_parts_in_any_order_killed_at_any_moment_and_run_again_make_the_same_bytes(
    expected, begin, run, tmp_path
):
    chance = random.Random(0)
    grown, killed, rounds = tmp_path / "grown", 0, 0
    while killed < 60:
        many = chance.choice([2, 4, 6])
        while not grown.exists():
            # Some parts twice, and not always all of them.
            wishes = [f"{k}/{many}" for k in range(1, many + 1)] + [f"1/{many}"]
            chance.shuffle(wishes)
            doomed = set(chance.sample(range(len(wishes)), chance.randint(0, many)))
            begun = [
                begin(*task(wish), stop=moment(chance) if number in doomed else "")
                for number, wish in enumerate(wishes)
            ]
            # One that has stopped may hold the folder, for which others wait.
            waiting = [begun[number] for number in doomed]
            while waiting:
                for process in [*waiting]:
                    if process.state() in "TZX":
                        process.kill()
                        waiting.remove(process)
                time.sleep(0.001)
            for process in begun:
                ended = process.end()
                assert ended.returncode in (0, -signal.SIGKILL), ended
                killed += ended.returncode != 0
            rounds += 1
            for path in (partial_of(grown) / work_dir.RESULT).glob("*"):
                if not path.name.endswith(".tmp"):
                    assert path.read_bytes() == expected[path.name], path.name
            if kept_of(grown) == count(expected):
                # Whoever would have published was killed.
                run("apply", "plan.jsonl", "-o", "grown", *SIZE, "--finish")
        assert alter.contents(grown) == expected
        shutil.rmtree(grown)
        shutil.rmtree(partial_of(grown), ignore_errors=True)
    assert rounds > 10


def test_a_result_may_be_written_in_parts_of_several_sizes(expected, run, tmp_path):
    for wish in ("2/3", "1/4", "900/1000", "1/1"):
        run(*task(wish))
    assert alter.contents(tmp_path / "grown") == expected


def test_a_part_that_is_run_again_writes_nothing_again(expected, run, tmp_path):
    first = run(*task("2/3"))
    shards = sorted((tmp_path / "grown.partial" / work_dir.RESULT).glob("*.safetensors"))
    before = [path.stat().st_ino for path in shards]
    again = run(*task("2/3"))
    assert [path.stat().st_ino for path in shards] == before
    total = count(expected)
    assert f"{total - len(shards)} of {total} shards still missing" in first.stderr
    assert first.stderr.splitlines()[-1] == again.stderr.splitlines()[-1]
    assert f"its {len(shards)} shards were finished before" in again.stderr
    assert (first.stdout, again.stdout) == ("", "")


def test_the_commands_in_a_result_do_not_say_how_many_wrote_it(expected, run, tmp_path):
    for wish in ("--shards=1/2", "--shards=2/2"):
        run("apply", "plan.jsonl", "-o", "grown", *SIZE, wish, "--resume")
    assert "--shards" not in (tmp_path / "grown" / PLAN).read_text()
    assert alter.contents(tmp_path / "grown") == expected


def test_a_part_that_comes_late_finds_the_result_complete(expected, run, tmp_path):
    for wish in ("1/2", "2/2"):
        run(*task(wish))
    before = alter.contents(tmp_path)
    for more in ([], ["--force"], ["--resume", "--json"]):
        ended = run(*task("1/2", *more))
        assert "is complete already" in ended.stderr
    assert json.loads(ended.stdout)["published"]
    assert run("apply", "plan.jsonl", "-o", "grown", "--finish").stdout == "grown\n"
    assert alter.contents(tmp_path) == before


def test_finish_publishes_what_is_whole_and_otherwise_names_the_parts(
    expected, begin, run, tmp_path
):
    finish = "apply", "plan.jsonl", "-o", "grown", *SIZE, "--finish"
    assert "no part of" in run(*finish, code=1).stderr
    assert not (tmp_path / "grown.partial").exists()
    for wish in ("2/5", "4/5"):
        run(*task(wish))
    before = alter.contents(tmp_path)
    ended = run(*finish, code=1)
    assert ended.stdout == ""
    assert "shards are missing: 1,3,5-6,8,10-11" in ended.stderr
    assert "hint: write them with --shards K/5 for K = 1,3,5" in ended.stderr
    assert "--shards K/5 for K = 1,3,5" in run(*finish, "--dry-run").stderr
    assert alter.contents(tmp_path) == before
    for wish in ("1/5", "3/5"):
        run(*task(wish))
    assert "hint: write them with --shards 5/5\n" in run(*finish, code=1).stderr
    # The last part is killed when all its shards are there, before it publishes them.
    process = begin(*task("5/5"), stop="publishing")
    assert process.await_stop()
    assert kept_of(tmp_path / "grown") == count(expected)
    process.kill()
    assert process.end().returncode == -signal.SIGKILL
    assert run(*finish).stdout == "grown\n"
    assert alter.contents(tmp_path / "grown") == expected


def test_one_process_goes_on_with_what_parts_began_and_they_with_what_it_began(
    expected, begin, run, tmp_path
):
    run(*task("2/3"))
    refused = run("apply", "plan.jsonl", "-o", "grown", *SIZE, code=1)
    assert "--resume goes on with it" in refused.stderr
    run("apply", "plan.jsonl", "-o", "grown", *SIZE, "--resume")
    assert alter.contents(tmp_path / "grown") == expected
    shutil.rmtree(tmp_path / "grown")
    process = begin("apply", "plan.jsonl", "-o", "grown", *SIZE, stop="noted:4")
    assert process.await_stop()
    assert kept_of(tmp_path / "grown")
    process.kill()
    assert process.end().returncode == -signal.SIGKILL
    ended = run("apply", "plan.jsonl", "-o", "grown", *SIZE, "--finish", code=1)
    assert "--resume writes them" in ended.stderr
    for wish in ("1/2", "2/2"):
        run(*task(wish))
    assert alter.contents(tmp_path / "grown") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_part_that_is_stopped_says_so_and_leaves_the_others_alone(
    expected, begin, run, tmp_path, number
):
    run(*task("1/2"))
    kept = kept_of(tmp_path / "grown")
    process = begin(*task("2/2", "--threads", 1), stop="writing")
    assert process.await_stop()
    assert [*tmp_path.rglob("*.tmp")]
    process.kill(number)
    ended = process.end()
    assert ended.returncode == 130
    assert "error: interrupted; nothing was published\nhint: " in ended.stderr
    assert "finished shards kept; run the command again" in ended.stderr
    assert kept_of(tmp_path / "grown") >= kept
    assert not [*tmp_path.rglob("*.tmp")]
    run(*task("2/2"))
    assert alter.contents(tmp_path / "grown") == expected


@pytest.mark.parametrize(
    "wish", ["0/16", "17/16", "-1/2", "1/0", "3", "a/b", "1/2/3", "1.5/2", "1/100001", "", "٣/٤"]
)
def test_a_part_that_is_none_is_refused(run, checkpoint, tmp_path, wish):
    (tmp_path / "plan.jsonl").write_text(run("width", checkpoint(), "--plan").stdout)
    done = run("apply", "plan.jsonl", "-o", "grown", f"--shards={wish}", code=2)
    assert "is no part" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["plan.jsonl"]


def test_a_part_and_the_end_do_not_go_together(run, checkpoint, tmp_path):
    (tmp_path / "plan.jsonl").write_text(run("width", checkpoint(), "--plan").stdout)
    done = run("apply", "plan.jsonl", "--shards", "1/2", "--finish", code=2)
    assert "--shards does not go with it" in done.stderr


# From here to the next comment: as functions, in this process.


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def plan(source):
    return moegrow.width(source, noise=0.01)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "grown"


SMALL = {"max_shard_size": "20KB"}


def whole(plan, tmp_path):
    (tmp_path / "whole").mkdir()
    moegrow.apply(plan, tmp_path / "whole" / "grown", **SMALL)
    return alter.contents(tmp_path / "whole" / "grown")


def test_python_has_parts_too(plan, target, tmp_path):
    expected = whole(plan, tmp_path)
    first = moegrow.apply(plan, target, part=(1, 3), **SMALL)
    assert (first.is_published, first.part, first.kept) == (False, Part(1, 3), 0)
    assert 2 in first.missing
    assert 4 not in first.missing
    assert not target.exists()
    second = moegrow.apply(plan, target, part="2/3", **SMALL)
    assert set(second.missing) == {number for number in first.missing if number % 3 != 2}
    with pytest.raises(MoegrowError, match="cannot be published") as refused:
        moegrow.apply(plan, target, finish=True, **SMALL)
    assert refused.value.hint == "write them with part='3/3'"
    last = moegrow.apply(plan, target, part=(3, 3), **SMALL)
    assert (last.is_published, last.missing) == (True, ())
    assert first.files + second.files + last.files == len([*target.glob("*.safetensors")])
    assert first.nbytes + second.nbytes + last.nbytes == plan.nbytes
    assert alter.contents(target) == expected
    with pytest.raises(UsageError, match="part='4/3' is no part"):
        moegrow.apply(plan, tmp_path / "other", part=(4, 3))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"max_shard_size": "30KB"}, "begun with max_shard_size 20000, not 30000"),
        ({"digests": True}, "begun with digests False, not True"),
        ({"seed": 1}, "begun with another plan"),
        ({"change": alter.touch}, "was written to after .* was begun"),
    ],
)
@pytest.mark.parametrize("how", [{"part": (2, 3)}, {"finish": True}])
def test_only_parts_of_the_same_result_go_together(
    plan, source, target, tmp_path, other, says, how
):
    moegrow.apply(plan, target, part=(1, 3), **SMALL)
    other = SMALL | other
    plan = moegrow.width(source, noise=0.01, seed=other.pop("seed", 0))
    if "change" in other:
        other.pop("change")(source)
    before = alter.contents(tmp_path)
    with pytest.raises(MoegrowError, match=says):
        moegrow.apply(plan, target, **how, **other)
    assert alter.contents(tmp_path) == before


def test_a_part_of_another_result_is_refused_while_the_first_has_nothing_finished(plan, target):
    with locked(target) as alone:
        pass
    moegrow.apply(plan, target, part=(1, 3), **SMALL)
    for path in (alone.folder / work_dir.JOURNAL).iterdir():
        path.unlink()
    with (
        locked(target, shared=True),
        pytest.raises(MoegrowError, match="begun with max_shard_size 20000, not 30000"),
    ):
        moegrow.apply(plan, target, part=(2, 3), max_shard_size="30KB")
    # It has ended, and what it left is worth nothing.
    moegrow.apply(plan, target, part=(1, 1), max_shard_size="30KB")
    assert moegrow.verify(target).ok


def test_force_replaces_an_older_result_and_never_what_goes_together(plan, source, target):
    moegrow.apply(moegrow.depth(source), target)
    with pytest.raises(MoegrowError, match="exists already"):
        moegrow.apply(plan, target, part=(1, 2), **SMALL)
    first = moegrow.apply(plan, target, part=(1, 2), force=True, **SMALL)
    again = moegrow.apply(plan, target, part=(1, 2), force=True, **SMALL)
    assert (again.kept, again.missing) == (first.files, first.missing)
    said = []
    moegrow.apply(plan, target, part=(1, 2), force=True, max_shard_size="30KB", say=said.append)
    assert said == [
        f"{partial_of(target)} holds {first.files} finished shards of a run that did not end:"
        " removed, as --force asks"
    ]
    last = moegrow.apply(plan, target, part=(2, 2), force=True, max_shard_size="30KB")
    assert last.is_published
    assert moegrow.verify(target).ok
    assert not partial_of(target).exists()


def test_damage_is_found_before_the_result_is_published(plan, target, tmp_path):
    expected = whole(plan, tmp_path)
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    journal = partial_of(target) / work_dir.JOURNAL
    entries = [json.loads(path.read_text()) for path in sorted(journal.iterdir())]
    entry = next(entry for entry in entries if entry["ranges"])
    alter.flip(partial_of(target) / work_dir.RESULT / entry["shard"], entry["ranges"][0][0])
    said = []
    with pytest.raises(MoegrowError, match=r"1 of .* shards are missing") as refused:
        moegrow.apply(plan, target, part=(2, 2), say=said.append, **SMALL)
    assert refused.value.hint == "write them with part='1/2'"
    told = f"{entry['shard']} was damaged after it was finished; it must be written again"
    assert told in said
    assert not target.exists()
    assert moegrow.apply(plan, target, part=(1, 2), **SMALL).is_published
    assert alter.contents(target) == expected


def test_a_part_finds_damage_in_its_own_shards_and_writes_them_again(plan, target, tmp_path):
    expected = whole(plan, tmp_path)
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    shard = next((partial_of(target) / work_dir.RESULT).glob("*.safetensors"))
    os.truncate(shard, 5)
    said = []
    moegrow.apply(plan, target, part=(1, 2), say=said.append, **SMALL)
    assert said == [f"{shard.name} was damaged after it was finished; it is written again"]
    moegrow.apply(plan, target, part=(2, 2), **SMALL)
    assert alter.contents(target) == expected


def test_a_source_that_changes_while_a_part_is_written_spoils_the_result(plan, source, target):
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    counts = []

    def progress(count):
        if not counts:
            alter.touch(source)
        counts.append(count)

    with pytest.raises(MoegrowError, match="was changed while it was read"):
        moegrow.apply(plan, target, part=(2, 2), progress=progress, **SMALL)
    with pytest.raises(MoegrowError, match="was written to after"):
        moegrow.apply(plan, target, finish=True, **SMALL)
    assert not target.exists()


def test_a_part_that_fails_with_nothing_finished_leaves_nothing(plan, target, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_job.engine, "fill", full)
    with pytest.raises(MoegrowError, match="No space left"):
        moegrow.apply(plan, target, part=(1, 2), **SMALL)
    assert not partial_of(target).exists()


def test_a_part_waits_for_one_that_begins_and_not_for_ever(plan, target, holder, monkeypatch):
    alone, said = holder("alone"), []
    monkeypatch.setattr(run_job.time, "sleep", lambda seconds: alone.communicate())
    moegrow.apply(plan, target, part=(1, 2), say=said.append, **SMALL)
    assert said == ["another moegrow holds the working folder: waiting for it"]
    holder("alone")
    monkeypatch.setattr(run_job, "PATIENCE", -1)
    with pytest.raises(MoegrowError, match="another moegrow is writing"):
        moegrow.apply(plan, target, part=(2, 2), **SMALL)


def test_what_another_process_publishes_is_left_to_it(plan, target, holder):
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    mate = holder("shared")
    last = moegrow.apply(plan, target, part=(2, 2), **SMALL)
    assert (last.is_published, last.missing) == (False, ())
    mate.communicate()
    publisher = holder("alone")
    again = moegrow.apply(plan, target, part=(2, 2), **SMALL)
    assert (again.is_published, again.missing) == (False, ())
    publisher.communicate()
    assert moegrow.apply(plan, target, finish=True, **SMALL).is_published
    assert moegrow.verify(target).ok


def test_what_is_finished_just_before_a_part_leaves_is_published_by_it(plan, target, monkeypatch):
    """Each of two held the folder when the other looked whether it was the last."""
    real, others = Partial.missing, []

    def missing(self, files):
        found = real(self, files)
        if not others:
            others.append(None)
            others[:] = [moegrow.apply(plan, target, part=(2, 2), **SMALL)]
        return found

    monkeypatch.setattr(Partial, "missing", missing)
    last = moegrow.apply(plan, target, part=(1, 2), **SMALL)
    assert [(it.is_published, it.missing) for it in (*others, last)] == [(False, ()), (True, ())]
    assert moegrow.verify(target).ok
    assert not partial_of(target).exists()


def test_two_that_publish_at_once_do_so_once(plan, target, monkeypatch):
    """Both found all shards finished; the other was quicker."""
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    real = run_job.locked

    def late(where, *, shared=False):
        if not shared:
            monkeypatch.setattr(run_job, "locked", real)
            assert moegrow.apply(plan, target, finish=True, **SMALL).is_published
        return real(where, shared=shared)

    monkeypatch.setattr(run_job, "locked", late)
    last = moegrow.apply(plan, target, part=(2, 2), **SMALL)
    assert (last.is_published, last.missing) == (False, ())
    assert moegrow.verify(target).ok
    assert not partial_of(target).exists()


def test_parts_work_where_there_are_no_locks(plan, target, tmp_path, monkeypatch):
    expected = whole(plan, tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no")))
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    folder = partial_of(target)
    assert not [*folder.glob(f"{OWNER}*")]
    # A part that another machine writes is in nobody's way, but for who wants to publish.
    mate = folder / f"{OWNER}-elsewhere-1-00000000"
    mate.write_text("elsewhere 1")
    last = moegrow.apply(plan, target, part=(2, 2), **SMALL)
    assert (last.is_published, last.missing) == (False, ())
    with pytest.raises(MoegrowError, match="process 1 on elsewhere is writing") as refused:
        moegrow.apply(plan, target, finish=True, **SMALL)
    assert f"rm {mate}" in refused.value.hint
    mate.unlink()
    moegrow.apply(plan, target, finish=True, **SMALL)
    assert alter.contents(target) == expected
    assert not folder.exists()


def test_where_there_are_no_locks_nobody_joins_one_that_is_alone(plan, target, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no")))
    monkeypatch.setattr(run_job, "PATIENCE", -1)
    with locked(target) as alone:
        with pytest.raises(MoegrowError, match=f"process {os.getpid()} on .* is writing"):
            moegrow.apply(plan, target, part=(1, 2), **SMALL)
        assert [path.name for path in alone.folder.glob(f"{OWNER}*")] == [OWNER]


def test_parts_are_of_what_is_finished_on_other_machines_too(plan, target, monkeypatch):
    """Before it counts, a process writes where it counts: a network filesystem then looks anew."""
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    seen, real = [], Partial.missing

    def missing(self, files):
        seen.append({path.stat().st_mtime_ns for path in (self.result, self.folder / "journal")})
        return real(self, files)

    old = time.time_ns() - 10**12
    for path in (partial_of(target) / work_dir.RESULT, partial_of(target) / work_dir.JOURNAL):
        os.utime(path, ns=(old, old))
    monkeypatch.setattr(Partial, "missing", missing)
    moegrow.apply(plan, target, part=(1, 2), **SMALL)
    assert seen
    assert old not in seen[0]


# What the command says of parts.


def test_verify_is_for_who_publishes(run, checkpoint, tmp_path):
    (tmp_path / "plan.jsonl").write_text(run("width", checkpoint(), "--plan").stdout)
    apply = "apply", "plan.jsonl", "-o", "grown", "--max-shard-size", "20KB", "--verify"
    first = run(*apply, "--shards", "1/2", "--json")
    found = json.loads(first.stdout)
    assert (found["part"], found["published"], found["verified"]) == ("1/2", False, None)
    assert 2 in found["missing"]
    assert "as planned" not in first.stderr
    last = run(*apply, "--shards", "2/2")
    assert "grown is as planned" in last.stderr
    assert last.stdout == "grown\n"


def test_a_dry_run_says_which_shards_a_part_has_and_writes_nothing(run, checkpoint, tmp_path):
    (tmp_path / "plan.jsonl").write_text(run("width", checkpoint(), "--plan").stdout)
    done = run("apply", "plan.jsonl", "-o", "grown", "--shards", "1/2", "--dry-run")
    assert "part 1 of 2: 1 of 1 shard, " in done.stderr
    assert "nothing was written (--dry-run)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["plan.jsonl"]


def test_a_part_comes_from_a_pipe_as_well(run, checkpoint, tmp_path):
    plan = run("width", checkpoint(), "--plan").stdout
    for wish in ("1/2", "2/2"):
        done = run("apply", "-o", "grown", "--shards", wish, stdin=plan)
    assert done.stdout == "grown\n"
    assert moegrow.verify(tmp_path / "grown").ok
