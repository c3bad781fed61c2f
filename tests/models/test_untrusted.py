"""A stranger's files: nothing outside their folder is read, nothing runs, nothing is endless."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import alter
import heron
import pytest
from conftest import MOEGROW

import moegrow
from moegrow.checkpoint import store
from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError
from moegrow.files import untrusted

HANG = 30  # seconds after which a command that should refuse at once counts as hanging
MEMORY = 500_000_000  # bytes that a refusal may take
SHARD = "model-00001-of-00004.safetensors"
SECRET = "-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def refused(begin, tmp_path):
    """Run a command that must end with one message, in bounded memory, and write nothing."""

    def refused(*arguments, says="", code=1, stdin="", cwd=None):
        before = names(tmp_path)
        done = begin(*arguments, stdin=stdin, cwd=cwd).end(HANG)
        told = done.stderr.rstrip()
        assert done.returncode == code, told
        assert done.stdout == ""
        assert told.startswith("error: ")
        assert SECRET not in told
        assert says in told
        assert 0 < done.peak < MEMORY
        assert names(tmp_path) == before
        return told

    return refused


def names(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def read(folder, name):
    with untrusted.opened(folder, name) as file:
        return file.read()


# What is opened


def test_a_plain_file_and_links_within_its_folder_are_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("x")
    (tmp_path / "b").symlink_to("sub/a")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    assert [read(tmp_path, name) for name in ("sub/a", "b", "c")] == [b"x"] * 3


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "sub/../../a", "a\0b"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "a").write_text("x")
    with pytest.raises(MoegrowError):
        read(folder, name)


def special(path, kind):
    """Something under a name that is no plain file."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may not be long
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    else:
        path.symlink_to(kind)


