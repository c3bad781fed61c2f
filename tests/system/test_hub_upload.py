"""Uploading to the Hub, through its real client and against a small Hub on loopback."""

import os
import shutil
import subprocess
import sys

import alter
import hubserver
import pytest
import tiny
from huggingface_hub.repocard import RepoCard
from test_hub import hub as hub

import moegrow
from moegrow.checkpoint.side_files import PLAN

TOKEN = "hf_secretSECRETsecret"
GOAL = "me/grown-moe"


@pytest.fixture
def source(checkpoint, tmp_path):
    folder = alter.copy(checkpoint(), tmp_path / "elsewhere")
    (folder / "LICENSE").write_text("free")
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# elder\n")
    return folder


@pytest.fixture
def signed_in(hub, monkeypatch):
    """A Hub where the commands may write for `me`, with the older of the client's two storages."""
    monkeypatch.setenv("HF_TOKEN", hub.user(TOKEN, "me", orgs=["team"]))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return hub


@pytest.fixture
def refused(run, tmp_path):
    """A growth that must end before anything is written."""

    def refused(*arguments, says, hint="", code=1):
        done = run("depth", *arguments, "-o", "grown", code=code)
        assert says in done.stderr
        assert hint in done.stderr.splitlines()[-1]
        assert TOKEN not in done.stderr
        assert not (tmp_path / "grown").exists()
        assert not (tmp_path / "grown.partial").exists()
        return done

    return refused


def uploaded(hub, name=GOAL):
    files = dict(hub.repositories[name].files)
    assert files.pop(".gitattributes")
    return files


def puts(hub):
    return [asked.path for asked in hub.asked if asked.method == "PUT"]


def test_the_result_is_uploaded_as_it_stands_on_disk(run, signed_in, source, tmp_path):
    done = run("depth", source, "-o", "grown", "--push", GOAL)
    assert done.stdout == "grown\n"
    assert f"uploaded to {signed_in.url}/{GOAL}" in done.stderr
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")
    assert not signed_in.repositories[GOAL].private
    tiny.load(tmp_path / "grown")
    data = RepoCard(uploaded(signed_in)["README.md"].decode()).data
    assert (data.license, data.language) == ("mit", ["en"])


def test_what_was_uploaded_is_a_source_again(run, signed_in, source, tmp_path):
    signed_in.add("team/elder", source)
    run("depth", "team/elder", "-o", "grown", "--push", "team/grown", "--private")
    assert signed_in.repositories["team/grown"].private
    signed_in.repositories["team/grown"].private = False
    data = RepoCard(uploaded(signed_in, "team/grown")["README.md"].decode()).data
    assert data.base_model == "team/elder"
    run("width", "team/grown", "-o", "twice")
    assert moegrow.inspect(tmp_path / "twice")["experts"] == 8


def test_no_token_is_in_what_is_uploaded_or_said(run, signed_in, source, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = run("depth", source, "-o", "grown", "--push", GOAL, "--token", TOKEN)
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in data for data in uploaded(signed_in).values())
    stored = [asked for asked in signed_in.asked if asked.host == "storage"]
    assert stored
    assert not any("authorization" in asked.headers for asked in stored)


def test_what_is_verified_is_uploaded_and_its_recipe_saved(run, signed_in, source, tmp_path):
    more = "--verify", "--save-recipe", "mine.toml"
    done = run("depth", source, "-o", "grown", "--push", GOAL, *more)
    verified, sent = (done.stderr.index(word) for word in ("is as planned", "uploaded to"))
    assert verified < sent
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")
    run("run", "mine.toml", "-o", "again")
    again, grown = (
        {name: file for name, file in alter.contents(tmp_path / folder).items() if "model-" in name}
        for folder in ("again", "grown")
    )
    assert again == grown


DAMAGE = """
import moegrow, sys
from moegrow.cli.main import main
real = moegrow.apply
def apply(*arguments, **options):
    written = real(*arguments, **options)
    file = sorted(written.path.glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return written
moegrow.apply = apply
main()
"""


