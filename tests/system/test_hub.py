"""The Hub as a source, through its real client and against a small Hub on loopback."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import alter
import hubserver
import pytest
import tiny

import moegrow
from moegrow.checkpoint.hub import looks_like_one

NAME = "org/tiny-moe"
TOKEN = "hf_secretSECRETsecret"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that every command of the test talks to, with a cache of its own and no token."""
    with hubserver.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub


@pytest.fixture
def source(checkpoint, tmp_path):
    """A checkpoint with what travels along, and what must not."""
    folder = alter.copy(checkpoint(), tmp_path / "elsewhere")
    (folder / "tokenizer.json").write_text('{"a": 1}' * 50)
    (folder / "LICENSE").write_text("free")
    (folder / "sub").mkdir()
    (folder / "sub" / "note.txt").write_text("note")
    (folder / "pytorch_model.bin").write_bytes(b"x" * 5000)
    (folder / ".hidden").write_text("hidden")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("{}")
    (folder / "other" / "vocab.txt").write_text("of another checkpoint")
    return folder


@pytest.fixture
def commit(hub, source):
    return hub.add(NAME, source)


@pytest.fixture
def refused(run, tmp_path):
    def refused(*arguments, says, hint="", code=1, stdin=""):
        done = run(*arguments, code=code, stdin=stdin)
        assert done.stdout == ""
        assert says in done.stderr
        assert hint in done.stderr.splitlines()[-1]
        assert not any(path.name.startswith("grown") for path in tmp_path.iterdir())
        return done

    return refused


def headers(folder):
    """The bytes of each weight file's header."""
    files = sorted(folder.glob("*.safetensors"))
    return {file.name: 8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files}


def sizes(folder):
    return {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}


def weights(hub):
    return {name: count for name, count in hub.sent.items() if name.endswith(".safetensors")}


def twice(hub, folder):
    """What was sent more than once of the weights behind the headers."""
    begins = headers(folder)
    ranges = sorted(entry for entry in hub.ranges if entry[1] >= begins.get(entry[0], 1 << 60))
    return [(a, b) for a, b in pairwise(ranges) if a[0] == b[0] and b[1] < a[2]]


def opened_twice(folder):
    """The bytes of weight files that are sent where opening a source and growing are two steps."""
    begins = headers(folder)
    return {name: size + begins[name] for name, size in sizes(folder).items()}


# Planning


def test_planning_reads_the_config_the_index_and_the_headers_alone(run, hub, source, commit):
    run("depth", NAME, "--plan")
    assert weights(hub) == headers(source)
    others = {"config.json", "model.safetensors.index.json"}
    assert hub.sent.keys() - headers(source).keys() == others
    assert {name: hub.sent[name] for name in others} == {
        name: (source / name).stat().st_size for name in others
    }


def test_a_repository_is_named_in_three_ways(run, hub, commit):
    plans = [
        run("depth", name, "--plan").stdout.splitlines()
        for name in (NAME, f"hf://{NAME}", f"{NAME}@main", f"hf://{NAME}@{commit}")
    ]
    assert all(plan[1:] == plans[0][1:] for plan in plans)
    assert {json.loads(plan[0])["source"]["path"] for plan in plans} == {f"hf://{NAME}@{commit}"}


def test_a_folder_of_the_same_name_comes_first(run, hub, commit, checkpoint, tmp_path):
    shutil.copytree(checkpoint("mixtral"), tmp_path / NAME)
    assert "mixtral" in run("inspect", NAME).stdout
    assert not hub.asked
    assert "qwen3_moe" in run("inspect", f"hf://{NAME}").stdout


def test_what_is_neither_a_folder_nor_a_repository_gets_a_hint_for_both(refused, hub):
    done = refused("depth", "org/missing", says="neither a folder here nor a repository of the Hub")
    assert "for a folder check the path" in done.stderr
    assert f"{hub.url}/org/missing" in done.stderr
    done = refused("depth", "hf://org/missing", says="is not on the Hub, or is private")
    assert "folder" not in done.stderr