KINDS = ["fifo", "folder", "socket", "circle", "link to nothing", "/dev/zero", "/etc/hostname"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    special(tmp_path / "a", kind)
    with pytest.raises(MoegrowError):
        read(tmp_path, "a")


@pytest.mark.parametrize("name", [CONFIG, INDEX, SHARD, "tokenizer.json", PLAN])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_holds_what_is_no_plain_file_is_refused(source, tmp_path, name, kind):
    (source / name).unlink(missing_ok=True)
    special(source / name, kind)
    if name == PLAN:
        with pytest.raises(MoegrowError):
            moegrow.verify(source)
        return
    if (name, kind) == ("tokenizer.json", "folder"):
        (source / name / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(MoegrowError):
        open_checkpoint(source)


@pytest.mark.parametrize("command", ["depth", "inspect", "verify", "diff"])
@pytest.mark.parametrize("name", [CONFIG, INDEX, PLAN])
def test_no_command_waits_for_a_pipe(refused, source, command, name):
    if name != PLAN:
        (source / PLAN).write_text("{}")
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    if name == PLAN and command != "verify":
        return
    refused(command, source, *([source] if command == "diff" else []))


def test_a_link_to_a_folder_is_refused_wherever_it_leads(source, tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id_rsa").write_text(SECRET)
    (source / "assets").symlink_to(tmp_path / "keys")
    with pytest.raises(MoegrowError, match="leads out"):
        open_checkpoint(source)
    (source / "assets").unlink()
    (source / "real").mkdir()
    (source / "assets").symlink_to("real")
    with pytest.raises(MoegrowError, match="not a plain file"):
        open_checkpoint(source)


def test_a_file_behind_a_link_to_a_folder_is_not_read(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text(SECRET)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "sub").symlink_to(tmp_path / "out")
    with pytest.raises(MoegrowError, match="leads out"):
        read(folder, "sub/a")


def test_folders_without_end_are_refused(source):
    place = source
    for _ in range(200):
        place /= "d"
        place.mkdir()
    with pytest.raises(MoegrowError, match="deep"):
        open_checkpoint(source)


def test_more_side_files_than_any_checkpoint_has_are_refused(source, monkeypatch):
    monkeypatch.setattr(store, "MOST_SIDE_FILES", 50)
    for number in range(60):
        (source / f"{number}.txt").write_text("x")
    with pytest.raises(MoegrowError, match="more than 50 files"):
        open_checkpoint(source)


@pytest.mark.parametrize("exchanged", [SHARD, "tokenizer.json"])
def test_a_file_that_is_exchanged_for_a_link_after_the_check_is_not_read(
    source, tmp_path, exchanged
):
    (source / "tokenizer.json").write_text("x")
    plan = moegrow.depth(source)
    checked = open_checkpoint(source)
    secret = tmp_path / "secret"
    (source / exchanged).rename(secret)
    (source / exchanged).symlink_to(secret)
    with pytest.raises(MoegrowError, match="leads out"):
        moegrow.apply(plan, tmp_path / "grown", checked=checked)
    assert not (tmp_path / "grown").exists()


def test_a_file_that_is_exchanged_between_looking_and_opening_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text(SECRET)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("x")
    look = os.stat

    def exchanging(path, *arguments, **keywords):
        found = look(path, *arguments, **keywords)
        if path == "a":
            (folder / "a").unlink()
            (folder / "a").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(os, "stat", exchanging)
    with pytest.raises(MoegrowError, match="cannot be opened"):
        read(folder, "a")


# The cache of the Hub


@pytest.fixture
def snapshot(source, tmp_path):
    """A checkpoint as the Hub's library lays it out: a folder of links into blobs."""
    repository = tmp_path / "hub" / "models--org--name"
    place = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    (place / "assets").mkdir(parents=True)
    (source / "assets").mkdir()
    (source / "assets" / "vocab.txt").write_text("x")
    for number, file in enumerate(path for path in sorted(source.rglob("*")) if path.is_file()):
        shutil.copy(file, repository / "blobs" / str(number))
        name = file.relative_to(source)
        up = Path(*[".."] * (len(name.parts) + 1))
        (place / name).symlink_to(up / "blobs" / str(number))
    return place


def test_a_snapshot_of_the_hub_is_grown_and_its_side_files_become_plain_files(snapshot, tmp_path):
    moegrow.apply(moegrow.depth(snapshot), tmp_path / "grown")
    assert (tmp_path / "grown" / "assets" / "vocab.txt").read_text() == "x"
    assert not any(path.is_symlink() for path in (tmp_path / "grown").rglob("*"))
    assert moegrow.verify(tmp_path / "grown").ok


def test_only_the_blobs_of_the_same_repository_are_allowed(snapshot, tmp_path):
    other = tmp_path / "hub" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_text(SECRET)
    (snapshot / "notes.txt").symlink_to("../../../models--org--other/blobs/0")
    with pytest.raises(MoegrowError, match="leads out"):
        open_checkpoint(snapshot)


def test_blobs_that_are_a_link_themselves_are_not_followed(snapshot, tmp_path):
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MoegrowError, match="leads out"):
        open_checkpoint(snapshot)


def test_a_folder_that_only_looks_like_a_snapshot_is_none(source, tmp_path):
    place = tmp_path / "work" / "snapshots" / "mine"
    shutil.copytree(source, place)
    (tmp_path / "work" / "blobs").mkdir()
    (tmp_path / "work" / "blobs" / "key").write_text(SECRET)
    (place / "notes.txt").symlink_to("../../blobs/key")
    with pytest.raises(MoegrowError, match="leads out"):
        open_checkpoint(place)


def test_the_folder_of_a_repository_is_answered_with_its_snapshot(snapshot):
    with pytest.raises(MoegrowError) as refused:
        open_checkpoint(snapshot.parent.parent)
    assert str(snapshot) in refused.value.hint


# Nothing of theirs runs


def traps(folder, marker):
    """Modules that leave a mark when anyone imports them, under names that moegrow imports."""
    program = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("modeling_x", "configuration_x", "numpy", "rich", "typer", "json", "tomllib"):
        (folder / f"{name}.py").write_text(program)
    with alter.table(folder / CONFIG) as config:
        config["auto_map"] = {"AutoModelForCausalLM": "modeling_x.X"}
    (folder / "sitecustomize.py").write_text(program)


@pytest.mark.parametrize("inside", [False, True])
def test_programs_in_a_checkpoint_travel_and_never_run(source, tmp_path, inside):
    marker = tmp_path / "ran"
    traps(source, marker)
    cwd = source if inside else tmp_path
    for command in (["inspect", source], ["depth", source, "-o", tmp_path / "grown"]):
        subprocess.run([*MOEGROW, *command], cwd=cwd, check=True, capture_output=True)
    subprocess.run([*MOEGROW, "verify", tmp_path / "grown"], cwd=tmp_path / "grown", check=True)
    assert (tmp_path / "grown" / "modeling_x.py").exists()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_not_opened_and_the_way_to_convert_it_is_said(source, tmp_path, name):
    marker = tmp_path / "ran"
    for file in source.glob("model*"):
        file.unlink()
    # A pickle that calls open(marker, "w") when it is loaded.
    (source / name).write_bytes(b"cbuiltins\nopen\n(V" + str(marker).encode() + b"\nVw\ntR.")
    for place in (source, source / name):
        with pytest.raises(MoegrowError) as refused:
            moegrow.depth(place)
        assert "save_pretrained" in refused.value.hint
    assert not marker.exists()


def test_a_pickle_beside_safetensors_stays_behind(source, tmp_path):
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    moegrow.apply(moegrow.depth(source), tmp_path / "grown")
    assert not (tmp_path / "grown" / "pytorch_model.bin").exists()


# Too much of anything


def hole(path, size):
    with path.open("wb") as file:
        file.truncate(size)


def test_a_config_an_index_a_plan_and_a_family_file_of_gigabytes_are_not_read(
    refused, source, tmp_path
):
    hole(tmp_path / "family.toml", 5 << 30)
    refused("depth", source, "--family", "family.toml", says="and the most that is read is")
    hole(source / CONFIG, 5 << 30)
    refused("depth", source, says="and the most that is read is")
    hole(source / INDEX, 5 << 30)
    refused("inspect", source, says="and the most that is read is")


def test_input_without_end_is_refused(refused):
    with Path("/dev/zero").open("rb") as endless:
        refused("depth", stdin=endless, says="larger than any that moegrow writes")


def test_a_plan_of_one_endless_line_is_refused(refused, tmp_path):
    with (tmp_path / "plan.jsonl").open("wb") as file:
        file.write(b'{"moegrow_plan":1,"x":"')
        file.truncate(5 << 30)
    refused("apply", "plan.jsonl", says="larger than any that moegrow writes")


def with_header(folder, text):
    """A checkpoint of one file with this header and no data."""
    folder.mkdir()
    raw = text.encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    (folder / CONFIG).write_text('{"model_type": "qwen3_moe"}')
    return folder


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


ENTRY = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,0]}}'


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('{"a":' + "[" * 50_000_000, "not valid JSON|more than the|nests too deeply"),
        ('{"a":[' + "[]," * 20_000_000 + "0]}", "more than the"),
        ('{"a":' * 1_000_000, "nests too deeply|not valid"),
        (ENTRY % ",".join("2" * 100_000), "too large"),
        (ENTRY % "1099511627776,1099511627776,0", "too"),
        (ENTRY % ("9" * 5000), "not valid JSON"),
        ('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}', "NaN"),
        ('{"' + "a" * 1001 + '":' + EMPTY + "}", "not 1 to 1000"),
        ("{" + ",".join(f'"{n}":{EMPTY}' for n in range(600_000)) + "}", "more than the"),
        ('{"a":' + EMPTY + ',"a":' + EMPTY + "}", "stands twice"),
    ],
)  # fmt: skip
def test_a_header_that_is_made_to_take_time_or_memory_is_refused(refused, tmp_path, header, says):
    import re

    folder = with_header(tmp_path / "hostile", header)
    assert re.search(says, refused("inspect", folder))


