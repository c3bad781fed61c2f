"""Hold an engine's answers for grown checkpoints against its answers for their sources.

The answers are log-probabilities of the whole vocabulary after every token of two prompts, and the
tokens that the engine continues with. This file needs numpy alone: it runs in every engine's
environment. Scripts import their engine where they answer, which a child process does: engines may
end the process.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EQUAL = 1e-5  # nats: what float32 leaves of the same sum, taken in another order
CONTINUED = 8  # tokens
ENDED = "the process ended"
MADE = "made_with.json"  # beside the models: the versions that prepare.py ran with


class Answers(NamedTuple):
    """What an engine says: log-probabilities [token, word] of each prompt, and the continuation.

    Row i is what it says after token i. There is none after the last: not all engines give it.
    """

    logprobs: list[np.ndarray]
    continued: list[list[int]]


Answer = Callable[[Path, list[list[int]]], Answers]


def prompts(vocabulary: int) -> list[list[int]]:
    """Two prompts, longer than the sliding windows of cases.toml."""
    draw = np.random.default_rng(7)
    return [draw.integers(3, vocabulary, length).tolist() for length in (48, 80)]


def logprobs(logits: np.ndarray) -> np.ndarray:
    """The log-probabilities of logits [token, word], in float64."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def greedy(last: Callable[[list[int]], np.ndarray], prompt: list[int]) -> list[int]:
    """The tokens that go on with a prompt, where `last` gives the logits after its last token."""
    tokens = list(prompt)
    for _ in range(CONTINUED):
        tokens.append(int(np.argmax(last(tokens))))
    return tokens[len(prompt) :]