@pytest.mark.parametrize("text", ["ckpt", "./a/b", "/a/b", "a/b/c", "~/b", "a/", "a/b.safetensors"])
def test_a_path_is_not_taken_for_a_repository(text):
    assert not looks_like_one(text)


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b@", "hf://a b/c"])
def test_an_address_that_is_none_is_wrong_usage(refused, hub, address):
    refused("depth", address, says="is no address of a repository", code=2)


def test_a_revision_is_a_branch_a_tag_or_a_commit(run, refused, hub, source, commit):
    hub.repositories[NAME].refs["refs/pr/1"] = commit
    with alter.table(source / "config.json") as config:
        config["rope_theta"] = 5
    second = hub.update(NAME, source)

    def planned(*arguments):
        return json.loads(run("depth", *arguments, "--plan").stdout.splitlines()[0])

    assert planned(NAME)["source"]["path"].endswith(second)
    for old in ([f"{NAME}@{commit}"], [NAME, "--revision", commit], [f"hf://{NAME}@refs/pr/1"]):
        assert planned(*old)["source"]["path"].endswith(commit)
    assert json.loads(run("inspect", NAME, "--revision", commit, "--json").stdout)["layers"] == 4
    refused("depth", f"{NAME}@v9", says=f"{NAME} has no revision v9", hint="/refs")
    refused("depth", f"{NAME}@main", "--revision", "x", says="--revision says x", code=2)
    refused("depth", NAME, "--revision", "../../x", says="no name of a revision", code=2)
    refused("depth", source, "--revision", "main", says="--revision goes with", code=2)
    plan = run("depth", NAME, "--plan").stdout
    refused("width", "--revision", "main", stdin=plan, says="names the commit", code=2)


def test_a_checkpoint_in_a_folder_of_a_repository(run, refused, hub, source, checkpoint):
    shutil.copytree(checkpoint("mixtral"), source / "small")
    commit = hub.add(NAME, source)
    assert "mixtral" in run("inspect", f"hf://{NAME}/small").stdout
    header = json.loads(run("depth", f"hf://{NAME}@main/small", "--plan").stdout.splitlines()[0])
    assert header["source"]["path"] == f"hf://{NAME}@{commit}/small"
    (source / "config.json").unlink()
    hub.update(NAME, source)
    refused("depth", NAME, says="holds no config.json", hint="/other")
    refused("depth", f"hf://{NAME}/none", says="holds no none")


def test_one_file_of_several_is_named(run, refused, hub, source, tmp_path):
    with alter.weights(source) as tensors:
        alter.save(source / "adapter.safetensors", {"a": tensors["lm_head.weight"]})
    (source / "model.safetensors").rename(source / "moe.safetensors")
    commit = hub.add(NAME, source)
    address = f"hf://{NAME}@{commit}/moe.safetensors"
    assert not hub.sent
    refused("depth", NAME, says="2 .safetensors files", hint=f"hf://{NAME}@{commit}/adapter")
    hub.sent.clear()
    run("depth", address, "-o", "grown")
    assert "adapter.safetensors" not in hub.sent
    run("verify", "grown")


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/passwd", "a\\b", "a//b", "a\x1b[2J"])
def test_a_listing_that_leads_out_of_the_folder_is_refused(refused, hub, commit, name):
    hub.repositories[NAME].files[name] = b"evil"
    done = refused("depth", NAME, "-o", "grown", says="no name of a file in it")
    assert "\x1b" not in done.stderr


# Growing


@pytest.mark.parametrize("verb", [["depth"], ["width", "--noise", "0.01"]])
def test_growing_fetches_each_byte_once_and_gives_the_same_files(
    run, hub, source, commit, tmp_path, verb
):
    plan = run(*verb, NAME, "--plan").stdout
    hub.sent.clear()
    hub.ranges.clear()
    run(*verb, source, "-o", "grown-here")
    run("apply", "-o", "grown", stdin=plan)
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    tiny.load(tmp_path / "grown")
    assert (tmp_path / "grown/sub/note.txt").read_text() == "note"
    assert not {"pytorch_model.bin", ".hidden", "other/vocab.txt"} & hub.sent.keys()
    assert weights(hub) == sizes(source)
    assert not twice(hub, source)


