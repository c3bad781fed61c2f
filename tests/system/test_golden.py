"""The bytes of results and the lines of plans stay what they were when golden.json was written.

Every tensor of every source holds bytes that are made from its name by SHAKE-128, so that no random
number generator, library version or processor has a part in them. After a change that is meant to
change results, `python tests/system/test_golden.py` writes golden.json anew.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import quantised
import tiny

from moegrow.checkpoint.side_files import PLAN

GOLDEN = Path(__file__).with_name("golden.json")
FORMATS = tuple(quantised.FORMATS)
FLOATS = {"F32": np.float32, "F16": np.float16}
# Codes that stand for NaN, and what is written in their place.
NAN_CODES = {"F8_E4M3": {0x7F: 0x3F, 0xFF: 0xBF}}
SCALES = ("_scale", "scale_inv", "_scale_2", "scales", "_blocks_scale", "global_scale")


class Case(NamedTuple):
    """A source, and the arguments of the commands that grow it in one pipe."""

    source: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}: {' | '.join(self.commands)}"


def cases() -> Iterator[Case]:
    for name in FORMATS:
        yield Case(name, ("depth --new-layers identity", "width --noise 0 --top-k keep"))
        yield Case(name, ("width --noise 0.01 --rounding stochastic --seed 3",))
        yield Case(name, ("convert --dtype bf16",))
    for dtype in ("float32", "bfloat16", "float16"):
        yield Case(f"qwen3_moe {dtype}", ("width --experts 3x --noise 0.01",))
        yield Case(f"qwen3_moe {dtype}", ("width --preset upcycling --seed 5",))
    yield Case("qwen3_moe bfloat16", ("depth --mode stack", "width --experts 12 --noise 0.1"))
    yield Case("qwen3_moe bfloat16", ("depth --mode expand --every 2", "convert --dtype fp16"))
    yield Case("qwen3_moe bfloat16", ("depth --layers 0,1,1,3,2",))
    yield Case("qwen3_moe bfloat16", ("width --noise 0.01 --rounding stochastic",))
    yield Case("qwen3_moe float32", ("depth --mode overlap --drop 1", "convert --dtype bf16"))
    for family in ("deepseek_v3", "gpt_oss", "mixtral", "nemotron_h", "jetmoe", "granitemoe",
                   "longcat_flash", "qwen3_vl_moe", "gemma4"):  # fmt: skip
        yield Case(f"{family} bfloat16", ("depth", "width --noise 0.01"))


CASES = {str(case): case for case in cases()}


def content(name: str, dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The bytes of a tensor: signed multiples of 1/256 for floats, any bytes for codes."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.frombuffer(hashlib.shake_128(name.encode()).digest(max(count, 1)), np.uint8)[:count]
    values = (2.0 * raw - 255) / 256
    if name.endswith(SCALES):
        values = (1.0 + raw) / 4096
    if dtype in FLOATS:
        return values.astype(FLOATS[dtype]).tobytes()
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype == "F8_E8M0" or (dtype == "U8" and name.endswith(SCALES)):
        return (110 + raw % 16).astype(np.uint8).tobytes()
    codes = np.frombuffer(hashlib.shake_128(name.encode()).digest(max(size, 1)), np.uint8)[:size]
    codes = codes.copy()
    if dtype.startswith("F8") and name.endswith(SCALES):
        codes = codes % 0x40 + 0x10
    for code, other in NAN_CODES.get(dtype, {}).items():
        codes[codes == code] = other
    return codes.tobytes()


def refill(folder: Path) -> None:
    """Put the same bytes into every tensor of codes and floats, on any machine."""
    for file in sorted(folder.glob("*.safetensors")):
        whole = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(whole[:8], "little")
        for name, spec in json.loads(whole[8:start]).items():
            if name == "__metadata__" or spec["dtype"] in ("I64", "BOOL") or "g_idx" in name:
                continue
            first, last = (start + offset for offset in spec["data_offsets"])
            whole[first:last] = content(name, spec["dtype"], tuple(spec["shape"]), last - first)
        file.write_bytes(whole)


def built(name: str, folder: Path, checkpoint: Callable[..., Path]) -> Path:
    """The source of a case in `folder`, its weights filled anew."""
    import torch

    if name in FORMATS:
        found = quantised.quantised(quantised.plain(checkpoint, name), folder, name)
    else:
        family, dtype = name.split()
        found = tiny.build(family, folder / "source", dtype=getattr(torch, dtype))
    refill(found)
    return found


def digests(result: Path) -> dict[str, str]:
    """Digests of the tensors of a result, and of the lines of the plan that lies in it."""
    header, *lines = (result / PLAN).read_text().splitlines()
    # What a library writes into a config, and sentences, may change from release to release.
    kept = {
        key: None if key in ("source", "steps", "commands", "config", "files") else value
        for key, value in json.loads(header).items()
    }
    found = hashlib.sha256()
    every: dict[str, tuple[str, list[int], bytes]] = {}
    for file in result.glob("*.safetensors"):
        whole = file.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        for name, spec in json.loads(whole[8:start]).items():
            if name != "__metadata__":
                first, last = (start + offset for offset in spec["data_offsets"])
                every[name] = spec["dtype"], spec["shape"], whole[first:last]
    for name, (dtype, shape, raw) in sorted(every.items()):
        found.update(f"{name} {dtype} {shape} ".encode() + hashlib.sha256(raw).digest())
    plan = hashlib.sha256("\n".join([json.dumps(kept), *lines]).encode()).hexdigest()
    return {"tensors": found.hexdigest(), "plan": plan}


def grow(case: Case, source: Path, result: Path, run: Callable[..., str]) -> dict[str, str]:
    """Grow a source by the commands of a case, each but the last one giving its plan on."""
    *planning, last = (command.split() for command in case.commands)
    given, plan = [source], ""
    for verb, *options in planning:
        plan = run(verb, *options, *given, "--plan", stdin=plan)
        given = []
    verb, *options = last
    run(verb, *options, *given, "-o", result, stdin=plan)
    return digests(result)


@pytest.fixture(scope="module")
def sources(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The source of a name, built the first time that it is asked for."""
    known: dict[str, Path] = {}

    def source(name: str) -> Path:
        if name not in known:
            known[name] = built(name, tmp_path_factory.mktemp("golden"), checkpoint)
        return known[name]

    return source


@pytest.mark.parametrize("name", sorted(CASES))
def test_bytes_and_plans_are_as_recorded(name, sources, run, tmp_path):
    case = CASES[name]

    def output(*arguments: object, stdin: str = "") -> str:
        return run(*arguments, stdin=stdin).stdout

    found = grow(case, sources(case.source), tmp_path / "grown", output)
    assert found == json.loads(GOLDEN.read_text())[name]


def test_every_recorded_case_is_tried():
    assert json.loads(GOLDEN.read_text()).keys() == CASES.keys()
    assert len(CASES) >= 40


def record() -> None:
    """Write golden.json from what the installed moegrow does."""

    def command(*arguments: object, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "moegrow", *map(str, arguments)],
            input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:

        def checkpoint(family: str, **sizes: int) -> Path:
            place = Path(folder) / f"plain-{family}-{len(sizes)}" / family
            return place if place.exists() else tiny.build(family, place, **sizes)

        known: dict[str, Path] = {}
        found = {}
        for number, (name, case) in enumerate(sorted(CASES.items())):
            if case.source not in known:
                place = Path(folder) / f"source-{number}"
                place.mkdir()
                known[case.source] = built(case.source, place, checkpoint)
            result = Path(folder) / f"result-{number}"
            found[name] = grow(case, known[case.source], result, command)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    record()
