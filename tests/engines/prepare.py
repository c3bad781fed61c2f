"""Build the models of cases.toml with transformers, and grow each of them by moegrow's command.

    python tests/engines/prepare.py WORK

It runs in moegrow's environment. WORK/MODEL/ then has a checkpoint per operation, and beside it
what transformers answers for it.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import stored_formats
import tiny
from measure import MADE, prompts, save
from transformers import AutoConfig
from with_transformers import answer, versions

CASES = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())


def build(name: str, folder: Path) -> None:
    """Save the model of that name in cases.toml to `folder`, in float32 or in its format."""
    model = CASES["models"][name]
    config = json.loads((tiny.CONFIGS / f"{model.get('type', name)}.json").read_text())
    config |= {key: value for key, value in CASES["sizes"].items() if config.get(key) is not None}
    config |= model.get("config", {})
    tiny.save(config, folder, shard_size="20MB")
    path = folder / "config.json"
    saved = published(json.loads(path.read_text()), config) | model.get("saved", {})
    saved = {key: value for key, value in saved.items() if value != ""}
    path.write_text(json.dumps(saved, indent=2))
    if "format" in model:
        stored_formats.FORMATS[model["format"]](folder)


def published(saved: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A config as models are published: transformers spells some keys otherwise since version 5."""
    spelled = {new: old for old, new in type(AutoConfig.for_model(**config)).attribute_map.items()}
    saved = {
        spelled[key] if spelled.get(key) in config else key: value for key, value in saved.items()
    }
    rope = saved.get("rope_parameters", {})
    if "rope_theta" in rope:  # else they are several, by kinds of layers, and published so
        del saved["rope_parameters"]
        saved["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            saved["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        saved["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return saved


def commands(name: str) -> dict[str, tuple[str, str]]:
    """The command of each operation on a model, and what its result is held against.

    The source is held against transformers.
    """
    periods = CASES["models"][name].get("periods")
    return {"source": ("", "transformers")} | {
        operation: (told["command"].format(periods=periods), told["expects"])
        for operation, told in CASES["operations"].items()
        if periods or "{periods}" not in told["command"]
    }


def prepare(name: str, work: Path) -> None:
    """Everything of one model."""
    folder = work / name
    folder.mkdir(parents=True)
    (work / MADE).write_text(json.dumps({"moegrow": version("moegrow")} | versions()))
    build(name, folder / "source")
    told: dict[str, Any] = commands(name)
    for operation, (command, _) in told.items():
        grown = folder / operation
        if command:
            verb, *options = shlex.split(command)
            done = subprocess.run(
                [sys.executable, "-m", "moegrow", verb, folder / "source", "-o", grown, *options],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                (folder / f"{operation}.refused").write_text(done.stderr)
                continue
        vocabulary = json.loads((grown / "config.json").read_text())["vocab_size"]
        save(answer(grown, prompts(vocabulary)), folder / f"{operation}.reference.npz")
    (folder / "case.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build and grow what is tried in the engines.")
    parser.add_argument("work", type=Path, help="a folder for them")
    parser.add_argument("--models", help="only these, as in cases.toml, separated by ;")
    given = parser.parse_args()
    for name in given.models.split(";") if given.models else CASES["models"]:
        print(name, file=sys.stderr)
        prepare(name, given.work)