def test_a_piece_too_large_to_hold_is_fetched_once_all_the_same(hub, source, commit, tmp_path):
    script = (
        "import moegrow, moegrow.write.engine as engine, moegrow.kernels.tensor_bytes as stream\n"
        "engine.HELD = engine.READ = stream.READ = 1000\n"
        f"moegrow.apply(moegrow.width({NAME!r}, noise=0.01), 'grown')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert weights(hub) == opened_twice(source)
    assert not twice(hub, source)
    moegrow.apply(moegrow.width(source, noise=0.01), tmp_path / "grown-here")
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")


@pytest.mark.parametrize(("model", "verb"), [("gemma4", "depth"), ("ernie4_5_vl_moe", "width")])
def test_tensors_joined_along_a_later_axis_are_fetched_once(
    run, hub, checkpoint, tmp_path, model, verb
):
    source = checkpoint(model)
    hub.add(NAME, source)
    run(verb, NAME, "-o", "grown")
    run(verb, source, "-o", "grown-here")
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    assert not twice(hub, source)


def test_several_connections_are_used_at_a_time(run, hub, source, commit):
    together = threading.Barrier(3, timeout=20)
    answer = hubserver._Answer._data

    def waiting(self, file, data, headers, fault):
        if file.endswith(".safetensors") and "bytes=0-" not in self.headers["Range"]:
            # Passes only where three are asked for at once.
            with hub.lock:
                hub.met = getattr(hub, "met", 0) + 1
                mine = hub.met
            if mine <= 3:
                together.wait()
        return answer(self, file, data, headers, fault)

    hubserver._Answer._data = waiting
    try:
        run("depth", NAME, "-o", "grown")
    finally:
        hubserver._Answer._data = answer


def test_the_token_goes_to_the_hub_and_nowhere_else(
    run, hub, source, commit, tmp_path, monkeypatch
):
    hub.repositories[NAME].private = True
    hub.user(TOKEN, "org")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = run("depth", NAME, "-o", "grown")
    home = [asked for asked in hub.asked if asked.host == "hub" and NAME in asked.path]
    assert {asked.headers.get("authorization") for asked in home} == {f"Bearer {TOKEN}"}
    stored = [asked for asked in hub.asked if asked.host == "storage"]
    assert stored
    assert not any("authorization" in asked.headers for asked in stored)
    assert TOKEN not in done.stdout + done.stderr
    assert all(TOKEN.encode() not in data for data in alter.contents(tmp_path / "grown").values())
    # Where a file lies is asked for once, not for each range of it.
    asked = [a for a in hub.asked if "/resolve/" in a.path and a.path.endswith(".safetensors")]
    assert len(asked) < len(stored)


def test_a_token_given_as_an_option_is_noted_nowhere(run, hub, source, commit, tmp_path):
    hub.repositories[NAME].private = True
    hub.user(TOKEN, "org")
    for given in (["--token", TOKEN], [f"--token={TOKEN}"]):
        plan = run("depth", NAME, *given, "--plan").stdout
        assert json.loads(plan.splitlines()[0])["commands"] == [f"moegrow depth {NAME} --plan"]
        assert TOKEN not in plan
        run("apply", *given, "-o", "grown", "--force", stdin=plan)
        assert all(
            TOKEN.encode() not in data for data in alter.contents(tmp_path / "grown").values()
        )
        assert run("verify", "grown", *given).returncode == 0
        assert "num_hidden_layers" in run("diff", "--headers", NAME, "grown", *given).stdout
        assert "qwen3_moe" in run("inspect", NAME, *given).stdout


# Wrong bytes


@pytest.fixture
def shards(hub, checkpoint):
    """A source of several weight files; gives its folder."""
    folder = checkpoint("qwen3_moe", shard_size="100KB")
    hub.add(NAME, folder)
    assert len(sizes(folder)) > 2
    return folder


@pytest.mark.parametrize("verb", [["depth"], ["width", "--noise", "0.01"]])
@pytest.mark.parametrize("skip", [0, 8])
def test_a_wrong_bit_in_an_answer_ends_the_run_and_the_same_command_mends_it(
    run, hub, shards, tmp_path, verb, skip
):
    run(*verb, shards, "-o", "grown-here", "--max-shard-size", "50KB")
    name = sorted(sizes(shards))[1]
    plan = run(*verb, NAME, "--plan").stdout
    # The next opening asks for the header as this one did; the answers behind that are weights.
    opened = sum(asked.host == "storage" and name in asked.path for asked in hub.asked)
    hub.fail(f"{name}.*Signature", "flip", skip=opened + skip, after=50)
    command = ["apply", "-o", "grown", "--max-shard-size", "50KB", "--threads", 2]
    done = run(*command, stdin=plan, code=1)
    assert [fault.times for fault in hub.faults] == [0]
    right = hashlib.sha256((shards / name).read_bytes()).hexdigest()
    found = re.search(f"bytes of {name} .* SHA-256 ([0-9a-f]{{64}}), and {right} is", done.stderr)
    assert found
    assert found[1] != right
    assert not (tmp_path / "grown").exists()
    assert "go on with" in done.stderr or "run the command again" in done.stderr
    run(*command, "--resume", stdin=plan)
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")


def test_a_wrong_bit_in_a_header_is_found_though_it_can_be_read(run, hub, shards, tmp_path):
    name = sorted(sizes(shards))[0]
    place = (shards / name).read_bytes().index(b'"pt"')
    hub.fail(f"{name}.*Signature", "flip", skip=1, after=place + 1 - 8)  # the length came before
    done = run("depth", NAME, "-o", "grown", code=1)
    assert [fault.times for fault in hub.faults] == [0]
    assert f"bytes of {name}" in done.stderr
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("config.json", 5),
        ("model.safetensors.index.json", 5),
        ("tokenizer.json", 9),
        ("LICENSE", 0),
    ],
)
def test_a_wrong_bit_in_a_small_file_is_found_by_what_git_calls_it(
    run, hub, source, commit, tmp_path, name, place
):
    hub.fail(f"/resolve/.*{name}", "flip", after=place)
    done = run("depth", NAME, "-o", "grown", code=1)
    assert [fault.times for fault in hub.faults] == [0]
    assert "git SHA-1" in done.stderr
    path = next(source.glob(f"*{name}"))
    assert f"{hubserver._git(path.read_bytes())} is listed" in done.stderr
    assert not (tmp_path / "grown").exists()
    run("depth", NAME, "-o", "grown", "--resume")
    run("verify", "grown")