def test_what_is_not_as_planned_is_not_uploaded(run, signed_in, source, tmp_path):
    command = ["depth", str(source), "-o", "grown", "--push", GOAL, "--verify"]
    more = ["--save-recipe", "mine.toml"]
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, *command, *more], cwd=tmp_path, check=False, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "differs from its plan" in done.stderr
    assert "uploaded to" not in done.stderr
    assert not signed_in.repositories[GOAL].files.keys() - {".gitattributes"}
    assert not (tmp_path / "mine.toml").exists()
    # The same command goes on with what is there, and is stopped at the same place.
    done = run(*command, *more, code=1)
    assert "is complete already" in done.stderr
    assert not signed_in.repositories[GOAL].files.keys() - {".gitattributes"}
    shutil.rmtree(tmp_path / "grown")
    run(*command, *more)
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")
    assert (tmp_path / "mine.toml").exists()


def test_a_recipe_is_saved_when_an_upload_that_broke_off_has_gone_on(
    run, signed_in, source, tmp_path
):
    command = ("depth", source, "-o", "grown", "--push", GOAL, "--save-recipe", "mine.toml")
    signed_in.fail("/commit/", "403")
    run(*command, code=1)
    assert not (tmp_path / "mine.toml").exists()
    run(*command)
    assert (tmp_path / "mine.toml").exists()


def test_of_several_processes_that_write_a_result_the_last_uploads_it(
    run, signed_in, source, tmp_path
):
    (tmp_path / "plan.jsonl").write_text(run("depth", source, "--plan").stdout)
    apply = "apply", "plan.jsonl", "-o", "grown", "--max-shard-size", "20KB", "--push", GOAL
    done = run(*apply, "--shards", "2/2")
    assert "uploaded" not in done.stderr
    assert not signed_in.repositories[GOAL].files.keys() - {".gitattributes"}
    signed_in.fail("/commit/", "403", skip=1)
    run(*apply, "--shards", "1/2", code=1)
    done = run(*apply, "--finish")
    assert "is complete already" in done.stderr
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")


def test_an_upload_that_broke_off_goes_on_without_growing_again(run, signed_in, source, tmp_path):
    command = ("depth", source, "-o", "grown", "--push", GOAL, "--max-shard-size", "100KB")
    signed_in.fail("/commit/", "403", skip=1)  # after that of the plan
    done = run(*command, code=1)
    assert "the token may not do this" in done.stderr
    assert "run the same command again, and the upload goes on" in done.stderr.splitlines()[-1]
    grown = alter.contents(tmp_path / "grown")
    assert uploaded(signed_in).keys() == {PLAN}
    sent = len(puts(signed_in))
    assert sent > 3
    signed_in.asked.clear()
    done = run(*command)
    assert "is complete already" in done.stderr
    assert not puts(signed_in)
    assert uploaded(signed_in) == grown == alter.contents(tmp_path / "grown")
    # And once more, where nothing is left to do.
    run(*command)
    assert uploaded(signed_in) == grown


def test_a_storage_that_fails_for_a_moment_is_asked_again(run, signed_in, source, tmp_path):
    signed_in.fail(r"^/[0-9a-f]{64}\?Signature", "503")
    done = run("depth", source, "-o", "grown", "--push", GOAL)
    assert not any(fault.times for fault in signed_in.faults)
    assert "Signature" not in done.stderr
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")


def test_files_that_go_the_plain_way_are_uploaded_too(
    run, signed_in, source, tmp_path, monkeypatch
):
    """The client's own pipeline for large folders, as far as it goes without the Hub's storage."""
    monkeypatch.setattr(hubserver, "LARGE", ())
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    run("depth", source, "-o", "grown", "--push", GOAL)
    assert not puts(signed_in)
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")