def distance(ours: Answers, theirs: Answers) -> float:
    """The largest difference of two log-probabilities, in nats."""
    pairs = zip(ours.logprobs, theirs.logprobs, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def save(answers: Answers, path: Path) -> None:
    parts = {f"logprobs{i}": part for i, part in enumerate(answers.logprobs)}
    np.savez(path, continued=np.array(answers.continued), **parts)


def load(path: Path) -> Answers:
    with np.load(path) as found:
        parts = [found[f"logprobs{i}"] for i in range(len(found) - 1)]
        return Answers(parts, found["continued"].tolist())


def main(
    engine: str,
    answer: Answer,
    versions: Callable[[], Mapping[str, str]],
    *,
    survives_errors: bool = True,
) -> None:
    """The command line of an engine's script: try what prepare.py has made, print JSON lines."""
    parser = argparse.ArgumentParser(description=f"Try grown checkpoints in {engine}.")
    parser.add_argument("work", type=Path, help="the folder that prepare.py has filled")
    parser.add_argument("--models", help="only these, as in cases.toml, separated by ;")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # the child
    parser.add_argument("--save", action="store_true", help="put the lines into results/ as well")
    given = parser.parse_args()
    names = [case.parent.name for case in sorted(given.work.glob("*/case.json"))]
    folders = [given.work / name for name in (given.models.split(";") if given.models else names)]
    if given.answer:
        _answer(engine, answer, folders, survives_errors=survives_errors)
        return
    _ask(engine, folders)
    head = {
        "engine": engine,
        "date": time.strftime("%Y-%m-%d"),
        "versions": dict(versions()),
        "made with": json.loads((given.work / MADE).read_text()),
    }
    found = [head, *(row for folder in folders for row in rows(engine, folder))]
    for line in found:
        print(json.dumps(line))
    if given.save:
        script = Path(sys.argv[0]).stem.removeprefix("with_")
        keep(found, Path(__file__).parent / "results" / f"{script}.jsonl")


def runs(path: Path) -> list[list[dict[str, Any]]]:
    """The runs in a file of results: the line of each, and one for each of its checkpoints."""
    found: list[list[dict[str, Any]]] = []
    for line in map(json.loads, path.read_text().splitlines() if path.exists() else ()):
        if "engine" in line:
            found.append([])
        found[-1].append(line)
    return found


def keep(run: list[dict[str, Any]], path: Path) -> None:
    """Put a run into a file of results, in the place of what earlier runs had of its models.

    It joins an earlier run of the same day and versions.
    """
    head, *rows = run
    models = {row["model"] for row in rows}
    kept = [
        [earlier, *(row for row in rest if row["model"] not in models)]
        for earlier, *rest in runs(path)
    ]
    same = next((one for one in kept if one[0] == head), None)
    if same is None:
        kept.append(run)
    else:
        same += rows
    lines = [line for one in kept if len(one) > 1 for line in one]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _answer(engine: str, answer: Answer, folders: list[Path], *, survives_errors: bool) -> None:
    """Ask for what has no answer yet, but for what was made of a source that is refused."""
    for folder, name in _checkpoints(folders):
        answers, error = _files(engine, folder, name)
        if answers.exists() or error.exists() or _files(engine, folder, "source")[1].exists():
            continue
        error.write_text(ENDED)
        config = json.loads((folder / name / "config.json").read_text())
        try:
            found = answer(folder / name, prompts(config["vocab_size"]))
        except Exception as problem:
            where = traceback.extract_tb(problem.__traceback__)[-1]
            said = str(problem) or where.line  # an assertion often says nothing else
            error.write_text(_brief(f"{type(problem).__name__}: {said}", folder))
            if not survives_errors:
                raise
        else:
            save(found, answers)
            error.unlink()


def _ask(engine: str, folders: list[Path]) -> None:
    """Run the script as a child process, again after each checkpoint that it fails on."""
    for folder, name in _checkpoints(folders):
        for old in _files(engine, folder, name):
            old.unlink(missing_ok=True)
    for _ in range(1 + sum(1 for _ in _checkpoints(folders))):
        done = subprocess.run(
            [sys.executable, *sys.argv, "--answer"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        sys.stderr.write(done.stdout)
        if not done.returncode:
            return
        for folder, name in _checkpoints(folders):
            error = _files(engine, folder, name)[1]
            if error.exists() and error.read_text() == ENDED:
                last = [line for line in done.stdout.splitlines() if line][-1:]
                error.write_text(_brief(f"{ENDED} ({done.returncode}): {''.join(last)}", folder))


def _checkpoints(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each checkpoint: the folder of its model, and the operation that made it."""
    for folder in folders:
        for name in json.loads((folder / "case.json").read_text()):
            if (folder / name / "config.json").exists():
                yield folder, name


def rows(engine: str, folder: Path) -> Iterator[dict[str, Any]]:
    """What became of each checkpoint of a model."""
    for name, (command, expects) in json.loads((folder / "case.json").read_text()).items():
        row = {"model": folder.name, "operation": name, "command": command}
        answers, error = _files(engine, folder, name)
        refused = folder / f"{name}.refused"
        reference = folder / f"{name}.reference.npz"
        source = _files(engine, folder, "source")[0]
        expected = source if expects == "source" else reference
        if refused.exists():
            yield row | {"outcome": "not grown", "message": _brief(refused.read_text(), folder)}
        elif error.exists():
            yield row | {"outcome": "refused", "message": error.read_text()}
        elif not answers.exists() or not expected.exists():
            yield row | {"outcome": "not tried", "message": ""}
        else:
            right, found = load(expected), load(answers)
            yield row | {
                "outcome": "ran",
                "expects": expects,
                "nats": float(f"{distance(found, right):.2g}"),
                "same tokens": found.continued == right.continued,
            }


def _files(engine: str, folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.{engine}.npz", folder / f"{name}.{engine}.error"


def _brief(text: str, folder: Path) -> str:
    """An engine's message in one line, without the paths of this machine."""
    text = text.replace(f"{folder.absolute()}/", "").replace(f"{folder}/", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ".join(lines)
    return line if len(line) <= 200 else f"{line[:197]}..."