def test_an_index_of_a_million_entries_is_refused(refused, source):
    with alter.table(source / INDEX) as index:
        places = index["weight_map"]
        places |= {
            f"model.layers.{n}.mlp.experts.0.down_proj.weight": SHARD for n in range(1_000_000)
        }
    told = refused("depth", source, says="more than the 1000000 values")
    assert len(told) < 3000


def test_an_index_of_a_hundred_thousand_files_is_refused(refused, source):
    (source / INDEX).write_text(
        json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(100_000)}})
    )
    refused("depth", source, says="names 100000 files")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 1_000_000),
        ("num_hidden_layers", float("nan")),
        ("num_experts", 10**9),
        ("num_local_experts", 10**400),
        ("num_experts_per_tok", -1),
        ("num_experts_per_tok", 10**6),
        ("model_type", "\x1b[2J"),
        ("model_type", ["qwen3_moe"]),
        ("mlp_only_layers", [[[[]]]]),
        ("mlp_only_layers", {"\x1b]0;owned\x07": 1}),
    ],
)
def test_a_config_of_senseless_values_is_refused(refused, source, key, value):
    with alter.table(source / CONFIG) as config:
        config[key] = value
    told = refused("depth", source)
    assert "\x1b" not in told
    assert len(told) < 5000


def test_a_layer_of_an_enormous_number_is_refused(refused, source):
    with alter.weights(source) as tensors:
        name = "model.layers.1000000000000.mlp.gate.weight"
        tensors[name] = tensors["model.layers.0.mlp.gate.weight"]
        name = "model.layers.999999999.mlp.gate.weight"
        tensors[name] = tensors["model.layers.0.mlp.gate.weight"]
    refused("depth", source, says="999999999")


def test_rows_behind_those_of_a_thousand_million_experts_are_refused(refused, checkpoint, tmp_path):
    source = alter.copy(checkpoint("longcat_flash"), tmp_path)
    with alter.table(source / CONFIG) as config:
        config["zero_expert_num"] = 10**9
    refused("width", source, says="not a sensible")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["depth", "--times", "100000000x"], 2),
        (["depth", "--times", "100000x"], 2),
        (["depth", "--to", "100000"], 1),
        (["depth", "--to", "1000000000000"], 2),
        (["width", "--experts", "100000000"], 2),
        (["width", "--experts", "100000000x"], 2),
        (["width", "--experts", "100000"], 1),
    ],
)
def test_a_growth_to_millions_of_tensors_is_refused(refused, source, arguments, code):
    refused(*arguments, source, "--plan", code=code)
    refused(*arguments, source, "-o", "grown", code=code)


# Plans


@pytest.fixture
def header_and_lines(source):
    from moegrow.planning.plan_lines import to_lines

    header, *lines = to_lines(moegrow.width(source))
    return json.loads(header), lines


def told_by(refused, tmp_path, header, lines, *, command=("apply", "plan.jsonl", "-o", "grown")):
    (tmp_path / "plan.jsonl").write_text("\n".join([json.dumps(header), *lines]))
    return refused(*command)


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "~", "~root", "relative", "/dev", "/proc/self/fd", "/nothing\0", "/" * 9],
)
def test_a_plan_whose_source_is_no_folder_of_a_checkpoint_is_refused(
    refused, tmp_path, header_and_lines, path
):
    header, lines = header_and_lines
    header["source"]["path"] = path
    told_by(refused, tmp_path, header, lines)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "..", "", "a/../b.safetensors", "x.bin"]
)
def test_a_plan_whose_weights_lie_elsewhere_is_refused(refused, tmp_path, header_and_lines, name):
    header, lines = header_and_lines
    header["source"]["files"] = [header["source"]["files"][0] | {"name": name}]
    assert "not the name of a weight file" in told_by(refused, tmp_path, header, lines)


def test_a_plan_for_a_checkpoint_whose_digests_it_does_not_know_reads_none_of_it(
    refused, checkpoint, tmp_path, header_and_lines
):
    header, lines = header_and_lines
    private = alter.copy(checkpoint("mixtral"), tmp_path)
    header["source"]["path"] = str(private)
    assert "has changed since the plan was made" in told_by(refused, tmp_path, header, lines)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", [0] * 90_000),
        ("layers", [0] * 10_000_000),
        ("experts", [0] * 90_000),
        ("weight_noise", [[0, 90_000, "normal", 0.1, 0]] * 100_000),
        ("top_k", 10**18),
    ],
)
def test_a_plan_that_asks_for_a_growth_without_end_is_refused(
    refused, tmp_path, header_and_lines, key, value
):
    header, lines = header_and_lines
    header["growth"][key] = value
    if key == "experts":
        header["growth"]["weight_noise"] = header["growth"]["router_noise"] = []
    told_by(refused, tmp_path, header, lines)


@pytest.mark.parametrize("scale", ["1e999999999", "1/1e999999999", "9" * 4000, "0x10", "1_0"])
def test_a_fraction_that_would_take_for_ever_is_refused(refused, tmp_path, header_and_lines, scale):
    header, lines = header_and_lines
    edited = json.loads(lines[0])
    edited["pieces"][0]["scale"] = scale
    told = told_by(refused, tmp_path, header, [json.dumps(edited), *lines[1:]])
    assert "line 2 of the plan" in told