def test_force_replaces_another_result_of_moegrow_and_leaves_nothing_of_it(
    run, refused, signed_in, source, tmp_path
):
    run("depth", source, "-o", "first", "--push", GOAL, "--max-shard-size", "100KB")
    says = "is there already, with another result of moegrow"
    refused("--times", "3x", source, "--push", GOAL, says=says, hint="--force")
    run("depth", "--times", "3x", source, "-o", "second", "--push", GOAL, "--force")
    assert uploaded(signed_in) == alter.contents(tmp_path / "second")


def test_what_is_not_moegrows_is_never_replaced(refused, signed_in, source):
    signed_in.add(GOAL, source)
    before = dict(signed_in.repositories[GOAL].files)
    says = "and not by moegrow"
    refused(source, "--push", GOAL, says=says, hint="another name")
    refused(source, "--push", GOAL, "--force", says=says, hint="another name")
    assert signed_in.repositories[GOAL].files == before


def test_all_that_could_refuse_is_asked_before_anything_is_grown(
    refused, signed_in, source, monkeypatch
):
    refused(source, "--push", "other/name", says="is of me, who may not write to other",
            hint="me, team")  # fmt: skip
    signed_in.tokens[TOKEN]["orgs"][0]["roleInOrg"] = "read"
    refused(source, "--push", "team/name", says="me may read what is of team", hint="team")
    signed_in.tokens[TOKEN]["auth"]["accessToken"]["role"] = "read"
    refused(source, "--push", GOAL, says="the token may read", hint="settings/tokens")
    signed_in.tokens[TOKEN]["auth"]["accessToken"]["role"] = "write"
    signed_in.fail("/api/repos/create", "403")
    refused(source, "--push", GOAL, says="the token may not do this")
    signed_in.fail("auth-check/write", "403")
    refused(source, "--push", GOAL, says="the token may not do this")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    refused(source, "--push", GOAL, says="does not know the token", hint="settings/tokens")
    monkeypatch.delenv("HF_TOKEN")
    refused(source, "--push", GOAL, says="takes a token", hint="hf auth login")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(source, "--push", GOAL, says="HF_HUB_OFFLINE is set")


def test_a_public_repository_is_not_taken_for_a_private_one(refused, run, signed_in, source):
    run("depth", source, "-o", "first", "--push", GOAL)
    refused(source, "--push", GOAL, "--private", says="and is public", hint="settings")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--push", "name"], "is no name of a repository"),
        (["--push", "a/b/c"], "is no name of a repository"),
        (["--push", "a/b@main"], "is no name of a repository"),
        (["--private"], "--private is for the repository of --push"),
        (["--push", GOAL, "--plan"], "does not go with it"),
    ],
)
def test_wrong_usage(run, source, tmp_path, arguments, says):
    done = run("depth", source, *arguments, code=2)
    assert says in done.stderr
    assert not list(tmp_path.glob("*depth*"))


def test_a_dry_run_asks_and_makes_nothing(run, signed_in, source):
    run("depth", source, "--push", GOAL, "--dry-run")
    assert not signed_in.repositories
    done = run("depth", source, "--push", "other/name", "--dry-run", code=1)
    assert "may not write to other" in done.stderr
    assert {asked.method for asked in signed_in.asked} == {"GET"}


def test_a_folder_is_pushed_from_python(run, signed_in, source, tmp_path):
    run("depth", source, "-o", "grown")
    script = (
        f"import moegrow\nassert moegrow.push('grown', {GOAL!r}, private=True).endswith({GOAL!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=os.environ)
    assert signed_in.repositories[GOAL].private
    assert uploaded(signed_in) == alter.contents(tmp_path / "grown")


def test_what_a_link_in_a_result_leads_to_is_not_uploaded(run, signed_in, source, tmp_path):
    run("depth", source, "-o", "ours")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "ours" / "note.txt").symlink_to(tmp_path / "secret")
    done = run("depth", source, "-o", "ours", "--push", GOAL, "--resume", code=1)
    assert "note.txt is a link" in done.stderr
    assert not puts(signed_in)
    assert not uploaded(signed_in)