@pytest.mark.parametrize("model", ["qwen3_moe", "gemma4"])
def test_what_was_not_read_whole_is_named_and_verify_reads_it(
    run, hub, checkpoint, tmp_path, model
):
    source = checkpoint(model)
    hub.add(NAME, source)

    def grown(*how):
        document = json.loads(run("depth", *how, NAME, "-o", "grown", "--json").stdout)
        return document["unchecked"]

    assert grown("--mode", "stack") == []
    shutil.rmtree(tmp_path / "grown")
    unchecked = grown("--layers", "0,0,1,1")
    assert unchecked == sorted(unchecked) != []
    run("verify", "grown")
    # Bytes that no tensor of the result was made of: all that was copied is as it is here.
    skip = sum(asked.host == "storage" and unchecked[-1] in asked.path for asked in hub.asked)
    hub.fail(f"{unchecked[-1]}.*Signature", "flip", times=1000, after=1 << 30, skip=2)
    assert skip
    told = run("verify", "grown", code=1).stderr
    assert f"bytes of {unchecked[-1]}" in told


def test_what_is_damaged_in_the_cache_is_found_when_it_arrives_and_by_verify(
    run, hub, source, commit, tmp_path, monkeypatch
):
    name = sorted(sizes(source))[0]
    hub.fail(f"{name}.*Signature", "flip", skip=2, after=5000)
    done = run("depth", NAME, "-o", "grown", "--download", code=1)
    assert [fault.times for fault in hub.faults] == [0]
    assert f"bytes of {name}" in done.stderr
    assert not [*(tmp_path / "hf-home").rglob(f"snapshots/*/{name}")]
    run("depth", NAME, "-o", "grown", "--download")
    run("verify", "grown")
    link = next((tmp_path / "hf-home").rglob(f"snapshots/*/{name}"))
    alter.flip(link.resolve(), -1)
    assert f"bytes of {name}" in run("verify", "grown", code=1).stderr
    link.unlink()
    done = run("depth", NAME, "-o", "grown-2", "--download", code=1)
    assert f"bytes of {name}" in done.stderr
    hint = done.stderr.splitlines()[-1].partition("run the command again: ")[2]
    assert hint.startswith("rm ")
    subprocess.run(hint, shell=True, check=True)
    run("depth", NAME, "-o", "grown-2", "--download")


