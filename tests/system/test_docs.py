"""The documentation is true: transcripts are run, tables and numbers compared with the code."""

import doctest
import hashlib
import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import NormalDist

import forks
import heron
import msgspec
import numpy as np
import pytest
import shapes
from repository import DOCS, ROOT
from test_floors import PACKAGES

import moegrow
from moegrow import steps
from moegrow.cli.demo import make_checkpoint
from moegrow.families import per_layer, registry, schema
from moegrow.options import described
from moegrow.planning import plan_lines
from moegrow.recipes import recipe

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PACKAGE = Path(moegrow.__file__).parent

# What one run and the next have different, and what stands for it.
MASKS = {
    r"\b[0-9a-f]{64}\b": "SHA-256",
    r"\d+\.\d s \([\d.]+ \w+/s\)": "SECONDS",
    r"[\d.]+ [KMGT]B free( \(not enough\))?": "FREE DISK",
    r"\b\d(\.\d+)?e-\d\d\b": "ROUNDING",
    r"peak memory [\d.]+ [KMGT]B": "PEAK MEMORY",
}

# A block of code, and the paragraph before it that says to readers why it is not run.
BLOCK = re.compile(
    r"(?P<mark>^\*Not run by the tests: (?:[^*\n]|\n(?!\n))+\*\n\n)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)

# Published models that pages name as folders: checkpoints of their shapes, made of holes.
MODELS: dict[str, Callable[[Path], int]] = {
    "Qwen3-30B-A3B": shapes.qwen3_30b_a3b,
    "DeepSeek-V3": shapes.deepseek_v3,
    "gpt-oss-20b": shapes.gpt_oss_20b,
    "gpt-oss-20b-bf16": partial(shapes.gpt_oss_20b, packed=False),
}


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of one language on a page, but for those marked as not run."""
    found = BLOCK.finditer(page.read_text())
    return [it["code"] for it in found if it["language"] == language and not it["mark"]]


def transcripts(page: Path) -> Iterator[tuple[str, str]]:
    """Each command of a page's console blocks, with the output that the page shows below it."""
    for block in blocks(page, "console"):
        # The demo shows commands itself, so what stands below it is all its output.
        parts = 1 if block.startswith("$ moegrow demo") else 0
        for part in re.split(r"^\$ ", block, maxsplit=parts, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def section(page: Path, title: str) -> str:
    """The text below a heading, up to the next of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    assert found, f"{page.name} has no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, headings and rules left out."""
    lines = text.splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line, below in pairwise([*lines, ""])
        if line.startswith("|") and not line.startswith("|---") and not below.startswith("|---")
    ]


def masked(text: str) -> str:
    for pattern, word in MASKS.items():
        text = re.sub(pattern, word, text)
    return text


def shows(page: str, output: str) -> bool:
    """Whether output is as a page shows it; a line of … there stands for any lines."""
    parts = re.split(r"^…\n", masked(page), flags=re.M)
    return bool(re.fullmatch("(?s:.*)".join(map(re.escape, parts)), masked(output)))


def as_moegrow(nursery: forks.Nursery) -> str:
    """What makes a shell know moegrow."""
    return f'moegrow() {{ {shlex.join(nursery.command)} "$@"; }}\n'


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Run a line in a folder that the pages call /home/you; gives exit code and all output."""

    def shell(line: str) -> tuple[int, str]:
        name = "nursery_with_torch" if "--logits" in line else "nursery"
        start = f"set -o pipefail; {as_moegrow(request.getfixturevalue(name))}"
        done = subprocess.run(
            ["bash", "-c", start + line], cwd=tmp_path, text=True, check=False, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout.replace(str(tmp_path.resolve()), "/home/you")

    return shell


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_program_of_a_page_runs_as_shown(
    page, shell, tmp_path, request, monkeypatch
):
    commands = list(transcripts(page))
    if page.name == "README.md":
        commands = commands[2:]  # those install, which is for .ci/run
    if any(re.search(r"\bjq ", command) for command, _ in commands) and not shutil.which("jq"):
        pytest.skip("the page uses jq, which is not installed")
    make_checkpoint(tmp_path / "ckpt")
    if any("deepseek" in command for command, _ in commands):
        checkpoint = request.getfixturevalue("checkpoint")
        shutil.copytree(checkpoint("deepseek_v3"), tmp_path / "deepseek")
    if any("heron" in command for command, _ in commands):
        heron.build(tmp_path / "heron")
        (tmp_path / "heron.toml").write_text(heron.family_text())
    for name, build in MODELS.items():
        if any(name in command for command, _ in commands):
            build(tmp_path / name)
    for command, output in commands:
        code, said = shell(command)
        fails = "||" not in command and ("error: " in output or "differs from" in output)
        assert bool(code) == fails, f"$ {command}\nexit {code}\n{said}"
        assert "Traceback" not in said
        if output:
            assert shows(output, said), f"$ {command}\n{said}"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}  # a program may go on with what one above it has defined
    for program in blocks(page, "python"):
        exec(compile(program, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_is_run_or_says_that_it_is_not(page):
    text = page.read_text()
    assert not re.search(r"^[ >]+```", text, re.M), "a block that BLOCK does not find"
    found = list(BLOCK.finditer(text))
    assert len(found) * 2 == len(re.findall(r"^```", text, re.M))
    for block in found:
        start = block["code"].splitlines()[0]
        if block["language"] == "console":
            assert start.startswith("$ "), start
        elif block["language"] == "bash":
            assert page == DOCS / "slurm.md"  # run by a test of its own
        elif not block["mark"]:
            # Whatever else a shell would run; console and Python are run, and data is not.
            assert block["language"] in {"python", "pycon", "json", "toml", "yaml", "text"}, start
    assert text.count("Not run by the tests") == sum(bool(block["mark"]) for block in found)


def test_the_job_array_of_the_page_on_slurm_makes_the_result_of_one_command(
    shell, nursery, tmp_path
):
    page = DOCS / "slurm.md"
    ((command, _), *_) = transcripts(page)
    (script,) = blocks(page, "bash")
    (tmp_path / "grow.sh").write_text(f"{as_moegrow(nursery)}{script}")
    make_checkpoint(tmp_path / "ckpt")
    for line in (command, "moegrow apply plan.jsonl -o grown", "mv grown one"):
        assert not shell(line)[0]
    (tasks,) = re.findall(r"^#SBATCH --array=1-(\d+)$", script, re.M)
    task = f"SLURM_ARRAY_TASK_ID=$k SLURM_ARRAY_TASK_COUNT={tasks} bash grow.sh > log$k 2>&1"
    code, said = shell(f"for k in $(seq {tasks} -1 1); do {task} || echo $k & done; wait; cat log*")
    assert not code
    assert re.findall(r"^\d+$", said, re.M) == []
    assert said.count("\ngrown\n") >= 1
    assert shell("diff -r one grown") == (0, "")


def test_what_the_page_on_python_shows_is_what_python_gives(tmp_path, monkeypatch):
    make_checkpoint(tmp_path / "ckpt")
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks(DOCS / "python.md", "pycon"))
    examples = doctest.DocTestParser().get_doctest(text, {}, "python.md", "python.md", 0)
    assert len(examples.examples) > 15
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    said: list[str] = []
    runner.run(examples, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)


def test_every_method_of_a_model_is_on_the_page_on_python():
    told = {row[0] for row in rows((DOCS / "python.md").read_text())}
    for name in moegrow.Model.__dict__:
        if not name.startswith("_") and name != "opened":
            assert any(f"model.{name}" in cell for cell in told), name


def test_the_first_screen_of_the_readme_installs_tests_and_shows_the_demo():
    (install, _), (test, _), (demo, _) = islice(transcripts(ROOT / "README.md"), 3)
    assert install.startswith("python3 -m venv .venv && ")
    assert install.endswith(" && pip install -c constraints.txt . && moegrow demo")
    # .ci/run splits this line at its first && and runs both halves.
    assert test == "pip install -c constraints.txt -e '.[test]' && pytest -n auto"
    assert demo == "moegrow demo"


def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                assert anchor in {t.lower().replace(" ", "-") for t in titles}, link


def test_the_command_reference_names_every_command_and_every_option_of_help(run):
    page = DOCS / "commands.md"
    commands = re.findall(r"^  (\w+) ", run("--help").stdout.partition("Commands:")[2], re.M)
    assert commands
    assert re.findall(r"^## moegrow ?(\w*)$", page.read_text(), re.M) == ["", *commands]
    overview = page.read_text().partition("\n## ")[0]
    assert re.findall(r"^    moegrow (\w+)", overview, re.M) == commands

    def documented(title: str) -> set[str]:
        first = [row[0] for row in rows(section(page, title))]
        return {flag for cell in first for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", cell)}

    def helped(*command: str) -> tuple[set[str], str]:
        text = run(*command, "--help").stdout
        lines = re.findall(r"^  (-.*)$", text, re.M)
        flags = {flag for line in lines for flag in re.findall(r"(?:^|, )(--?[a-z-]+)", line)}
        return flags - {"-h", "--help"}, text

    assert documented("moegrow") - {"-h", "--help"} == helped()[0]
    for command in commands:
        text = section(page, f"moegrow {command}")
        shared = documented("Writing options") if "(#writing-options)" in text else set()
        flags, help_text = helped(command)
        assert documented(f"moegrow {command}") | shared == flags, command
        for choice in re.findall(r"<([a-z]+(?:\|[a-z]+)+)>", help_text):
            assert choice.replace("|", r"\|") in text


def test_every_model_type_is_named():
    page = (DOCS / "families.md").read_text()
    named = {row[0].strip("`") for row in rows(page)} | set(re.findall(r"^- `(\w+)`", page, re.M))
    assert named == set(registry.known_types())
    counted = re.search(r"under (\d+)\s+model\s+types", (ROOT / "README.md").read_text())
    assert counted
    assert int(counted[1]) == len(named)


def test_the_table_of_files_is_current():
    spec = importlib.util.spec_from_file_location("file_table", DOCS / "file_table.py")
    file_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file_table)
    text = file_table.PAGE.read_text()
    assert text == file_table.page(text), "run python docs/file_table.py"
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert packages == set(file_table.PACKAGES) - {""}


def test_every_file_that_the_architecture_page_names_is_there():
    prose = (DOCS / "architecture.md").read_text().partition("## The files")[0]
    for name in re.findall(rf"`((?:{'|'.join(PACKAGES)})/[a-z_0-9]+)`", prose):
        assert (PACKAGE / f"{name}.py").is_file(), name


def test_every_key_of_the_family_files_is_explained():
    tables = {
        "": [schema.Setting],
        "tensors": [schema.Tensors],
        "config": [schema.ConfigKeys],
        "config.per_layer": [schema.PerLayer, schema.Rule],
        "depth": [schema.DepthTraits, schema.SharedIndexer, schema.FirstLayers],
        "router": [schema.Router, schema.Groups],
    }
    parts = re.split(r"^### (.*)\n", section(heron.PAGE, "Reference"), flags=re.M)
    texts = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    assert texts.keys() == tables.keys()
    explained = {
        title: {word for row in rows(text) for word in re.findall(r"^`([a-z_]+)`$", row[0])}
        for title, text in texts.items()
    }
    keys = {
        title: {entry.encode_name for cls in classes for entry in msgspec.structs.fields(cls)}
        for title, classes in tables.items()
    }
    top = {entry.encode_name for entry in msgspec.structs.fields(schema.Family)} - {"name"}
    keys[""] |= {"model_types", "types", "like", *top}
    keys["config.per_layer"] |= per_layer._FORMS.keys()
    assert explained == keys


def test_every_key_of_a_plan_is_explained(tmp_path):
    make_checkpoint(tmp_path / "ckpt")
    plan = moegrow.depth(tmp_path / "ckpt", new_layers="identity")
    lines = [json.loads(line) for line in plan_lines.to_lines(moegrow.width(plan))]
    assert lines[0].pop("recipe")  # its steps are those of docs/recipes.md
    keys: set[str] = {"recipe"}

    def collect(value: object) -> None:
        if isinstance(value, dict):
            keys.update(value)
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list):
                collect(inner)

    collect(lines)
    assert {"noise", "scale", "silent", "preserves_function"} <= keys
    keys |= {"axis", "shift", "family_text"}  # those that this plan has no use for
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`.*?`", PLAN_PAGE.read_text()))))
    assert keys <= words


def test_every_key_of_a_recipe_is_explained():
    page = section(DOCS / "recipes.md", "One of your own")
    told = {row[0].strip("`"): row[1] for row in rows(page)}
    top = {field for field in recipe.Recipe.__dataclass_fields__ if field != "steps"}
    assert told.keys() == {"moegrow_recipe", "step", *top, *steps.KINDS}
    for grow, kind in steps.KINDS.items():
        assert re.findall(r"`(\w+)`", told[grow]) == list(described(kind))


PLAN_PAGE = DOCS / "plan-format.md"
NOISE_PAGE = DOCS / "noise.md"


# From here to the next comment: the noise, written from docs/noise.md alone.

MASK = (1 << 64) - 1


def round32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def exactly(value: float) -> float:
    return value


def philox(k0: int, k1: int, counter: int) -> list[int]:
    """One block of Philox4x64-10: four words."""
    c0, c1, c2, c3 = (counter >> shift & MASK for shift in (0, 64, 128, 192))
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (q >> 64) ^ c1 ^ k0, q & MASK, (p >> 64) ^ c3 ^ k1, p & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def key_bytes(seed: int, name: str, row: int, use: str = "noise") -> bytes:
    return hashlib.sha256(f"moegrow-{use}-1\n{seed}\n{name}\n{row}".encode()).digest()[:16]


def drawn(key: bytes) -> Iterator[int]:
    """The draws of 16 bits, without end."""
    counter = 0
    while True:
        counter += 1
        for word in philox(*struct.unpack("<QQ", key), counter):
            yield from (word >> shift & 0xFFFF for shift in (0, 16, 32, 48))


@pytest.fixture(scope="module")
def table() -> list[float]:
    z = [NormalDist().inv_cdf((d + 0.5) / 65536) for d in range(32768, 65536)]
    s = math.sqrt(math.fsum(value * value for value in z) / 32768)
    upper = [round32(value / s) for value in z]
    return [-value for value in reversed(upper)] + upper


def sigma(x: list[float], rounded: Callable[[float], float]) -> float:
    first = x[:256]
    r = rounded(math.fsum(first) / len(first))
    y = [rounded(value - r) for value in x]
    sums, squares = [0.0] * 4096, [0.0] * 4096
    for chunk in range(0, len(y), 65536):
        part = y[chunk : chunk + 65536]
        for lane in range(4096):
            a = b = 0.0
            for value in part[lane::4096]:
                a, b = rounded(a + value), rounded(b + rounded(value * value))
            sums[lane] += a
            squares[lane] += b
    s, q = math.fsum(sums), math.fsum(squares)
    return math.sqrt(max(q - (s * s) / len(x), 0) / len(x))


# Of floats: bits of mantissa, the smallest exponent, the largest number, bits without the sign.
FLOATS = {
    "BF16": (7, -126, Fraction(255 * 2**120), 15), "F16": (10, -14, Fraction(65504), 15),
    "F8_E4M3": (3, -6, Fraction(448), 7),
}  # fmt: skip


def float_code(value: float, d: int, dtype: str) -> int:
    """The code of a value that is rounded by a draw."""
    mantissa, least, largest, bits = FLOATS[dtype]
    size = min(abs(Fraction(value)), largest)
    exponent = least
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    steps = size / Fraction(2) ** (exponent - mantissa)
    lo = math.floor(steps)
    number = lo + (65536 * (steps - lo) > d + Fraction(1, 2))
    sign = math.copysign(1, value) < 0
    return (sign << bits) + ((exponent - least) << mantissa) + number


def whole_code(value: float, d: int) -> int:
    """The code of a whole number of 8 bits without a zero."""
    q = min(max(Fraction(value), -128), 127)
    return (math.floor(q) + (65536 * (q - math.floor(q)) > d + Fraction(1, 2))) % 256


def by_draw(entry: dict, x: list[float], v: list[float]) -> bytes:
    """The bytes of values that are rounded by draws, of which the page tells how."""
    noise, dtype = entry["noise"], entry["dtype"]
    key = key_bytes(noise["seed"], entry["name"], entry["row"], "rounding")
    draws = list(islice(drawn(key), len(v)))
    if "codes" not in entry:
        codes = [float_code(value, d, dtype) for value, d in zip(v, draws, strict=True)]
        return struct.pack(f"<{len(codes)}H", *codes)
    assert x != v
    q = [round32(value / entry["codes"]) for value in v]
    if dtype == "I8":
        return bytes(whole_code(value, d) for value, d in zip(q, draws, strict=True))
    return bytes(float_code(value, d, dtype) for value, d in zip(q, draws, strict=True))


def grown(entry: dict, x: list[float], table: list[float]) -> bytes:
    """The bytes of a tensor that an entry of the page describes."""
    noise = dict(entry["noise"])
    rounding = noise.pop("rounding", "nearest")
    ((kind, amount),) = (item for item in noise.items() if item[0] != "seed")
    rounded = exactly if entry["dtype"] == "F64" else round32
    draws = islice(drawn(key_bytes(noise["seed"], entry["name"], entry["row"])), len(x))
    if kind == "normal":
        a = rounded(amount * sigma(x, rounded))
        e = [rounded(table[d] * a) for d in draws]
    else:
        a = rounded(amount)
        e = [rounded((d - 32767.5) / 32768 * a) for d in draws]
    v = [rounded(value + noise) for value, noise in zip(x, e, strict=True)]
    scale = Fraction(entry["scale"])
    if scale.numerator != 1:
        v = [rounded(value * scale.numerator) for value in v]
    if scale.denominator != 1:
        v = [rounded(value / scale.denominator) for value in v]
    if rounding == "stochastic":
        return by_draw(entry, x, v)
    if entry["dtype"] == "BF16":
        bits = [struct.unpack("<I", struct.pack("<f", value))[0] for value in v]
        return b"".join(struct.pack("<H", (b + 0x7FFF + (b >> 16 & 1)) >> 16) for b in bits)
    letter = {"F64": "d", "F32": "f", "F16": "e"}[entry["dtype"]]
    return struct.pack(f"<{len(v)}{letter}", *v)


def sigma_values() -> list[float]:
    return [round32((2654435761 * i) % 2**32 / 2**32) for i in range(150_000)]


def tensor_values() -> list[float]:
    return [((7 * i) % 11 - 5) / 8 for i in range(24)]


def test_the_noise_page_is_enough_to_reproduce_its_vectors(table):
    vectors, tensors = map(json.loads, blocks(NOISE_PAGE, "json"))
    shown, deviations, sides = blocks(NOISE_PAGE, "text")
    values = struct.pack("<65536f", *table)
    assert hashlib.sha256(values).hexdigest() in NOISE_PAGE.read_text()
    places = (0, 1, 32767, 32768, 65535)
    assert shown.split() == [struct.pack("<f", table[d]).hex() for d in places]
    assert len(vectors) == 2
    for entry, side in zip(vectors, sides.splitlines(), strict=True):
        key = key_bytes(entry["seed"], entry["name"], entry["row"])
        other = key_bytes(entry["seed"], entry["name"], entry["row"], "rounding")
        assert list(islice(drawn(other), 8)) == list(map(int, side.split()))
        draws = list(islice(drawn(key), 4004))
        assert key.hex() == entry["key"]
        assert draws[:8] == entry["draws"]
        assert draws[4000:] == entry["draws_4000"]
        assert [table[d] for d in draws[:8]] == list(map(round32, entry["normal"]))
        uniform = [(d - 32767.5) / 32768 for d in draws[:8]]
        assert list(map(round32, uniform)) == list(map(round32, entry["uniform"]))
    both = [sigma(sigma_values(), rounded).hex() for rounded in (round32, exactly)]
    assert both == deviations.split()
    dtypes = {entry["dtype"] for entry in tensors}
    assert dtypes == {"F64", "F32", "F16", "BF16", "F8_E4M3", "I8"}
    for entry in tensors:
        assert grown(entry, tensor_values(), table).hex() == entry["bytes"], entry


# The code of moegrow, held against the same page.


def test_the_code_gives_the_vectors_of_the_noise_page(tmp_path):
    import torch
    from safetensors.torch import save_file

    from moegrow.checkpoint.checkpoint import open_checkpoint
    from moegrow.growth import Noise
    from moegrow.kernels.noise import CHUNK, TABLE_DIGEST, Draw, deviation, quantiles
    from moegrow.kernels.perturb import Workspace
    from moegrow.kernels.reader import SourceReader
    from moegrow.kernels.tensor_bytes import blocks as bytes_of
    from moegrow.planning.op import Requantize, perturbed
    from moegrow.planning.plan import Output, Piece
    from moegrow.quant.decoding import Decoding

    vectors, tensors = map(json.loads, blocks(NOISE_PAGE, "json"))
    shown, expected, sides = blocks(NOISE_PAGE, "text")
    assert TABLE_DIGEST in NOISE_PAGE.read_text()
    places = [0, 1, 32767, 32768, 65535]
    assert quantiles()[places].astype("<f4").tobytes().hex() == shown.replace(" ", "").strip()
    for entry, side in zip(vectors, sides.splitlines(), strict=True):
        where = entry["name"], entry["row"]
        drawn = Draw(Noise("normal", 1.0, entry["seed"]), *where, "rounding").levels(0, 8)
        assert drawn.tolist() == list(map(int, side.split()))
        for kind in ("normal", "uniform"):
            draw = Draw(Noise(kind, 1.0, entry["seed"]), *where)
            assert (draw.values(0, 8) == np.array(entry[kind], np.float32)).all()
        later = Draw(Noise("normal", 1.0, entry["seed"]), *where).values(4000, 4)
        assert (later == quantiles()[entry["draws_4000"]]).all()
    for dtype, sigma in zip((np.float32, np.float64), expected.split(), strict=True):
        chunks = np.split(np.array(sigma_values(), dtype), [CHUNK, 2 * CHUNK])
        assert deviation(chunks).hex() == sigma
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    dtypes["BF16"] = torch.bfloat16
    values = torch.tensor(tensor_values(), dtype=torch.float64).reshape(2, 12)
    stored = {name: values.to(dtype) for name, dtype in dtypes.items()}
    stored["F8_E4M3"] = (values * 64).float().to(torch.float8_e4m3fn)
    stored["I8"] = (values * 8).to(torch.int8)
    stored |= {"scale of F8_E4M3": torch.tensor([1 / 64]), "scale of I8": torch.tensor([1 / 8])}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with SourceReader(open_checkpoint(tmp_path)) as source:
        for entry in tensors:
            told = dict(entry["noise"])
            seed, rounding = told.pop("seed"), told.pop("rounding", "nearest")
            ((kind, amount),) = told.items()
            noise = Noise(kind, amount, seed, rounding)
            op = perturbed(noise, Fraction(entry["scale"]))
            if "codes" in entry:
                companions = (("scale", f"scale of {entry['dtype']}"),)
                op = Requantize(Decoding("scaled", companions), noise)
            piece = Piece(entry["dtype"], 0, 2, op)
            output = Output(entry["name"], entry["dtype"], (2, 12), (piece,))
            assert b"".join(bytes_of(source, output, Workspace())).hex() == entry["bytes"], entry