def test_lines_that_were_not_promised_are_not_read(refused, tmp_path, header_and_lines):
    header, lines = header_and_lines
    header["outputs"] = 3
    assert "spells out more" in told_by(refused, tmp_path, header, lines * 1000)
    header["outputs"] = 10**12
    assert "makes no sense" in told_by(refused, tmp_path, header, lines)


# Names that steer a terminal

STEERING = "\x1b[2J\x9b31m\u202e\nerror: all is well"


def is_plain(text):
    return all(mark.isprintable() or mark in "\n\t" for mark in text)


def test_nothing_that_a_checkpoint_says_steers_the_terminal(run, source, tmp_path):
    """In no command, on neither stream, and not in the model card."""
    strange = source.with_name("qwen\x1b[31m\u202e")
    source.rename(strange)
    with alter.table(strange / CONFIG) as config:
        config |= {STEERING: STEERING, "architectures": [STEERING], "notes": "\x9b\u202e"}
    text = (strange / CONFIG).read_text()
    (strange / CONFIG).write_text(json.dumps(json.loads(text), ensure_ascii=False))
    commands = [
        ["inspect", strange], ["depth", strange, "--plan"], ["depth", strange, "--dry-run"],
        ["depth", strange], ["width", strange, "-o", "wide"], ["verify", "wide"],
        ["diff", strange, "wide"], ["diff", "--json", strange, "wide"],
        ["inspect", "--json", strange], ["depth", strange / "x\x1b[0m"],
    ]  # fmt: skip
    for command in commands:
        done = run(*command, code=None)
        assert is_plain(done.stdout + done.stderr), command
    # The line end in the key is spelled out, too.
    assert is_plain((tmp_path / "wide" / "README.md").read_text())
    assert is_plain((tmp_path / "wide" / PLAN).read_text())
    assert moegrow.verify(tmp_path / "wide").ok


def test_nothing_that_a_plan_says_steers_the_terminal_or_the_card(
    run, source, tmp_path, header_and_lines
):
    header, lines = header_and_lines
    header["commands"] = [f"moegrow {STEERING}"]
    header["steps"] = [step | {"says": [STEERING]} for step in header["steps"]]
    plan = "\n".join([json.dumps(header), *lines])
    for command in (
        ["inspect"],
        ["apply", "--dry-run"],
        ["apply", "-o", "grown"],
    ):
        done = run(*command, stdin=plan)
        assert is_plain(done.stdout + done.stderr), command
        assert not any(line.startswith("error: all is well") for line in done.stderr.splitlines())
    card = (tmp_path / "grown" / "README.md").read_text()
    assert is_plain(card)
    assert "\nerror: all is well" not in card


def test_a_family_file_cannot_steer_the_terminal_or_take_for_ever(begin, tmp_path):
    source = heron.build(tmp_path / "heron")
    text = heron.family_text()
    name = "x\x1b[2J"
    (tmp_path / "f.toml").write_text(text.replace('"heron_moe"', '"x\\u001b[2J"'))
    with alter.table(source / CONFIG) as config:
        config["model_type"] = name
    for command in (["inspect", source], ["depth", source, "--dry-run"]):
        done = begin(*command, "--family", "f.toml").end(HANG)
        assert done.returncode == 0, done.stderr
        assert is_plain(done.stdout + done.stderr)


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000, "a" + ".a" * 5000 + " = 1", "x = " + "9" * 5000, "a = 1\n" * 200_000],
)
def test_a_family_file_that_is_made_to_break_its_reader_is_refused(refused, source, tmp_path, text):
    (tmp_path / "f.toml").write_text(text)
    refused("depth", source, "--family", "f.toml")


def test_a_pattern_of_many_stars_takes_no_time(tmp_path):
    from moegrow.families.tensor_names import alternatives

    pattern = alternatives(("a*" * 30 + "b",))
    done = subprocess.run(
        [sys.executable, "-c", f"import re; print(re.fullmatch({pattern!r}, 'a' * 1000))"],
        capture_output=True, text=True, timeout=HANG, check=True,
    )  # fmt: skip
    assert done.stdout == "None\n"