# Lists and answers that cannot be


@pytest.mark.parametrize("size", [-1, -(1 << 70), 1 << 70, "12", 1.5])
def test_a_size_that_no_file_has_is_refused(refused, hub, commit, monkeypatch, size):
    answer = hubserver._Answer._json

    def lying(self, value):
        for row in value.get("siblings", [])[:1]:
            row["size"] = size
        return answer(self, value)

    monkeypatch.setattr(hubserver._Answer, "_json", lying)
    done = refused("depth", NAME, "-o", "grown", says="which no file has")
    assert "Traceback" not in done.stderr


def test_a_list_without_end_is_given_up(refused, hub, commit, monkeypatch):
    def endless(self, name, revision):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b'{"siblings": [')
            while True:
                self.wfile.write(b'{"rfilename": "a", "size": 1},' * 10_000)

    monkeypatch.setattr(hubserver._Answer, "_info", endless)
    done = refused("depth", NAME, "-o", "grown", says="where a list was asked for")
    assert done.peak is None or done.peak < 500_000_000


def changed(folder, settings, *arguments):
    """The command with other settings of its modules, in a Python of its own."""
    script = f"{settings}\nimport sys\nfrom moegrow.cli.main import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "grown").exists()
    return done.stderr


def test_pages_of_a_list_without_end_are_given_up(hub, source, commit, tmp_path, monkeypatch):
    def endless(self, name, revision):
        self.hub.sent["pages"] += 1
        place = f"{self.hub.url}{self.path.partition('?')[0]}?cursor={self.hub.sent['pages']}"
        link = {"Content-Type": "application/json", "Link": f'<{place}>; rel="next"'}
        self._send(200, b"[]", link)

    monkeypatch.setattr(hubserver._Answer, "_tree", endless)
    settings = "import moegrow.checkpoint.time_limits as pace\npace.MOST_PAGES = 20"
    told = changed(tmp_path, settings, "depth", NAME, "-o", "grown", "--download")
    assert "lists files without end" in told
    assert hub.sent["pages"] < 30


@pytest.mark.parametrize("what", ["weights", "list"])
def test_an_answer_of_a_byte_at_a_time_is_given_up(
    hub, source, commit, tmp_path, monkeypatch, what
):
    real = hubserver._Answer._send

    def send(self, status, body, headers=None, cut=None):
        if status > 299 or (
            self.host != "storage" if what == "weights" else "/api/" not in self.path
        ):
            return real(self, status, body, headers, cut)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            for place in range(len(body)):
                self.wfile.write(body[place : place + 1])
                time.sleep(0.02)
        return None

    monkeypatch.setattr(hubserver._Answer, "_send", send)
    settings = (
        "import moegrow.checkpoint.time_limits as pace, moegrow.checkpoint.http_ranges as fetch\n"
        "pace.WINDOW, fetch.FIRST_WAIT, fetch.LONGEST_WAIT = 0.3, 0.01, 0.02"
    )
    assert "too slow" in changed(tmp_path, settings, "depth", NAME, "-o", "grown")


