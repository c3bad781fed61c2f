"""A long run of damaged files, guided by which lines of moegrow they reach (atheris; Linux).

    pip install atheris
    python tests/fuzz/guided.py config FOLDER --cases 200000

FOLDER gets the seeds, the cases that reached something new, and what moegrow could not take. A
run goes on where the last one ended. The targets are header, index, config, plan and family.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import atheris  # noqa: E402
import heron  # noqa: E402
import mutations  # noqa: E402
import tiny  # noqa: E402

with atheris.instrument_imports(include=["moegrow"]):
    import targets

    import moegrow
    from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
    from moegrow.checkpoint.store import CONFIG, INDEX
    from moegrow.planning.plan_lines import to_lines

# One of each way in which configs speak of layers and routers choose experts.
TYPES = (
    "qwen3_moe", "deepseek_v3", "llama4_text", "gemma4_text", "zaya", "doge", "glm_moe_dsa",
    "longcat_flash", "nemotron_h", "jamba", "deepseek_v4", "minimax", "gpt_oss", "ernie4_5_moe",
)  # fmt: skip

Damage = Callable[[str, Random], str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold moegrow against damaged files.")
    parser.add_argument("target", choices=["header", "index", "config", "plan", "family"])
    parser.add_argument("folder", type=Path, help="where the cases are kept")
    parser.add_argument("--cases", type=int, default=100_000, help="how many to try (100,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (1)")
    arguments = parser.parse_args()
    corpus = arguments.folder / arguments.target
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as workspace:
        run = {"header": _header, "index": _index, "config": _config, "plan": _plan}.get(
            arguments.target, _family
        )
        try_one, seeds, damage = run(Path(workspace))
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            return damage(data, Random(seed))[:most]

        crashes = f"-artifact_prefix={arguments.folder}/{arguments.target}-"
        longest = {"header": 2000, "index": 6000, "config": 8000}.get(arguments.target, 200_000)
        limits = [f"-max_len={longest}", "-timeout=30", "-rss_limit_mb=2000", "-len_control=0"]
        words = [sys.argv[0], str(corpus), crashes, *limits]
        words += [f"-runs={arguments.cases}", f"-seed={arguments.seed}", "-print_final_stats=1"]
        atheris.Setup(words, try_one, custom_mutator=mutate)
        atheris.Fuzz()


Target = tuple[Callable[[bytes], object], list[bytes], Callable[[bytes, Random], bytes]]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _numbered(damage: Damage) -> Callable[[bytes, Random], bytes]:
    """Damage to the text behind the byte that says which checkpoint it goes with."""
    return lambda data, random: (
        data[:1] + damage(_text(data[1:]), random).encode("utf-8", "replace")
    )


def _source(folder: Path, model_type: str = "qwen3_moe") -> Path:
    """A checkpoint as small as can be: most of a case's time goes into its tensors."""
    return tiny.build(model_type, folder / model_type, shard_size="5GB")


def _header(folder: Path) -> Target:
    small = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F4", "shape": [4], "data_offsets": [24, 26]},
        "c": {"dtype": "BF16", "shape": [], "data_offsets": [26, 28]},
        "d": {"dtype": "I64", "shape": [0, 5], "data_offsets": [28, 28]},
    }
    raw = json.dumps(small).encode()
    seeds = [len(raw).to_bytes(8, "little") + raw + bytes(28)]
    return lambda data: targets.header(data, folder), seeds, mutations.damaged_header


def _index(folder: Path) -> Target:
    small = {"num_hidden_layers": 1, "num_experts": 2, "hidden_size": 8}
    source = tiny.build("qwen3_moe", folder / "qwen3_moe", shard_size="2KB", **small)
    seeds = [(source / INDEX).read_bytes()]
    return (
        lambda data: targets.index(_text(data), source),
        seeds,
        lambda data, random: _raw(mutations.damaged_json(_text(data), random)),
    )


def _config(folder: Path) -> Target:
    sources = [_source(folder, model_type) for model_type in TYPES]
    opened = list(map(open_checkpoint, sources))
    seeds = [
        bytes([number]) + (source / CONFIG).read_bytes() for number, source in enumerate(sources)
    ]

    def try_one(data: bytes) -> None:
        targets.config(_text(data[1:]), opened[(data or b"\0")[0] % len(opened)])

    return try_one, seeds, _numbered(mutations.damaged_json)


def _plan(folder: Path) -> Target:
    source = _source(folder)
    heron_source = heron.build(folder / "heron")
    family = folder / "heron.toml"
    family.write_text(heron.family_text())
    plans = [
        moegrow.width(moegrow.depth(source, new_layers="identity")),
        moegrow.width(source, preset="upcycling"),
        moegrow.width(heron_source, family=family),
        moegrow.plan(source),
    ]
    seeds = ["\n".join(to_lines(plan)).encode() for plan in plans]
    return (
        lambda data: targets.plan(_text(data), folder),
        seeds,
        lambda data, random: mutations.damaged_lines(_text(data), random).encode(
            "utf-8", "replace"
        ),
    )


def _family(folder: Path) -> Target:
    opened: list[Checkpoint] = []
    seeds = []
    texts = {"heron": heron.family_text()}
    opened.append(open_checkpoint(heron.build(folder / "heron")))
    for model_type in TYPES[:8]:
        from moegrow.families.registry import _index

        texts[model_type] = _index()[model_type]
        opened.append(open_checkpoint(_source(folder, model_type)))
    seeds = [bytes([number]) + text.encode() for number, text in enumerate(texts.values())]

    def try_one(data: bytes) -> None:
        targets.family(_text(data[1:]), opened[(data or b"\0")[0] % len(opened)])

    return try_one, seeds, _numbered(mutations.damaged_toml)


if __name__ == "__main__":
    main()
