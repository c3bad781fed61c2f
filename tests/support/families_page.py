"""Make docs/families.md: what growth does to every family, and what was measured.

`python tests/support/families_page.py` measures anew, in some minutes, and writes the page;
test_families_page.py holds the page against the families as they are.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import tiny
from repository import DOCS

import moegrow
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.families.registry import find_family, known_types
from moegrow.families.schema import lookup
from moegrow.planning import serving
from moegrow.planning.open_source import load

PAGE = DOCS / "families.md"
MEASURED = Path(__file__).parent / "measured.json"
TYPES = sorted(path.stem for path in tiny.CONFIGS.glob("*.json"))

# Names under which the same families are known too.
ALIASES = {
    "dots3_note": "dots3_note_text",
    "ernie4_5_vl_moe_text": "ernie4_5_vl_moe",
    "glm4v_moe_text": "glm4v_moe",
    "glm5_next_text": "glm5_next",
    "inkling2": "inkling2_text",
    "kimi_k2": "deepseek_v3",
    "mistral3": "mistral4",
    "mistral_large4_text": "mistral_large4",
    "muse_spark_text": "muse_spark",
    "qwen3_omni_moe": "qwen3_omni_moe_thinker",
    "qwen3_omni_moe_text": "qwen3_omni_moe_thinker",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "qwen4_exp": "qwen4_exp_text",
    "step3p5": "step3p7",
}

INTRO = """\
# Families

<!-- Made by tests/support/families_page.py; a test keeps it current. -->

A family is a `model_type` of config.json. Each is described by a file in `moegrow/families/`,
which files of a kind share; [adding a family](adding-a-family.md) says how to write one.

For every family a tiny checkpoint was made by transformers, grown by the command, and loaded by
transformers again: nothing was missing, unexpected or of another shape. *Width* says what `width
--experts 2x` does beside copying experts and router rows and raising top-k. *Depth* says which
keys of the config `depth --times 2x` changes beside the number of layers, and whether layers that
begin as the identity (`--new-layers identity`) are possible. The last column is what was measured
in float32: the largest difference of the logits between source and result, in units of their
standard deviation, for width without noise and for identity layers. Wrong results differ by 0.2
and more. Depth by copies has no source to be equal to: it was held against a model deepened in
memory, layer by layer.

*Whole periods* marks types of which some serving engines compute from a layer's number what kind
of layer it is: they want [groups of whole periods](method.md#kinds-of-layers), and the summary of
a plan says which.

"""


def factor(model_type: str) -> str:
    """By how much experts are copied here: a grid of product keys grows by squares."""
    return "4x" if find_family(model_type).router.kind == "grid" else "2x"


def group(model_type: str) -> int:
    """The smallest group of layers that the tiny model's config can repeat."""
    return 4 if model_type == "jamba" else 1


def addressed(model_type: str) -> int:
    """How many of the tiny model's first layers another part of it addresses by number."""
    first = find_family(model_type).depth.addressed
    config = json.loads((tiny.CONFIGS / f"{model_type}.json").read_text())
    return first.count(config) if first else 0


def identity(source: Path) -> moegrow.Plan:
    """The plan of a checkpoint with layers that begin as the identity."""
    kept = addressed(source.name)
    return moegrow.depth(
        source, group=group(source.name), keep_first=kept or None, new_layers="identity"
    )


def page(build: Callable[[str], Path]) -> str:
    """The text of docs/families.md; `build` makes the tiny checkpoint of a type."""
    measured = json.loads(MEASURED.read_text())
    lines = ["| model type | file | width | depth | measured |", "|---|---|---|---|---|"]
    for name in TYPES:
        source = build(name)
        numbers = measured[name]
        told = " / ".join(numbers[key] for key in ("width", "identity") if key in numbers)
        file = find_family_file(name)
        lines.append(f"| {name} | {file} | {_width(source)} | {_depth(source)} | {told} |")
    lines += ["", "The same under another name:", ""]
    lines += [f"- `{alias}` as `{name}`" for alias, name in sorted(ALIASES.items())]
    assert set(known_types()) == set(TYPES) | set(ALIASES)
    return INTRO + "\n".join(lines) + "\n"


def find_family_file(model_type: str) -> str:
    """The name of the file that describes a type."""
    folder = Path(moegrow.__file__).parent / "families"
    for path in sorted(folder.glob("*.toml")):
        if f'"{model_type}"' in path.read_text().split("]")[0]:
            return path.stem
    raise AssertionError(model_type)


def _width(source: Path) -> str:
    try:
        (step,) = moegrow.width(source, experts=factor(source.name), noise=0).steps
    except MoegrowError as error:
        return f"refused: {error.message.split(': ', 1)[1]}"
    assert step.preserves_function
    by_squares = " (only by squares: ×4, ×9)" if factor(source.name) == "4x" else ""
    return "; ".join([f"exact{by_squares}", *map(str, step.compensations)])


def _depth(source: Path) -> str:
    size = group(source.name)
    plan, layout = load(moegrow.depth(source, group=size))
    old, new = layout.config, json.loads(plan.config)
    for key in layout.nested:
        new = new[key]
    count = {*layout.family.config.layers, *layout.family.config.doubled_layers}
    changed = sorted(key for key in new if new[key] != old.get(key) and key not in count)
    cells = [f"`{key}`" for key in changed]
    if size > 1:
        cells.append(f"only by groups (here `--group {size}`), for its rules are periodic")
    cells += map(str, plan.steps[0].notes[1:])
    why, kept = layout.family.depth.identity_is_not, addressed(source.name)
    told = f"identity layers with `--keep-first {kept}`" if kept else "identity layers"
    cells.append(f"no identity layers: {why}" if why else told)
    if engines := numbering(layout):
        cells.append(f"whole periods for {', '.join(engines)}")
    return "; ".join(cells)


def numbering(layout: Layout) -> list[str]:
    """The engines that compute kinds of a model's layers from their numbers."""
    found = [
        engine
        for kinds in serving.facts().kinds
        if layout.family.name in kinds.types and kinds.rule and not kinds.unless
        if not kinds.rule.when or lookup(layout.config, kinds.rule.when)
        for engine in kinds.engines
    ]
    return [engine for engine in serving.facts().engines if engine in found]


def measure(name: str, folder: Path) -> dict[str, str]:
    """The differences of a type, rounded up to a power of ten: they are rounding noise."""
    source = tiny.build(name, folder / name)
    reference = tiny.logits(source)
    found = {}
    for key, grow in (
        ("width", lambda: moegrow.width(source, experts=factor(name), noise=0)),
        ("identity", lambda: identity(source)),
    ):
        try:
            moegrow.apply(grow(), folder / key)
        except MoegrowError:
            continue
        difference = tiny.distance(reference, tiny.logits(folder / key))
        found[key] = "0" if difference == 0 else f"{difference:.0e}"
    return found


if __name__ == "__main__":
    results = {}
    for name in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, Path(folder))
    MEASURED.write_text(json.dumps(results, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(lambda name: tiny.build(name, Path(folder) / name)))