# Bad days


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "after": 100},
        {"kind": "cut", "after": 0},
        {"kind": "short"},
        {"kind": "503"},
        {"kind": "429", "headers": {"Retry-After": "1"}},
        {"kind": "403"},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('after', '')}".strip(),
)
def test_growing_goes_on_after_a_bad_moment_and_fetches_nothing_twice(
    run, hub, source, commit, tmp_path, fault
):
    run("depth", source, "-o", "grown-here")
    kind, skip = fault.pop("kind"), 25  # the headers have come by then
    times = 1 if kind == "403" else 2
    hub.fail(r"\.safetensors\?Signature", kind, times=times, skip=skip, **fault)
    run("depth", NAME, "-o", "grown", "--threads", 2)
    assert [fault.times for fault in hub.faults] == [0]
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    assert weights(hub) == sizes(source)
    assert not twice(hub, source)


def test_a_server_that_asks_to_wait_is_not_asked_before(run, hub, commit):
    hub.fail(r"\.safetensors\?Signature", "429", skip=25, headers={"Retry-After": "2"})
    run("depth", NAME, "-o", "grown", "--threads", 1)
    stored = [asked.at for asked in hub.asked if asked.host == "storage"]
    assert max(b - a for a, b in pairwise(stored)) >= 2


def test_planning_goes_on_after_a_bad_moment(run, hub, commit):
    hub.fail("/api/models/", "503", times=2)
    hub.fail("/api/models/", "429", headers={"Retry-After": "1"})
    hub.fail("config.json", "cut", after=10)
    assert run("depth", NAME, "--plan").stdout
    assert not any(fault.times for fault in hub.faults)


def test_a_server_that_never_answers_is_given_up(refused, hub, commit):
    hub.fail(r"\.safetensors\?Signature", "503", times=999, skip=25)
    done = refused(
        "depth", NAME, "-o", "grown", "--threads", 1, says="answers 503, 6 times",
        hint="run the command again",
    )  # fmt: skip
    assert "Signature" not in done.stderr
    hub.faults.clear()
    hub.fail("/api/models/", "429", headers={"Retry-After": "99999"})
    refused("depth", NAME, says="answers 429, and asks to wait 99999 s")


def test_answers_that_cannot_be_right_are_refused(refused, hub, commit):
    hub.fail(r"\.safetensors\?Signature", "wrong size", times=99)
    refused("depth", NAME, "-o", "grown", says="and it was listed with")
    hub.faults.clear()
    hub.fail(r"\.safetensors\?Signature", "no range", times=99, skip=25)
    refused("depth", NAME, "-o", "grown", says="was asked for bytes from", hint="--download")


def test_a_hub_that_is_not_there_or_none_at_all(refused, hub, commit, monkeypatch):
    hub.fail("/api/models/", "404", times=9)
    refused("depth", NAME, says="the Hub answers 404")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    says = (
        f"http://127.0.0.1:9 cannot be reached (ConnectError), and there is no folder {NAME} here"
    )
    refused("depth", NAME, says=says, hint="check the network")
    done = refused("depth", f"hf://{NAME}", says="cannot be reached (ConnectError)\n")
    assert "folder" not in done.stderr


