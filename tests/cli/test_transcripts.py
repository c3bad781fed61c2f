"""What each command prints, word for word: `python tests/cli/test_transcripts.py` records it anew.

Other tests hold values and kinds. A change of wording shows here, and nowhere else.
"""

import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "support")]

import forks

from moegrow.cli.demo import make_checkpoint

HERE = Path(__file__).parent / "transcripts"
DAMAGE = "damage "  # not a command: the last byte of a file is changed

# The lines of each transcript. They run in a folder with a small checkpoint `ckpt`.
SESSIONS = {
    "depth": [
        "depth ckpt --mode interpose --no-reflink -o deep",
        "depth ckpt --mode stack --times 2x --new-layers identity --dry-run",
        "depth ckpt --layers 0,1,1,2 --dry-run -v",
    ],
    "width": [
        "width ckpt --experts 2x --noise 0.01 --no-reflink -o wide",
        "width ckpt --experts 12 --noise 0 --dry-run",
        "width ckpt --preset upcycling --top-k keep --dry-run",
    ],
    "convert": ["convert ckpt --dtype bf16 --no-reflink -o half"],
    "apply": [
        "depth ckpt --plan | apply --no-reflink -o deep",
        "depth ckpt --plan | apply --no-reflink -o deep",
        "depth ckpt --plan | width --noise 0 --plan | apply --dry-run -v",
    ],
    "run": ["run llama-pro ckpt --dry-run", "run orthogonal ckpt --no-reflink -o grown"],
    "recipes": ["recipes", "recipes solar"],
    "inspect": ["inspect ckpt", "inspect ckpt --values", "width ckpt --plan | inspect -v"],
    "verify": [
        "width ckpt --no-reflink -q -o wide",
        "verify wide",
        "verify wide --noise",
        "damage wide/tokenizer.json",
        "damage wide/model-00001-of-00001.safetensors",
        "verify wide",
    ],
    "diff": ["depth ckpt -q -o deep", "diff ckpt deep", "diff ckpt ckpt"],
    "norms": ["norms ckpt", "norms ckpt --seams"],
    "map": [
        "depth ckpt --mode stack --plan | width --noise 0.01 --plan | map",
        "depth ckpt --layers 0,1,1,2 --new-layers identity --plan | map",
        "width ckpt --experts 12 --noise 0 --plan | map",
    ],
    "advise": ["advise ckpt", "advise ckpt --tokens 1T"],
    "report": ["width ckpt --no-reflink -q -o wide", "report wide --output page.html"],
    "demo": ["demo"],
    "errors": [
        "depth nothing",
        "depth ckpt --mode stak",
        "depth ckpt --nois 1",
        "grow ckpt",
        "width ckpt --experts 2y",
        "width ckpt --preset upcyclin",
        "width ckpt --top-k 99",
        "apply ckpt",
        "verify ckpt",
        "convert ckpt",
        "run upcyclin ckpt",
    ],
}

# What is not the same each time, or on each machine.
CHANGING = [
    (r"in [\d.]+ s \(\S+ \w+/s\)", "in TIME (SPEED)"),
    (r"peak memory [\d.]+ \w+", "peak memory SIZE"),
    (r"needed, [\d.]+ \w+ free", "needed, SIZE free"),
    (r"\b[\d.]+ s\b", "TIME"),
]


def transcript(nursery, name, folder):
    """The lines of a session, each with what it prints; a mark stands before standard error."""
    make_checkpoint(folder / "ckpt")
    return "\n".join(text for line in SESSIONS[name] for text in printed(nursery, line, folder))


def printed(nursery, line, folder):
    if line.startswith(DAMAGE):
        path = folder / line.removeprefix(DAMAGE)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        yield from (f"# the last byte of {path.name} is changed", "")
        return
    given = ""
    yield "$ " + " | ".join(f"moegrow {part}" for part in line.split(" | "))
    for part in line.split(" | "):
        done = nursery.begin(*shlex.split(part), stdin=given, folder=folder).end()
        given = done.stdout
        yield from (f"! {told}".rstrip() for told in usual(done.stderr, folder))
        if done.returncode:
            yield f"# exit code {done.returncode}"
    yield from usual(given, folder)
    yield ""


def usual(text, folder):
    """The lines of a text, with one spelling for what changes from run to run."""
    text = text.replace(str(folder.resolve()), "/models").replace(str(folder), "/models")
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text)
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("name", SESSIONS)
def test_a_command_prints_its_transcript(nursery, name, tmp_path):
    assert transcript(nursery, name, tmp_path) == (HERE / f"{name}.txt").read_text()


def test_every_command_has_a_transcript(nursery, tmp_path):
    helped = nursery.begin("--help", folder=tmp_path).end().stdout
    commands = re.findall(r"^  ([a-z]+)  ", helped.partition("Commands:")[2], re.M)
    assert len(commands) > 10
    assert set(commands) == SESSIONS.keys() - {"errors"}
    assert {path.stem for path in HERE.iterdir()} == SESSIONS.keys()


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    with forks.Nursery() as recording:
        for session in sys.argv[1:] or SESSIONS:
            with tempfile.TemporaryDirectory() as place:
                text = transcript(recording, session, Path(place))
            (HERE / f"{session}.txt").write_text(text)
