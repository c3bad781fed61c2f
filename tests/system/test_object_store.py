"""Object stores as sources: S3, spoken by its real driver to a server on loopback."""

import os
import subprocess
import sys
from urllib.request import Request, urlopen

import alter
import pytest
import tiny

import moegrow
from moegrow.checkpoint import store_limits
from moegrow.errors import MoegrowError

BUCKET = "s3://models/qwen/tiny-moe"


@pytest.fixture
def source(checkpoint, tmp_path):
    folder = alter.copy(checkpoint(), tmp_path / "elsewhere")
    (folder / "sub").mkdir()
    (folder / "sub" / "LICENSE").write_text("free")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def store(source, monkeypatch):
    """A filesystem on an S3 server of the test, with the source in a bucket."""
    s3fs = pytest.importorskip("s3fs", reason="the driver of S3 is not installed (moegrow[s3])")
    server = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret-key", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    # What another test has left is in this process, not in its server.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.mkdir("models")
    for path in source.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"{BUCKET}/{path.relative_to(source)}", path.read_bytes())
    yield filesystem
    running.stop()


@pytest.mark.parametrize("verb", [["depth"], ["width", "--noise", "0.01"]])
def test_growing_from_a_bucket_gives_the_same_files(run, store, source, tmp_path, verb):
    run(*verb, source, "-o", "grown-here")
    plan = run(*verb, BUCKET, "--plan").stdout
    assert "secret-key" not in plan
    run("apply", "-o", "grown", stdin=plan)
    assert alter.same(tmp_path / "grown", tmp_path / "grown-here")
    tiny.load(tmp_path / "grown")
    assert "license: mit\n" in (tmp_path / "grown" / "README.md").read_text()
    run("verify", "grown")
    run("verify", "grown", "--source", source)
    assert run(*verb, BUCKET).stdout.startswith("tiny-moe-")


def test_one_file_of_a_bucket_is_a_source(run, store, source, tmp_path):
    with alter.weights(source) as tensors:
        pass
    store.pipe_file("s3://models/one/a.safetensors", (source / "model.safetensors").read_bytes())
    store.pipe_file("s3://models/one/config.json", (source / "config.json").read_bytes())
    run("depth", "s3://models/one/a.safetensors", "-o", "grown")
    assert len(tiny.tensors(tmp_path / "grown")) > len(tensors)
    run("verify", "grown")


def test_weights_that_were_trained_on_in_place_are_noticed(run, store, source):
    plan = run("depth", BUCKET, "--plan").stdout
    for shard in source.glob("*.safetensors"):
        alter.flip(shard, shard.stat().st_size - 1)
        store.pipe_file(f"{BUCKET}/{shard.name}", shard.read_bytes())
    done = run("apply", "-o", "grown", stdin=plan, code=1)
    assert "has changed since the plan was made" in done.stderr


@pytest.mark.parametrize("what", ["other weights", "more bytes", "nothing", "another config"])
def test_a_file_that_is_overwritten_while_it_is_read_ends_the_run(store, source, tmp_path, what):
    shard = sorted(source.glob("*.safetensors"))[-1]
    alter.flip(shard, shard.stat().st_size - 1)
    path, changed = f"{BUCKET}/{shard.name}", []

    def progress(count):
        if changed:
            return
        changed.append(what)
        if what == "other weights":
            store.pipe_file(path, shard.read_bytes())
        elif what == "more bytes":
            store.pipe_file(path, shard.read_bytes() + b"0")
        elif what == "nothing":
            store.rm_file(path)
        else:
            store.pipe_file(f"{BUCKET}/config.json", b"{}")

    plan = moegrow.depth(BUCKET)
    says = "was changed while it was read|does not exist, or not all of it|has changed since"
    with pytest.raises(MoegrowError, match=says):
        moegrow.apply(plan, tmp_path / "grown", threads=1, progress=progress)
    assert changed
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_reading_goes_on_after_a_bad_moment(store, source, tmp_path):
    script = (
        "import s3fs, moegrow\n"
        "real, failed = s3fs.S3FileSystem._cat_file, []\n"
        "async def cat_file(self, path, start=None, end=None):\n"
        "    data = await real(self, path, start=start, end=end)\n"
        "    if path.endswith('.safetensors') and len(failed) < 9:\n"
        "        failed.append(path)\n"
        "        if len(failed) % 3 == 1: raise OSError('lost')\n"
        "        return data[: len(data) // 2]\n"
        "    return data\n"
        "s3fs.S3FileSystem._cat_file = cat_file\n"
        f"moegrow.apply(moegrow.depth({BUCKET!r}), 'grown', threads=2)\n"
        "assert len(failed) == 9\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=os.environ)
    assert moegrow.diff(tmp_path / "grown", moegrow.depth(source)).is_empty


def test_a_bucket_with_more_names_than_a_checkpoint_has_is_given_up_page_by_page(
    store, monkeypatch
):
    for number in range(1100):
        store.pipe_file(f"{BUCKET}/more/{number}", b"")
    pages, real = [], type(store)._call_s3

    async def counted(self, method, *arguments, **options):
        pages.append(method)
        return await real(self, method, *arguments, **options)

    monkeypatch.setattr(type(store), "_call_s3", counted)
    monkeypatch.setattr(store_limits, "MOST_ENTRIES", 900)
    with pytest.raises(MoegrowError, match="lists more than 900 names, which no checkpoint has"):
        moegrow.depth(BUCKET)
    assert pages == ["list_objects_v2"]
    monkeypatch.setattr(store_limits, "MOST_ENTRIES", 2000)
    moegrow.depth(BUCKET)
    assert pages.count("list_objects_v2") == 3


def test_what_is_not_there_or_not_readable_is_said(run, store, monkeypatch):
    assert "s3://models/none holds no files" in run("depth", "s3://models/none", code=1).stderr
    done = run("depth", "s3://nobody/none", code=1)
    assert done.stderr.startswith("error: s3://nobody/none ")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = run("depth", BUCKET, code=1)
    assert f"{BUCKET} cannot be read" in done.stderr
    assert "secret-key" not in done.stderr


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://key:secret-key@models/x", "a bucket and a path, and nothing else"),
        ("simplecache::s3://models/x", "does not exist"),
        ("s3://models/x?secret-key=1", "a bucket and a path, and nothing else"),
        ("ftp://models/x", "ftp:// is no address of a source"),
        ("file:///etc", "file:// is no address of a source"),
    ],
)
def test_an_address_that_says_more_than_a_place_is_refused(run, address, says):
    done = run("depth", address, code=None)
    assert done.returncode in (1, 2)
    assert says in done.stderr


def test_a_driver_that_is_not_installed_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "gcsfs.py").write_text("raise ImportError('not here')")
    (tmp_path / "adlfs.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
                       if os.environ.get("PYTHONPATH") else str(tmp_path))  # fmt: skip
    done = run("depth", "gs://models/x", code=1)
    assert "to read from gs:// takes gcsfs, which is not installed" in done.stderr
    assert "moegrow[gs]" in done.stderr.splitlines()[-1]
    assert "moegrow[az]" in run("depth", "az://models/x", code=1).stderr.splitlines()[-1]