def test_a_thread_that_waits_as_long_as_a_server_asks_ends_when_it_is_interrupted(
    hub, commit, tmp_path
):
    hub.fail(r"\.safetensors\?Signature", "429", times=999, skip=25, headers={"Retry-After": "250"})
    for verb, begun in (("depth", "grown.partial"), ("inspect", "")):
        more = ["-o", "grown"] if begun else ["--values"]
        process = subprocess.Popen(
            [sys.executable, "-m", "moegrow", verb, NAME, *more], cwd=tmp_path, text=True,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        while not any(fault.times < 999 for fault in hub.faults):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert told.splitlines()[-2].startswith("error: interrupted; nothing was published")
        assert "Traceback" not in told
        hub.faults[0].times = 999


def test_every_refusal_says_what_to_do(refused, hub, commit, monkeypatch):
    stored = hub.repositories[NAME]
    stored.private = True
    refused("depth", NAME, says="neither a folder here", hint="sign in if it is private")
    refused("depth", f"hf://{NAME}", says="is private and no token was given", hint="hf auth login")
    monkeypatch.setenv("HF_TOKEN", hub.user(TOKEN, "someone"))
    refused("depth", f"hf://{NAME}", says="the token may not see it", hint="a token of its owners")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    done = refused("depth", f"hf://{NAME}", says="does not know the token", hint="settings/tokens")
    assert "hf_unknown" not in done.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_two\u00e4 words")
    done = refused("depth", f"hf://{NAME}", says="characters that no token has", hint="HF_TOKEN")
    assert "words" not in done.stderr
    monkeypatch.delenv("HF_TOKEN")
    stored.private, stored.gated = False, True
    refused("depth", NAME, says="is gated", hint=f"{hub.url}/{NAME}")


def test_a_shard_that_the_repository_lacks_is_named(refused, hub, source, commit):
    name = sorted(source.glob("*.safetensors"))[1].name
    del hub.repositories[NAME].files[name]
    refused("depth", NAME, says=f"{name} is missing")


# The cache, offline


def test_offline_mode_asks_nobody_and_says_so(refused, hub, commit, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = refused("depth", NAME, says="HF_HUB_OFFLINE is set", hint=f"hf download {NAME}")
    assert f"nor is there a folder {NAME} here" in done.stderr
    assert not hub.asked


def test_download_puts_the_source_into_the_cache_and_grows_from_there(
    run, hub, source, commit, tmp_path, monkeypatch
):
    run("depth", source, "-o", "grown-here")
    done = run("depth", NAME, "-o", "grown", "--download")
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    assert weights(hub) == opened_twice(source)
    assert "pytorch_model.bin" not in hub.sent
    assert "Traceback" not in done.stderr
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run("depth", NAME, "-o", "grown-offline")
    assert alter.same(tmp_path / "grown-offline", tmp_path / "grown-here")
    run("verify", "grown")
    run("depth", f"{NAME}@{commit}", "-o", "grown-pinned")
    assert len(hub.asked) == asked


def test_what_download_puts_into_the_cache_is_as_the_hubs_own_library_lays_it_out(
    run, hub, source, commit, tmp_path
):
    run("depth", NAME, "-o", "grown", "--download")
    hub.sent.clear()
    script = (
        "import huggingface_hub as h, pathlib\n"
        # The folder of another checkpoint is no part of this one, and is not fetched.
        f"print(h.snapshot_download({NAME!r}, allow_patterns=['*.safetensors', '*.json'],"
        " ignore_patterns=['other/*']))\n"
        "found = h.scan_cache_dir()\n"
        "assert not found.warnings, found.warnings\n"
        f"print([repo.repo_id for repo in found.repos], file=__import__('sys').stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert NAME in done.stderr
    folder = Path(done.stdout.strip())
    assert not hub.sent
    for file in source.glob("*.safetensors"):
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_download_is_bounded_as_reading_is(hub, source, commit, tmp_path, monkeypatch):
    """A byte and then nothing more, again and again: the Hub's own library would go on."""
    monkeypatch.setattr(hubserver._Answer, "_data", trickling(hubserver._Answer._data))
    settings = (
        "import moegrow.checkpoint.time_limits as pace, moegrow.checkpoint.http_ranges as fetch\n"
        "pace.WINDOW, fetch.FIRST_WAIT, fetch.LONGEST_WAIT = 0.2, 0.01, 0.02"
    )
    assert "too slow" in changed(tmp_path, settings, "depth", NAME, "-o", "grown", "--download")
    assert not [*(tmp_path / "hf-home").rglob("*.tmp")]


def trickling(real):
    """Answers whose weights come a byte at a time, but for their headers."""

    def data(self, file, data, headers, fault):
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        if not file.endswith(".safetensors") or self.hub.sent[file] == 0 or start == "8":
            return real(self, file, data, headers, fault)
        self.send_response(206)
        size = len(data)
        self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - int(start)))
        self.end_headers()
        with suppress(OSError):
            for byte in data[int(start) :]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        return None

    return data


def test_files_in_the_cache_are_not_fetched_again(run, hub, source, commit, tmp_path):
    shard = sorted(source.glob("*.safetensors"))[1].name
    script = f"import huggingface_hub as h; h.hf_hub_download({NAME!r}, {shard!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
    hub.sent.clear()
    run("depth", NAME, "-o", "grown")
    assert shard not in hub.sent
    assert moegrow.diff(tmp_path / "grown", moegrow.depth(source)).is_empty


def test_a_cache_that_lacks_something_is_no_source_offline(
    run, refused, hub, source, commit, tmp_path, monkeypatch
):
    run("depth", NAME, "-o", "kept", "--download")
    blobs = next((tmp_path / "hf-home").rglob("snapshots")) / commit
    (blobs / "LICENSE").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(
        "depth", NAME, says="LICENSE of org/tiny-moe is not in the Hub's cache", hint="--download"
    )


def test_download_is_for_the_hub_and_for_growing(refused, hub, source, commit):
    refused(
        "depth", source, "--download", "-o", "grown", says="--download is for a repository", code=2
    )
    refused("depth", NAME, "--download", "--plan", says="--download does not go with it", code=2)


# Plans


def test_a_plan_holds_its_source_to_one_commit(run, hub, source, commit, tmp_path):
    plan = run("depth", NAME, "--plan").stdout
    moegrow.apply(moegrow.depth(source), tmp_path / "grown-here")
    for file in source.glob("*.safetensors"):
        alter.flip(file, file.stat().st_size - 1)
    hub.update(NAME, source)
    run("apply", "-o", "grown", stdin=plan)
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    assert "is as planned" in run("verify", "grown").stderr


def test_the_same_source_may_lie_elsewhere_for_verify(run, hub, source, commit, tmp_path):
    run("width", NAME, "-o", "grown")
    run("verify", "grown", "--source", source)
    run("width", source, "-o", "grown-here")
    run("verify", "grown-here", "--source", NAME)
    shard = sorted(source.glob("*.safetensors"))[1]
    alter.flip(shard, shard.stat().st_size // 2)
    done = run("verify", "grown", "--source", source, code=1)
    assert f"{shard.name} holds other tensors or other weights" in done.stderr


def test_a_plan_of_the_hub_is_grown_further_and_compared(run, hub, source, commit, tmp_path):
    plan = run("depth", NAME, "--plan").stdout
    run("width", "-o", "grown", stdin=plan)
    here = moegrow.width(moegrow.depth(source))
    assert moegrow.diff(tmp_path / "grown", here).is_empty
    assert "are the same" in run("diff", NAME, source).stdout


def test_the_python_functions_take_a_repository(hub, source, commit, tmp_path):
    script = (
        "import moegrow\n"
        f"plan = moegrow.width({NAME!r}, revision='main', token={hub.user(TOKEN)!r})\n"
        f"moegrow.apply(plan, 'grown', token={TOKEN!r}, download=True)\n"
        f"assert moegrow.verify('grown', token={TOKEN!r}).ok\n"
        f"assert {TOKEN!r} not in repr(plan)\n"
        f"assert moegrow.inspect({NAME!r}, token={TOKEN!r})['layers'] == 4\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=os.environ)
    assert Path(tmp_path / "grown" / "config.json").exists()
