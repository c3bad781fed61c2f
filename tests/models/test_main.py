"""The command line as a person meets it: what it prints where, and how it refuses."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys

import alter
import pytest
import tiny
import torch
from conftest import MOEGROW

import moegrow
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.cli import main
from moegrow.errors import MoegrowError
from moegrow.planning import plan_file, plan_lines
from moegrow.planning.notes import FunctionLost

COMMANDS = [
    "depth",
    "width",
    "apply",
    "run",
    "recipes",
    "inspect",
    "advise",
    "norms",
    "verify",
    "diff",
    "report",
    "demo",
]


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


@pytest.fixture
def refused(run, source, tmp_path):
    """Run a command that must fail with one message, and leave everything as it was."""

    def refused(*arguments, says, hint="", code=1, stdin=""):
        before = alter.contents(tmp_path)
        done = run(*arguments, code=code, stdin=stdin)
        lines = done.stderr.splitlines()
        assert done.stdout == ""
        assert lines[0].startswith("error: ")
        assert says in done.stderr
        assert sum(line.startswith(("error:", "hint:")) for line in lines) <= 2
        if hint:
            assert lines[-1].startswith("hint: ")
            assert hint in lines[-1]
        assert alter.contents(tmp_path) == before
        return done

    return refused


@pytest.fixture
def growth_of(checkpoint, monkeypatch, capsys):
    """The growth in the plan that a command prints."""

    def growth_of(*arguments):
        monkeypatch.setattr(sys, "argv", ["moegrow", *arguments, str(checkpoint()), "--plan"])
        with pytest.raises(SystemExit, match="0"):
            main.main()
        return json.loads(capsys.readouterr().out.splitlines()[0])["growth"]

    return growth_of


# What works


def test_the_path_of_the_result_is_all_that_is_printed(run, source, tmp_path):
    done = run("depth", source)
    assert done.stdout == "qwen3_moe-depth2x\n"
    assert "layers" in done.stderr
    assert moegrow.verify(tmp_path / "qwen3_moe-depth2x").ok
    assert run("width", source, "-o", "grown", "--quiet").stderr == ""


def test_growths_can_be_piped_as_paths_and_as_plans(run, source, tmp_path):
    path = run("depth", "--mode", "interpose", source).stdout
    assert run("width", "--experts", "2x", stdin=path).stdout == "qwen3_moe-depth2x-width2x\n"
    plan = run("depth", "--mode", "interpose", source, "--plan").stdout
    run("width", "--experts", "2x", "-o", "grown", stdin=plan)
    assert moegrow.diff(tmp_path / "qwen3_moe-depth2x-width2x", tmp_path / "grown").is_empty
    run("width", "-", "-o", "again", stdin=plan)
    assert moegrow.diff(tmp_path / "again", tmp_path / "grown").is_empty


def test_a_plan_is_kept_and_applied_later(run, source, tmp_path):
    (tmp_path / "plan.jsonl").write_text(run("width", source, "--plan").stdout)
    assert run("apply", "plan.jsonl", "-o", "one").stdout == "one\n"
    run("apply", "-o", "two", stdin=(tmp_path / "plan.jsonl").read_text())
    run("width", source, "-o", "three")
    assert moegrow.diff(tmp_path / "one", tmp_path / "two").is_empty
    assert moegrow.diff(tmp_path / "one", tmp_path / "three").is_empty


def test_a_dry_run_shows_numbers_and_writes_nothing(run, source, tmp_path):
    before = alter.contents(tmp_path)
    done = run("width", source, "--dry-run")
    assert done.stdout == ""
    for word in ("layers", "experts", "top-k", "parameters", "active", "free", "nothing was"):
        assert word in done.stderr
    assert alter.contents(tmp_path) == before


def test_what_cannot_be_preserved_is_said(run, source):
    for flags, options in (
        (["--experts", 6], {"experts": 6}), (["--top-k", "keep"], {"top_k": "keep"}),
    ):  # fmt: skip
        (step,) = moegrow.width(source, **options).steps
        (lost,) = (note for note in step.notes if isinstance(note, FunctionLost))
        assert f"width: {lost}\n" in run("width", *flags, source, "--dry-run").stderr


def test_flags_reach_the_writer(run, source, tmp_path):
    run("depth", source, "-o", "grown", "--threads", 1, "--max-shard-size", "100KB")
    assert len(list((tmp_path / "grown").glob("*.safetensors"))) > 3
    run("width", source, "-o", "grown", "--force")
    assert moegrow.inspect(tmp_path / "grown")["experts"] == 8


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        (["--times", "3x"], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        (["--to", "6"], [0, 1, 1, 2, 3, 3]),
        (["--keep-first", "1", "--keep-last", "1"], [0, 1, 1, 2, 2, 3]),
        (["--group", "2"], [0, 1, 0, 1, 2, 3, 2, 3]),
        (["--mode", "stack"], [0, 1, 2, 3, 0, 1, 2, 3]),
        (["--mode", "expand", "--every", "2"], [0, 1, 1, 2, 3, 3]),
        (["--mode", "overlap", "--drop", "1"], [0, 1, 2, 1, 2, 3]),
        (["--layers", "0,0,1-3"], [0, 0, 1, 2, 3]),
    ],
)
def test_every_depth_flag_gives_its_layer_map(growth_of, flags, layers):
    growth = growth_of("depth", *flags)
    assert growth["layers"] == layers
    assert growth["silent"] == ([2, 5] if "expand" in flags else [])


def test_new_layers_are_copies_or_silent_as_asked(growth_of):
    assert growth_of("depth", "--new-layers", "identity")["silent"] == [1, 3, 5, 7]
    expand = ("depth", "--mode", "expand", "--every", "2")
    assert growth_of(*expand, "--new-layers", "copy")["silent"] == []


@pytest.mark.parametrize(
    ("flags", "top_k", "weight", "router"),
    [
        ([], 4, [[4, 8, "normal", 0.01, 0]], [[4, 8, "normal", 0.01, 0]]),
        (["--noise", "0"], 4, [], []),
        (["--router", "copy", "--seed", "3"], 4, [[4, 8, "normal", 0.01, 3]], []),
        (["--top-k", "keep"], 2, [[4, 8, "normal", 0.01, 0]], [[4, 8, "normal", 0.01, 0]]),
        (["--top-k", "3"], 3, [[4, 8, "normal", 0.01, 0]], [[4, 8, "normal", 0.01, 0]]),
        (["--preset", "upcycling"], 2, [], [[4, 8, "uniform", 0.001, 0]]),
        (["--preset", "upcycling", "--top-k", "scale"], 4, [], [[4, 8, "uniform", 0.001, 0]]),
        (["--preset", "orthogonal"], 4, [[4, 8, "normal", 0.01, 0]], [[4, 8, "normal", 0.01, 0]]),
    ],
)
def test_every_width_flag_gives_its_growth(growth_of, flags, top_k, weight, router):
    growth = growth_of("width", *flags)
    assert growth["top_k"] == top_k
    assert growth["weight_noise"] == weight
    assert growth["router_noise"] == router


def test_the_command_is_noted_in_the_plan(run, source):
    header = json.loads(run("width", source, "--seed", "5", "--plan").stdout.splitlines()[0])
    (command,) = header["commands"]
    assert command.startswith("moegrow width ")
    assert "--seed 5" in command


def test_every_command_is_listed(run):
    listed = run("--help").stdout
    assert all(f"  {command} " in listed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moegrow", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main.main()
    assert capsys.readouterr().out.startswith("Usage: moegrow " + command)


def test_the_version_is_printed(run):
    assert run("--version").stdout == f"moegrow {moegrow.__version__}\n"


def test_a_reader_that_has_had_enough_is_no_error(source):
    done = subprocess.run(
        f"{' '.join(MOEGROW)} depth {source} --plan | head -c 10",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == '{"moegrow_'
    assert done.stderr == ""


def test_standard_output_that_is_closed_is_no_error(source):
    for arguments in (["norms", source], ["advise", source], ["norms", "--csv", source]):
        command = shlex.join(map(str, [sys.executable, "-m", "moegrow", *arguments]))
        done = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_demo_grows_and_verifies(run, tmp_path):
    done = run("demo")
    assert done.stdout == "moegrow-demo/tiny-moe-depth2x-width2x\n"
    assert "is as planned" in done.stderr
    (growth,) = (line for line in done.stderr.splitlines() if line.startswith("$ moegrow depth"))
    grown = tmp_path / "moegrow-demo" / "tiny-moe-depth2x-width2x"
    made = alter.contents(grown)
    shutil.rmtree(grown)
    typed = growth[2:].replace("moegrow ", f"{' '.join(MOEGROW)} ")
    subprocess.run(typed, shell=True, check=True, cwd=tmp_path, capture_output=True)
    again = alter.contents(grown)
    assert all(again[name] == made[name] for name in made if name not in ("README.md", PLAN))
    assert again.keys() == made.keys()
    assert len(list((tmp_path / "moegrow-demo" / "tiny-moe").glob("*.safetensors"))) > 1
    run("demo", code=1)


def test_a_checkpoint_in_the_hub_cache_is_grown(run, source, tmp_path):
    repository = tmp_path / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    run("depth", snapshot, "-o", "grown")
    tiny.load(tmp_path / "grown")
    assert not any(path.is_symlink() for path in (tmp_path / "grown").iterdir())


def test_an_odd_key_in_a_config_can_be_printed(run, source, checkpoint):
    with alter.table(source / CONFIG) as config:
        config["\ud800\x1b[2J"] = 1
    printed = run("diff", checkpoint(), source).stdout
    assert "config" in printed
    assert "\x1b" not in printed


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["depth", "--times", "0x"], "makes the model smaller"),
        (["depth", "--times", "-1"], "--times '-1' is not a factor"),
        (["depth", "--times", "abc"], "--times 'abc' is not a factor"),
        (["depth", "--times", "1.3x"], "is not a whole number"),
        (["depth", "--to", "2"], "fewer than the 4"),
        (["depth", "--to", "-4"], "fewer than the 4"),
        (["depth", "--to", "8", "--times", "2x"], "both say how deep"),
        (["depth", "--mode", "sideways"], "sideways"),
        (["depth", "--every", "2"], "--every does not go with --mode interpose"),
        (["depth", "--mode", "stack", "--group", "2"], "--group does not go with --mode stack"),
        (["depth", "--mode", "expand"], "needs --every"),
        (["depth", "--mode", "overlap"], "needs --drop"),
        (["depth", "--layers", "0,9"], "outside the model's layers 0 to 3"),
        (["depth", "--layers", "0", "--times", "2x"], "--times does not go with it"),
        (["depth", "--layers", "0", "--mode", "stack"], "--mode does not go with it"),
        (["depth", "--keep-first", "4"], "leave nothing to repeat"),
        (["width", "--experts", "0x"], "makes the model smaller"),
        (["width", "--experts", "-1"], "is not a factor"),
        (["width", "--experts", "abc"], "--experts 'abc' is not a factor"),
        (["width", "--experts", "3"], "fewer than the 4 experts"),
        (["width", "--experts", "0"], "fewer than the 4 experts"),
        (["width", "--experts", "1.3x"], "is not a whole number"),
        (["width", "--experts", "9" * 5000], "--experts"),
        (["width", "--top-k", "9"], "--top-k 9 does not fit 8 experts"),
        (["width", "--top-k", "0"], "--top-k 0 does not fit"),
        (["width", "--top-k", "some"], "--top-k some is not known"),
        (["width", "--noise", "-0.1"], "--noise"),
        (["width", "--noise", "nan"], "--noise nan makes no sense"),
        (["width", "--noise", "inf"], "--noise inf makes no sense"),
        (["width", "--noise", "1e35"], "--noise 1e+35"),
        (["width", "--noise", "much"], "--noise"),
        (["width", "--seed", "-1"], "--seed -1 is out of range"),
        (["width", "--seed", "99999999999999999999"], "--seed"),
        (["width", "--preset", "x"], "x"),
        (["width", "--threads", "0"], "threads"),
        (["width", "--max-shard-size", "5 apples"], "is not a size"),
        (["width", "--max-shard-size", "infGB"], "is not a size"),
        (["width", "--plan", "-o", "grown"], "--output does not go with it"),
        (["width", "--plan", "-o", ""], "--output does not go with it"),
        (["width", "--plan", "--dry-run"], "--dry-run does not go with it"),
        (["width", "--wdith"], "--wdith"),
    ],
)
def test_wrong_usage_exits_with_two(source, tmp_path, monkeypatch, capsys, arguments, says):
    before = alter.contents(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moegrow", *arguments, str(source)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main.main()
    printed, told = capsys.readouterr()
    assert ended.value.code == 2
    assert printed == ""
    assert told.startswith("error: ")
    assert says in told
    assert alter.contents(tmp_path) == before


@pytest.mark.parametrize(
    "arguments", [["depth", "--to", "1000000000000"], ["width", "--experts", "1000000000000"]]
)
def test_a_growth_without_end_is_refused_before_it_takes_all_memory(source, tmp_path, arguments):
    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [*MOEGROW, *arguments, source, "--plan"],
        capture_output=True, text=True, cwd=tmp_path, preexec_fn=little_memory, timeout=15,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_unknown_command_exits_with_two(refused):
    refused("grow", says="grow", code=2)
    refused("verify", "a", "b", says="b", code=2)


@pytest.mark.parametrize(
    ("arguments", "message", "meant"),
    [
        (["dpeth"], "no such command 'dpeth'", "depth"),
        (["depth", "--tims", "3x"], "no such option: --tims", "--times"),
        (
            ["width", "--max-shardsize", "1GB"],
            "no such option: --max-shardsize",
            "--max-shard-size",
        ),
        (["depth", "--mode", "stak"], "'stak' is not one of", "stack"),
        (["depth", "--new-layers", "identiy"], "'identiy' is not one of", "identity"),
        (["width", "--preset", "upcyling"], "'upcyling' is not one of", "upcycling"),
        (["width", "--top-k", "kep"], "--top-k kep is not known", "keep"),
    ],
)
def test_a_slip_is_answered_with_the_word_that_was_meant(
    refused, source, arguments, message, meant
):
    done = refused(*arguments, source, says=message, hint=f"did you mean {meant}? ", code=2)
    assert "Did you mean" not in done.stderr.splitlines()[0]


def test_a_model_type_that_is_nearly_known_is_answered_with_that(refused, source):
    with alter.table(source / CONFIG) as config:
        config["model_type"] = "qwen3moe"
    refused("depth", source, says="'qwen3moe' is not known", hint="did you mean qwen3_moe? ")


# Bad input


def test_a_source_that_is_none(refused, source, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("depth", "nothing", says="nothing does not exist")
    refused("depth", "empty", says="holds no config.json")
    refused("depth", tmp_path, says="holds no config.json", hint=str(source))
    refused("depth", "~nobody-of-this-name/ckpt", says="nobody-of-this-name")
    refused("depth", source / CONFIG, says="config.json", hint="folder")


def test_an_unknown_model_type(refused, source):
    with alter.table(source / CONFIG) as config:
        config["model_type"] = "llama"
    refused("depth", source, says="'llama' is not known", hint="mixtral")


def test_a_missing_or_cut_shard(refused, source):
    shard = sorted(source.glob("*.safetensors"))[1]
    os.truncate(shard, 5000)
    refused("depth", source, says=f"{shard.name} should be", hint="fetch it again")
    shard.unlink()
    refused("depth", source, says=f"{shard.name} is missing", hint="fetch the missing files")


def test_a_name_that_would_steer_the_terminal(refused, source):
    with alter.table(source / INDEX) as index:
        index["weight_map"] |= {"a\x1b[2J": "b\x1b[2J.safetensors"}
    assert "\x1b" not in refused("depth", source, says="not a file in").stderr


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/hostname"])
def test_an_index_that_leads_out_of_the_folder(refused, source, name):
    with alter.table(source / INDEX) as index:
        index["weight_map"]["lm_head.weight"] = name
    refused("depth", source, says="not a file in the checkpoint's own folder")


def test_a_link_out_of_the_folder(refused, source, tmp_path):
    (tmp_path / "id_rsa").write_text("secret")
    (source / "vocab.txt").symlink_to(tmp_path / "id_rsa")
    refused("depth", source, says="leads out of the checkpoint", hint="replace the link")


def changed_header(source):
    with alter.weights(source) as tensors:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].half()


def changed_config(source):
    with alter.table(source / CONFIG) as config:
        config["rms_norm_eps"] = 1e-5


def trained_in_place(source):
    for file in source.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        begin = 8 + int.from_bytes(content[:8], "little")
        values = torch.frombuffer(content, dtype=torch.float32, offset=begin)
        values *= 1.001
        file.write_bytes(content)


@pytest.mark.parametrize("change", [changed_header, changed_config, trained_in_place])
def test_a_plan_whose_source_has_changed(run, refused, source, tmp_path, change):
    plan = run("depth", source, "--plan").stdout
    (tmp_path / "plan.jsonl").write_text(plan)
    change(source)
    says, hint = "has changed since the plan was made", "make the plan again"
    refused("width", stdin=plan, says=says, hint=hint)
    refused("apply", "plan.jsonl", "-o", "grown", says=says, hint=hint)


def test_a_plan_whose_source_is_gone(run, refused, source):
    plan = run("depth", source, "--plan").stdout
    shutil.rmtree(source)
    refused("width", stdin=plan, says="does not exist")


def test_a_plan_cut_short(run, refused, source):
    plan = run("depth", source, "--plan").stdout
    lines = plan.splitlines(keepends=True)
    refused("apply", "-o", "grown", stdin="".join(lines[:-1]), says="promises", hint="cut short")
    refused("width", stdin=plan[:-20], says=f"line {len(lines)} of the plan is malformed")


def test_an_edited_plan_is_written_by_apply_and_not_grown(run, refused, source, tmp_path):
    lines = run("depth", source, "--plan").stdout.splitlines()
    edited = json.loads(lines[-1])
    assert edited["name"] == "model.norm.weight"
    edited["pieces"][0]["scale"] = "1/2"
    plan = "\n".join([*lines[:-1], json.dumps(edited)])
    refused("width", stdin=plan, says="it was edited", hint="moegrow apply")
    run("apply", "-o", "grown", stdin=plan)
    old, new = tiny.tensors(source), tiny.tensors(tmp_path / "grown")
    assert torch.equal(new["model.norm.weight"], old["model.norm.weight"] / 2)
    assert moegrow.verify(tmp_path / "grown").ok


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", [0, 99]), ("layers", []), ("experts", [0, 99]), ("experts", []), ("top_k", 0),
        ("top_k", 99),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", [moegrow.width, moegrow.depth, moegrow.inspect])
def test_a_growth_that_makes_no_sense_is_refused(checkpoint, key, value, verb):
    header, *lines = plan_lines.to_lines(moegrow.depth(checkpoint("qwen3_next")))
    edited = json.loads(header)
    edited["growth"][key] = value
    with pytest.raises(MoegrowError):
        verb(plan_file.from_lines([json.dumps(edited), *lines]))


@pytest.mark.parametrize("steps", [[{}], [{"axis": "depth"}], [{"axis": 5, "says": 5}]])
def test_steps_that_make_no_sense_are_refused(refused, source, steps):
    header, *lines = plan_lines.to_lines(moegrow.depth(source))
    plan = "\n".join([json.dumps(json.loads(header) | {"steps": steps}), *lines])
    refused("apply", "-o", "grown", stdin=plan, says="plan")


def test_an_edited_plan_cannot_read_outside_its_source(run, refused, source, tmp_path):
    lines = run("depth", source, "--plan").stdout.splitlines()
    header = json.loads(lines[0])
    header["source"]["path"] = str(tmp_path)
    header["source"]["files"][0]["name"] = f"{source.name}/{header['source']['files'][0]['name']}"
    refused("apply", "-o", "grown", stdin="\n".join([json.dumps(header), *lines[1:]]), says="")


def test_what_is_not_classified_or_missing_or_too_many(refused, source):
    with alter.weights(source) as tensors:
        tensors["model.layers.1.mlp.mystery"] = tensors["model.norm.weight"]
        del tensors["model.layers.2.mlp.experts.1.up_proj.weight"]
        router = "model.layers.3.mlp.gate.weight"
        tensors[router] = tensors[router].repeat(2, 1)
    done = refused("width", source, says="not laid out as qwen3_moe")
    for told in ("mlp.mystery", "experts.1.up_proj.weight is missing", "8 rows for 4 experts"):
        assert told in done.stderr


def test_a_config_that_disagrees(refused, source):
    with alter.table(source / CONFIG) as config:
        config["num_hidden_layers"] = 5
    refused("depth", source, says="says 5 layers, and tensors of layer 4 are missing")
    with alter.table(source / CONFIG) as config:
        config |= {"num_hidden_layers": 4, "num_experts": 8}
    refused("depth", source, says="num_experts 8, num_local_experts 4")


def test_a_checkpoint_of_bin_files(refused, source):
    for file in source.glob("model*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"x")
    refused("depth", source, says="only pytorch_model.bin", hint="save_pretrained")


def test_noise_on_fp8_weights(run, refused, source, tmp_path):
    with alter.weights(source) as tensors:
        for name in tensors:
            if ".experts." in name:
                tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    refused("width", source, says="stored as F8_E4M3", hint="--noise 0")
    run("width", "--noise", "0", source, "-o", "grown")
    assert moegrow.verify(tmp_path / "grown").ok


def test_a_dense_first_layer_that_would_be_stacked(run, refused, checkpoint):
    source = checkpoint("deepseek_v3")
    done = refused("depth", "--mode", "stack", source, says="first_k_dense_replace")
    assert "--mode interpose" in done.stderr
    assert "--keep-first 1" in done.stderr
    run("depth", "--mode", "stack", "--keep-first", "1", source, "--plan")
    run("depth", "--mode", "interpose", source, "--plan")


def test_an_output_that_exists_already(run, refused, source):
    run("depth", source, "-o", "grown")
    refused("depth", source, "-o", "grown", says="grown exists already", hint="--force")
    refused("depth", source, "--force", "-o", source, says="the source")
    refused("depth", source, "-o", source / "grown", says="is inside the source")
    refused("depth", source, "-o", "a/b", says="is not a folder", hint="mkdir -p")


def test_input_that_is_no_plan_and_no_path(refused, source):
    refused("depth", says="nothing came in on standard input")
    refused("depth", "-", says="nothing came in on standard input")
    refused("depth", stdin="\n", says="nothing came in")
    refused("depth", stdin="one\ntwo\n", says="neither a plan nor one line with a path")
    refused("depth", stdin="{}\n", says="not a plan that moegrow can read")
    refused("depth", stdin="{\n", says="line 1 of the plan is not valid JSON")
    refused("depth", stdin="nothing\n", says="nothing does not exist")
    refused("apply", source, says="is not a plan", hint="--plan")
    refused("verify", source, says=f"holds no {PLAN}")


def test_bytes_on_standard_input_that_are_no_text(source, tmp_path):
    weights = next(source.glob("*.safetensors")).read_bytes()
    strictly = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [*MOEGROW, "depth"], input=weights, capture_output=True, cwd=tmp_path, env=strictly
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr
